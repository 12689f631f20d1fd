"""What a gateway has seen since it started: histograms and counts, the last steps, stragglers.

Fed by the pipeline behind each frame, so that nothing waits for it; the HTTP side makes /metrics,
/trace and a part of /v1/cluster of a copy, which the pipeline's thread takes for it. Its size
is bounded, however long it runs.

Times are seconds of the gateway's clock. Refuses to know of Prometheus, of HTTP, and of what
requests say.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import TypeVar

from edgeserve.errors import Overloaded, StageUnavailable
from edgeserve.timing.histogram import Histogram
from edgeserve.timing.hop import Hop
from edgeserve.timing.ledger import Ledger, StageLabel
from edgeserve.timing.rate import TokenRate
from edgeserve.timing.straggler import Stragglers

FINISHED_REASONS = {
    "eos_token": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "cancelled": "abort",
}
"""vLLM's for ours."""

STEPS_KEPT = 1000
"""Of three stages, about 2 MB: 15 s to a minute and a half of steady work."""

# vLLM's, so that its boards fit; the first ones of a token are ours, for models of a few
# milliseconds a token.
REQUEST_S = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0,
    120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0,
)  # fmt: skip
FIRST_TOKEN_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
)  # fmt: skip
TOKEN_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0,
    2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
HOP_S = (
    0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0,
    2.0, 5.0, 10.0,
)  # fmt: skip
"""From a fast link's 0.1 ms to a long prompt on a CPU; dense where a stage of a 13B computes."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One pass of a frame through all stages."""

    frame: int
    tokens: int
    sequences: int
    ordered_s: float
    hops: tuple[Hop, ...]
    done_s: float
    scored: int = 0
    """Tokens of prompts whose log-probabilities the last stage computed, which takes it longer than
    frames of as many tokens otherwise do."""


class StageRecord:
    """One stage's hops, and how often it was lost."""

    def __init__(self, label: StageLabel) -> None:
        self.label = label
        self.lost = 0
        self.compute = Histogram(HOP_S)
        self.transfer = Histogram(HOP_S)
        self.waiting = Histogram(HOP_S)

    def hop(self, hop: Hop) -> None:
        split = hop.split
        self.compute.observe(split.compute_s)
        self.transfer.observe(split.transfer_s)
        self.waiting.observe(split.waiting_s)


class RequestRecord:
    """How requests fared. Every accepted or refused one is in `ends` or in `errors` in the end."""

    def __init__(self) -> None:
        self.tokens = 0
        """Generated."""
        self.rate = TokenRate()
        self.ends = Counter(dict.fromkeys(FINISHED_REASONS.values(), 0))
        """By vLLM's reasons."""
        self.errors = Counter({Overloaded.error_type: 0, StageUnavailable.error_type: 0})
        """By `error_type`; these two are there from the start, since they are waited for."""
        self.total = Histogram(REQUEST_S)
        self.queue = Histogram(REQUEST_S)
        self.prefill = Histogram(REQUEST_S)
        self.decode = Histogram(REQUEST_S)
        self.first_token = Histogram(FIRST_TOKEN_S)
        self.between_tokens = Histogram(TOKEN_S)
        self.per_token = Histogram(TOKEN_S)

    def lap(self, ledger: Ledger, tokens: int, done_s: float) -> None:
        """A lap brought `tokens` tokens, which the ledger does not have yet."""
        self.tokens += tokens
        self.rate.made(tokens, done_s)
        if ledger.tokens:
            self.between_tokens.observe(done_s - ledger.token_s(-1))
        else:
            self.first_token.observe(done_s - ledger.received_s)

    def ended(self, ledger: Ledger, reason: str) -> None:
        """'eos_token', 'stop_sequence' or 'length'; or 'cancelled', and then its times would mean
        nothing.
        """
        self.ends[FINISHED_REASONS[reason]] += 1
        if reason == "cancelled" or not ledger.tokens:
            return
        first_s, last_s = ledger.token_s(0), ledger.token_s(-1)
        self.total.observe(last_s - ledger.received_s)
        self.queue.observe(ledger.queued_s)
        self.prefill.observe(first_s - ledger.received_s - ledger.queued_s)
        self.decode.observe(last_s - first_s)
        if ledger.tokens > 1:
            self.per_token.observe((last_s - first_s) / (ledger.tokens - 1))

    def failed(self, error_type: str) -> None:
        self.errors[error_type] += 1


Record = TypeVar("Record", StageRecord, RequestRecord)


class Observer:
    """`step` for each frame that is through; requests are told to `requests`."""

    def __init__(self, labels: Sequence[StageLabel]) -> None:
        self.frames = 0
        self.stages = tuple(StageRecord(label) for label in labels)
        self.requests = RequestRecord()
        self.stragglers = Stragglers(len(labels))
        self.steps: deque[Step] = deque(maxlen=STEPS_KEPT)

    def step(self, step: Step) -> None:
        self.frames += 1
        self.steps.append(step)
        for hop in step.hops:
            self.stages[hop.stage].hop(hop)
        if not step.scored:
            compute_s = tuple(hop.inside.compute_s for hop in step.hops)
            self.stragglers.measured(step.tokens, compute_s, step.done_s)

    def copied(self) -> Observer:
        """For another thread to read. Call it on the thread that feeds this one."""
        other = copy(self)
        other.stages = tuple(map(_copied, self.stages))
        other.requests = _copied(self.requests)
        other.stragglers = copy(self.stragglers)
        other.steps = self.steps.copy()
        return other


def _copied(record: Record) -> Record:
    """With each of its parts. Without the ways of `copy`, which takes three times as long."""
    other = object.__new__(type(record))
    vars(other).update((name, copy(part)) for name, part in vars(record).items())
    return other
