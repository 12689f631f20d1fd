"""A scheduler to tell stories with: its sequences have letters, and its orders are words.

A frame is written as `-x` (forget x), `+x` (x begins), `x[0:16)` (prompt tokens), `x[16:20)!` (its
last ones, and the first token is sampled), `x@20` (a decode at position 20) and `x@20+3` (one that
tries three drafts).
"""

from __future__ import annotations

from typing import Any

from edgeserve.errors import EdgeserveError, StageUnavailable
from edgeserve.frames.micro_batch import MicroBatch, Segment
from edgeserve.schedule.events import (
    Action,
    Admit,
    Arrived,
    Cancelled,
    Event,
    Fail,
    Finish,
    FrameDone,
    FrameFailed,
    News,
    Reject,
    Send,
    StageBack,
    StageLost,
    Ticked,
)
from edgeserve.schedule.limits import Limits
from edgeserve.schedule.scheduler import Scheduler

LOST = StageUnavailable("stage 1 on worker b:1 is lost", stage=1, worker="b:1")


class Story:
    """A scheduler whose sequences have letters, and whose orders are words."""

    def __init__(
        self, *, stages: int = 1, pages: int = 64, context: int = 1024, chunk: int = 16, **more: Any
    ) -> None:
        limits = Limits(
            stages=stages, processors=stages, pages=pages, context_tokens=context,
            prefill_chunk=chunk, queue_timeout_s=30.0, **{"micro_batches": 1, **more},
        )  # fmt: skip
        self.scheduler = Scheduler(limits)
        self.now_s = 0.0
        self.under_way: list[MicroBatch] = []
        self.errors: dict[str, EdgeserveError] = {}

    def arrive(self, name: str, prompt: int, new: int, pages: str = "") -> list[str]:
        """`pages` has a letter for the content of each full page of the prompt."""
        hashes = tuple(pages[: i + 1].encode() for i in range(len(pages)))
        return self._tell(
            Arrived(
                sequence=ord(name), prompt_tokens=prompt, max_new_tokens=new, page_hashes=hashes,
                at_s=self.now_s,
            )
        )  # fmt: skip

    def land(
        self,
        stopped: str = "",
        stage_s: float | None = None,
        waited_s: float = 0.0,
        **news: News,
    ) -> list[str]:
        """The oldest frame is through; `stopped` are those that sampled a stop token. If the time
        of a stage is given, time passes.
        """
        frame = self.under_way.pop(0).frame
        told = {ord(each): News(stopped=True) for each in stopped}
        told |= {ord(each): it for each, it in news.items()}
        stages = self.scheduler.limits.stages
        compute_s = () if stage_s is None else (stage_s,) * stages
        self.now_s += sum(compute_s) + waited_s
        return self._tell(FrameDone(frame=frame, news=told, compute_s=compute_s, at_s=self.now_s))

    def refuse(self) -> list[str]:
        """A stage refuses the oldest frame."""
        frame = self.under_way.pop(0).frame
        return self._tell(FrameFailed(frame=frame, error=LOST, at_s=self.now_s))

    def cancel(self, name: str) -> list[str]:
        return self._tell(Cancelled(sequence=ord(name), at_s=self.now_s))

    def lose(self) -> list[str]:
        return self._tell(StageLost(error=LOST, at_s=self.now_s))

    def back(self) -> list[str]:
        return self._tell(StageBack(at_s=self.now_s))

    def tick(self) -> list[str]:
        return self._tell(Ticked(at_s=self.now_s))

    @property
    def pages_in_use(self) -> int:
        return self.scheduler.statistics().pages_in_use

    def _tell(self, event: Event) -> list[str]:
        actions = self.scheduler.handle(event)
        self.under_way += [each.micro_batch for each in actions if isinstance(each, Send)]
        self.errors |= {
            chr(each.sequence): each.error for each in actions if isinstance(each, Reject | Fail)
        }
        return [shown(each) for each in actions]


def shown(action: Action) -> str:
    match action:
        case Send(micro_batch=it):
            closes = [f"-{chr(each)}" for each in it.close]
            opens = [f"+{chr(each.sequence)}" for each in it.open]
            return " ".join(closes + opens + [_segment(each) for each in it.segments])
        case Admit(sequence=s, queued_s=queued_s, cached_tokens=cached):
            return f"admit {chr(s)} after {queued_s:g} s" + (f", {cached} cached" if cached else "")
        case Finish(sequence=s, reason=reason):
            return f"finish {chr(s)}: {reason}"
        case Reject(sequence=s, error=error):
            return f"reject {chr(s)}: {type(error).__name__}"
        case Fail(sequence=s, error=error):
            return f"fail {chr(s)}: {type(error).__name__}"


def _segment(it: Segment) -> str:
    if it.tokens == it.samples and it.first_position:
        drafts = f"+{it.samples - 1}" if it.samples > 1 else ""
        return f"{chr(it.sequence)}@{it.first_position}{drafts}"
    return f"{chr(it.sequence)}[{it.first_position}:{it.end_position}){'!' * it.samples}"
