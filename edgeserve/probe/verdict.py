"""What a user should be told: whether the cluster does what one like it should, and where not.

A verdict fails for what has a cure, never for what a device is: a small card is slow, and no cable
helps. Every sentence holds the numbers that it goes by. The limits, and why they are what they are:

* Every batch ran, prompts and answers had the lengths asked for, and every receipt adds up within
  1 %. Otherwise the table is not about what was asked, or not to be trusted.
* Of the smallest batch's token, at most 30 % is not compute, unless it is less than 5 ms a stage.
  The reference page of this project lost 30 % of a token (0.04 s of 0.14 s) on a quiet gigabit
  switch, nearly all of it to software; a hop costs about 1 ms there. 5 ms a hop is a radio link, a
  port at 100 Mbit/s, or a box that is busy with something else. Below 5 ms a small model is simply
  faster than its network, and that is nobody's fault.
* While a step's compute hardly grows (by less than 25 %), the devices are bound by reading weights
  and another sequence costs them nothing. So at the largest such batch each user should still get
  at least 70 % of the tokens per second of the smallest one: 25 % more compute alone leaves 80 %,
  and the rest of what is lost is lost between the devices. Again, less than 5 ms a stage are not
  held against a small model. Beyond that range compute grows with the batch, as it must.

What the client's own machine costs is told, and is no fault of the cluster.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from edgeserve.probe.cluster import Cluster
from edgeserve.probe.load import Shape
from edgeserve.probe.receipt import ADDS_UP_WITHIN, Times
from edgeserve.probe.rows import Measured, Refused, Row, kv_tokens, measured

LOST_SHARE_MAX = 0.30
LOST_MS_PER_STAGE_MIN = 5.0
FLAT_COMPUTE_GROWTH = 1.25
KEPT_SPEED_MIN = 0.70
CLIENT_SHARE_SHOWN = 0.10
CLIENT_MS_SHOWN = 1.0
EVEN_WITHIN = 0.01
GROWTH_EXPONENT_MIN = 0.25
"""Throughput as a power of the batch: 1 is ideal. At 0.25 twice the batch brings 19 % more."""


@dataclass(frozen=True, kw_only=True)
class VerdictFinding:
    """`is_fault` fails the verdict."""

    is_fault: bool
    text: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    findings: tuple[VerdictFinding, ...]
    """Faults first."""

    @property
    def passed(self) -> bool:
        return not any(each.is_fault for each in self.findings)


def judge(rows: Sequence[Row], shape: Shape, cluster: Cluster) -> Verdict:
    found = list(_findings(rows, shape, cluster))
    return Verdict(findings=tuple(sorted(found, key=lambda each: not each.is_fault)))


def _findings(rows: Sequence[Row], shape: Shape, cluster: Cluster) -> Iterator[VerdictFinding]:
    ran = measured(rows)
    if cluster.simulation:
        yield VerdictFinding(
            is_fault=False, text=f"{cluster.simulation}; nothing was computed there"
        )
    yield from _refused(rows)
    if ran:
        yield from _lengths(ran, shape)
        yield _receipts(ran)
        yield _lost_time(ran[0], len(cluster.stages))
        yield from _scaling(ran, len(cluster.stages))
        yield from _growth(ran)
        yield from _slowest_stage(ran[0])
        yield from _client(ran)
        yield from _queues(ran, shape, cluster)


def _refused(rows: Sequence[Row]) -> Iterator[VerdictFinding]:
    what = {"oom": "ran out of memory", "rejected": "was rejected"}
    for row in rows:
        if isinstance(row, Refused):
            yield _fault(f"batch {row.batch} {what[row.refusal.status]}: {row.refusal.reason}")


def _lengths(ran: Sequence[Measured], shape: Shape) -> Iterator[VerdictFinding]:
    for row in ran:
        for what, ends, wanted in (
            ("prompts", row.prompt_tokens, shape.input_tokens),
            ("answers", row.answer_tokens, shape.output_tokens),
        ):
            if ends != (wanted, wanted):
                yield _fault(
                    f"batch {row.batch}: {what} had {ends[0]} to {ends[1]} tokens, not the "
                    f"{wanted} asked for"
                )


def _receipts(ran: Sequence[Measured]) -> VerdictFinding:
    worst = max(ran, key=lambda row: row.discrepancy)
    if worst.receipts_add_up:
        return _fact(f"receipts add up: every token within {_percent(worst.discrepancy, 1)}")
    return _fault(
        f"batch {worst.batch}: a receipt's parts miss its total by {_percent(worst.discrepancy, 1)}"
        f", more than {_percent(ADDS_UP_WITHIN)}; do not trust the times"
    )


def _lost_time(row: Measured, stages: int) -> VerdictFinding:
    token = row.token
    lost_ms = _lost_ms(token)
    text = f"at batch {row.batch} a token takes {token.total_ms:.1f} ms: {_shares(token)}"
    is_large = lost_ms > LOST_MS_PER_STAGE_MIN * stages
    if not is_large or lost_ms <= LOST_SHARE_MAX * token.total_ms:
        return _fact(text)
    return _fault(
        f"{text}; {lost_ms:.1f} ms over {stages} stages is not compute: look at the "
        f"{_largest_loss(token)}"
    )


def _shares(token: Times) -> str:
    parts = {
        "compute": token.compute_ms,
        "transfer": token.transfer_ms,
        "waiting": token.waiting_ms,
        "other": token.other_ms,
    }
    total_ms = token.total_ms or 1.0
    return ", ".join(f"{_percent(ms / total_ms)} {name}" for name, ms in parts.items())


def _largest_loss(token: Times) -> str:
    return max(
        (token.transfer_ms, "network between gateway and workers (transfer)"),
        (token.waiting_ms, "frames that queue behind others (waiting)"),
        (token.other_ms, "load of the boxes' own processors (other)"),
    )[1]


def _scaling(ran: Sequence[Measured], stages: int) -> Iterator[VerdictFinding]:
    """Judges the largest batch that costs the devices no more than the smallest one."""
    smallest = ran[0]
    flat = [r for r in ran if r.token.compute_ms < FLAT_COMPUTE_GROWTH * smallest.token.compute_ms]
    if len(flat) < 2:
        return
    before, after = smallest.token, flat[-1].token
    kept = before.total_ms / after.total_ms
    text = (
        f"up to batch {flat[-1].batch} compute grows little ({before.compute_ms:.1f} to "
        f"{after.compute_ms:.1f} ms a token), and each user keeps {_percent(kept)} of the speed of "
        f"batch {smallest.batch}"
    )
    is_large = _lost_ms(after) - _lost_ms(before) > LOST_MS_PER_STAGE_MIN * stages
    if kept >= KEPT_SPEED_MIN or not is_large:
        yield _fact(text)
    else:
        yield _fault(f"{text}, less than {_percent(KEPT_SPEED_MIN)}: {_most_grown(before, after)}")


def _most_grown(before: Times, after: Times) -> str:
    growth_ms, name = max(
        (after.transfer_ms - before.transfer_ms, "transfer"),
        (after.waiting_ms - before.waiting_ms, "waiting"),
        (after.other_ms - before.other_ms, "other"),
    )
    return f"{name} grew most, by {growth_ms:.1f} ms a token"


def _lost_ms(token: Times) -> float:
    """All but compute."""
    return token.total_ms - token.compute_ms


def _growth(ran: Sequence[Measured]) -> Iterator[VerdictFinding]:
    """Where the throughput stops growing."""
    if len(ran) < 2:
        return
    for before, after in pairwise(ran):
        gain = after.output_tok_s / before.output_tok_s
        if gain < (after.batch / before.batch) ** GROWTH_EXPONENT_MIN:
            yield _fact(
                f"throughput stops growing at batch {before.batch}, {before.output_tok_s:.1f} "
                f"tokens/s: batch {after.batch} changes it by {100 * (gain - 1):+.0f} %"
            )
            return
    times = ran[-1].output_tok_s / ran[0].output_tok_s
    yield _fact(
        f"throughput grows up to batch {ran[-1].batch}, {ran[-1].output_tok_s:.1f} tokens/s: "
        f"{times:.1f} times that of batch {ran[0].batch}"
    )


def _slowest_stage(row: Measured) -> Iterator[VerdictFinding]:
    ranked = sorted(row.stages, key=lambda each: -each.compute_ms)
    if len(ranked) < 2 or ranked[1].compute_ms <= 0:
        return
    first, second = ranked[:2]
    lead = first.compute_ms / second.compute_ms - 1
    if lead < EVEN_WITHIN:
        yield _fact(f"the stages are even: the slowest computes {_percent(lead, 1)} longer")
    else:
        yield _fact(
            f"stage {first.stage} on {first.worker} is the slowest: it computes {_percent(lead)} "
            f"longer than stage {second.stage}"
        )


def _client(ran: Sequence[Measured]) -> Iterator[VerdictFinding]:
    """The batch at which most time passes that no receipt knows of."""
    worst = max(ran, key=lambda row: row.tpot_ms.p50 - row.token.total_ms)
    gap_ms = worst.tpot_ms.p50 - worst.token.total_ms
    if gap_ms > max(CLIENT_MS_SHOWN, CLIENT_SHARE_SHOWN * worst.token.total_ms):
        yield _fact(
            f"at batch {worst.batch} this client sees a token every {worst.tpot_ms.p50:.1f} ms, "
            f"{gap_ms:.1f} ms more than the receipts: its own machine or its network is busy"
        )


def _queues(ran: Sequence[Measured], shape: Shape, cluster: Cluster) -> Iterator[VerdictFinding]:
    """The first batch whose requests did not all run at once."""
    row = next((row for row in ran if row.at_once < row.batch), None)
    if row is None:
        return
    wanted = kv_tokens(row.batch, shape, cluster)
    why = (
        f"it wants {wanted:,} tokens of keys and values, and {cluster.kv_tokens:,} fit"
        if wanted > cluster.kv_tokens
        else "the gateway's --max-running allows no more"
    )
    yield _fact(f"of batch {row.batch}, {row.at_once} ran at once and the others after them: {why}")


def _fact(text: str) -> VerdictFinding:
    return VerdictFinding(is_fault=False, text=text)


def _fault(text: str) -> VerdictFinding:
    return VerdictFinding(is_fault=True, text=text)


def _percent(share: float, decimals: int = 0) -> str:
    return f"{100 * share:.{decimals}f} %"
