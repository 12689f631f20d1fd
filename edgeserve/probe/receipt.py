"""The gateway's RECEIPT, read and checked. What it says is not believed until it adds up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgeserve.errors import WireError

ADDS_UP_WITHIN = 0.01
"""The receipt's own promise, for every token and for the whole."""
ROUNDING_MS = 0.001
"""Receipts are rounded to 0.0001 ms; five rounded numbers may be this far off without a fault."""


@dataclass(frozen=True, kw_only=True)
class Times:
    """Where an interval went."""

    total_ms: float
    compute_ms: float
    transfer_ms: float
    waiting_ms: float
    other_ms: float

    @property
    def discrepancy(self) -> float:
        """By which share of the total the parts miss it."""
        parts_ms = self.compute_ms + self.transfer_ms + self.waiting_ms + self.other_ms
        return discrepancy(parts_ms, self.total_ms)


@dataclass(frozen=True, kw_only=True)
class StageTimes:
    stage: int
    worker: str
    compute_ms: float


@dataclass(frozen=True, kw_only=True)
class Receipt:
    total_ms: float
    queue_ms: float
    prefill_tokens: int
    prefill: Times
    decode_tokens: int
    decode_laps: int
    """Frames that the decode's tokens took; with drafted tokens they are fewer."""
    decode: Times
    stages: tuple[StageTimes, ...]
    per_token: tuple[Times, ...]

    @property
    def discrepancy(self) -> float:
        """The worst, over all tokens, both phases and the whole."""
        phases_ms = self.queue_ms + self.prefill.total_ms + self.decode.total_ms
        parts = (self.prefill, self.decode, *self.per_token)
        return max(discrepancy(phases_ms, self.total_ms), *(each.discrepancy for each in parts))


def discrepancy(parts_ms: float, total_ms: float) -> float:
    beyond_rounding_ms = max(0.0, abs(parts_ms - total_ms) - ROUNDING_MS)
    return beyond_rounding_ms / total_ms if total_ms > 0 else beyond_rounding_ms


def parse_receipt(document: Any) -> Receipt:
    """Raises WireError if it is not one. Keys that are not known are none of our business."""
    try:
        return Receipt(
            total_ms=float(document["total_ms"]),
            queue_ms=float(document["queue_ms"]),
            prefill_tokens=int(document["prefill"]["tokens"]),
            prefill=_times(document["prefill"]),
            decode_tokens=int(document["decode"]["tokens"]),
            decode_laps=int(document["decode"]["laps"]),
            decode=_times(document["decode"]),
            stages=tuple(_stage(each) for each in document["stages"]),
            per_token=tuple(_times(each) for each in document["per_token"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise WireError(
            f"the gateway's receipt cannot be read: {error!r}; is it edgeserve, and of the same "
            "version as this probe?"
        ) from None


def mean_times(all_times: Sequence[Times], tokens: int) -> Times:
    """The sum over `tokens`: what one of them took."""
    return Times(
        total_ms=sum(each.total_ms for each in all_times) / tokens,
        compute_ms=sum(each.compute_ms for each in all_times) / tokens,
        transfer_ms=sum(each.transfer_ms for each in all_times) / tokens,
        waiting_ms=sum(each.waiting_ms for each in all_times) / tokens,
        other_ms=sum(each.other_ms for each in all_times) / tokens,
    )


def _times(document: Mapping[str, Any]) -> Times:
    return Times(
        total_ms=float(document["total_ms"]),
        compute_ms=float(document["compute_ms"]),
        transfer_ms=float(document["transfer_ms"]),
        waiting_ms=float(document["waiting_ms"]),
        other_ms=float(document["other_ms"]),
    )


def _stage(document: Mapping[str, Any]) -> StageTimes:
    return StageTimes(
        stage=int(document["stage"]),
        worker=str(document["worker"]),
        compute_ms=float(document["compute_ms"]),
    )
