"""Books the life of one request, and makes its receipt.

Every instant is booked once. A decode step is one lap after another, so its hops simply add up. The
chunks of a long prompt overlap in the pipeline; there an instant belongs to the earliest chunk
still under way, and a hop that began before is booked in proportion to the part of it that lies
after. What no hop explains is `other`, never hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from edgeserve.timing.hop import Hop, Lap, Split

ROUND_DIGITS = 4
"""Receipts are in milliseconds: 0.1 microsecond is below what any clock here resolves."""


@dataclass(frozen=True, kw_only=True)
class StageLabel:
    """How a receipt names a stage."""

    stage: int
    worker: str
    layers: tuple[int, int]


class Booking(NamedTuple):
    """One token's interval, by kind and by stage."""

    start_s: float
    end_s: float
    split: Split
    stages: tuple[Split, ...]
    laps: int
    """Frames that it took; none for a drafted token, which came with the one before it."""

    @property
    def total_s(self) -> float:
        return self.end_s - self.start_s


@dataclass(kw_only=True)
class Ledger:
    """Filled by the driver; times are the gateway's clock."""

    labels: tuple[StageLabel, ...]
    received_s: float
    """When the request came in, before it was tokenized."""
    prompt_tokens: int
    queued_s: float = 0.0
    """Spent in the scheduler's queue, waiting for pages or a place."""
    cached_tokens: int = 0
    """Of the prompt: their keys and values were there already."""
    _laps: list[Lap] = field(default_factory=list)
    _tokens: list[tuple[float, tuple[Lap, ...]]] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """How many came out."""
        return len(self._tokens)

    def token_s(self, index: int) -> float:
        """When a token came out; -1 is the newest."""
        return self._tokens[index][0]

    def lap(self, lap: Lap) -> None:
        """A frame that held some of the sequence's tokens came back."""
        self._laps.append(lap)

    def token(self, done_s: float) -> None:
        """A token came out, of the laps since the last one. Booked when the receipt is made."""
        self._tokens.append((done_s, tuple(self._laps)))
        self._laps.clear()

    def receipt(self, finished_s: float, tokens: int | None = None) -> dict[str, Any]:
        """The RECEIPT of docs/timing.md.

        `finished_s` is when the answer's last piece was ready; `tokens` leaves out those generated
        after a stop string was found.
        """
        bookings = self._bookings(tokens)
        first_end_s = bookings[0].end_s if bookings else finished_s
        prompt = bookings[:1] or self._without_tokens()
        prefill = {
            "tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            **_phase(first_end_s - self._prefill_start_s, prompt),
        }
        decode = {
            "tokens": max(0, len(bookings) - 1),
            "laps": sum(each.laps > 0 for each in bookings[1:]),
            **_phase(finished_s - first_end_s, bookings[1:]),
        }
        stages = _stages(self.labels, [*prompt, *bookings[1:]])
        return {
            "total_ms": _ms(finished_s - self.received_s),
            "queue_ms": _ms(self.queued_s),
            "prefill": prefill,
            "decode": decode,
            "stages": stages,
            "per_token": [_times(each.total_s, each.split) for each in bookings],
            "verdict": verdict(prefill, decode, stages),
        }

    def _bookings(self, tokens: int | None) -> list[Booking]:
        booked, start_s = [], self._prefill_start_s
        for done_s, laps in self._tokens[:tokens]:
            booked.append(_book(start_s, done_s, laps, len(self.labels)))
            start_s = done_s
        return booked

    def _without_tokens(self) -> list[Booking]:
        """Of a prompt that no token followed, because none was asked for or none has come yet."""
        if self._tokens or not self._laps:
            return []
        end_s = max(lap.done_s for lap in self._laps)
        return [_book(self._prefill_start_s, end_s, self._laps, len(self.labels))]

    @property
    def _prefill_start_s(self) -> float:
        return self.received_s + self.queued_s


def verdict(
    prefill: dict[str, Any], decode: dict[str, Any], stages: Sequence[dict[str, Any]]
) -> str:
    """For people: '82 % compute, 3 % transfer; stage 1 is the slowest by 14 %'."""
    total = prefill["total_ms"] + decode["total_ms"]
    if total <= 0 or not any(each["compute_ms"] for each in stages):
        return "nothing was computed"
    shares = (
        f"{_percent(prefill[f'{kind}_ms'] + decode[f'{kind}_ms'], total)} {kind}"
        for kind in ("compute", "transfer")
    )
    return f"{', '.join(shares)}; {_slowest(stages)}"


def _slowest(stages: Sequence[dict[str, Any]]) -> str:
    by_compute = sorted(stages, key=lambda each: -float(each["compute_ms"]))
    if len(by_compute) == 1:
        return "one stage"
    if not by_compute[1]["compute_ms"]:
        return f"stage {by_compute[0]['stage']} alone computed"
    lead = by_compute[0]["compute_ms"] / by_compute[1]["compute_ms"] - 1
    if lead < 0.01:
        return "the stages are even"
    return f"stage {by_compute[0]['stage']} is the slowest by {lead:.0%}".replace("%", " %")


def _book(start_s: float, end_s: float, laps: Sequence[Lap], stages: int) -> Booking:
    """Covers [start_s, end_s] with the laps, the earliest first."""
    per_stage: list[list[Split]] = [[] for _ in range(stages)]
    waiting_s, covered_to_s = 0.0, start_s
    for lap in laps:
        waiting_s += max(0.0, lap.ordered_s - max(lap.ready_s, covered_to_s))
        for hop in lap.hops:
            per_stage[hop.stage].append(_after(hop, covered_to_s))
        covered_to_s = max(covered_to_s, lap.done_s)
    sums = tuple(each[0] if len(each) == 1 else Split.total(each) for each in per_stage)
    split = Split.total((*sums, Split(waiting_s=waiting_s)))
    return Booking(start_s, end_s, split, sums, len(laps))


def _after(hop: Hop, moment_s: float) -> Split:
    """The part of the hop that lies after `moment_s`."""
    if hop.sent_s >= moment_s:
        return hop.split
    if hop.returned_s <= moment_s:
        return Split()
    return hop.split.scaled((hop.returned_s - moment_s) / hop.round_trip_s)


def _phase(total_s: float, bookings: Sequence[Booking]) -> dict[str, float]:
    return _times(total_s, Split.total(each.split for each in bookings))


def _times(total_s: float, split: Split) -> dict[str, float]:
    return {
        "total_ms": _ms(total_s),
        "compute_ms": _ms(split.compute_s),
        "transfer_ms": _ms(split.transfer_s),
        "waiting_ms": _ms(split.waiting_s),
        "other_ms": _ms(max(0.0, total_s - split.total_s)),
    }


def _stages(labels: Sequence[StageLabel], bookings: Sequence[Booking]) -> list[dict[str, Any]]:
    sums = [Split.total(each.stages[i] for each in bookings) for i in range(len(labels))]
    return [
        {
            "stage": label.stage,
            "worker": label.worker,
            "layers": list(label.layers),
            "compute_ms": _ms(split.compute_s),
            "transfer_ms": _ms(split.transfer_s),
            "waiting_ms": _ms(split.waiting_s),
        }
        for label, split in zip(labels, sums, strict=True)
    ]


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, ROUND_DIGITS)


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f} %"
