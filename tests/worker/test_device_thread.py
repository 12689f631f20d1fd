"""Frames in the order in which they came, wherever they run: on the device's thread, or short ones
on the loop.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
import torch

from edgeserve.clock import ManualClock
from edgeserve.errors import WireError
from edgeserve.frames.micro_batch import Segment
from edgeserve.frames.stage_time import StageTime
from edgeserve.wire.codec import decode_result
from edgeserve.wire.frame import Frame, FrameResult
from edgeserve.worker.device_thread import COLD_S, EARLY_S, SHORT_S, DeviceThread, FrameJob, Session
from edgeserve.worker.stage import ResidentStage, Taken
from edgeserve.worker.stopwatch import SLEEP_S

LOOP = threading.get_ident()
WAIT_S = 5.0


@dataclass
class FakeStage:
    """Takes as long as it is told to say, and may be held back."""

    takes_s: float
    """On a CPU. What a GPU is told takes no time."""
    clock: ManualClock
    cuda: bool = False
    released: threading.Event = field(default_factory=threading.Event)
    may_finish: threading.Event = field(default_factory=threading.Event)
    ran_on: list[int] = field(default_factory=list)
    slept: list[bool] = field(default_factory=list)
    graph_tokens: int = 1000
    """Of a GPU: the most that are one recorded graph."""

    def any_thread_may_launch(self, frame: Frame, _table: Any) -> bool:
        return not self.cuda or frame.tokens <= self.graph_tokens

    def new_table(self) -> FakeStage:
        return self

    def take(self, frame: Frame) -> list[Any]:
        if frame.tokens > 99:
            raise WireError("too many tokens")
        return []

    def launch(
        self, frame: Frame, _sequences: Any, _clock: Any, *, sleeps: bool = False
    ) -> FakeLaunched:
        assert self.released.wait(WAIT_S)
        self.slept.append(sleeps)
        self.ran_on.append(threading.get_ident())
        if not self.cuda:
            self.clock.advance(self.takes_s)
        return FakeLaunched(frame.frame, self)


@dataclass
class FakeLaunched:
    frame: int
    watch: FakeStage

    def finish(self, taken: Taken, clock: Any) -> FrameResult:
        assert self.watch.may_finish.wait(WAIT_S)
        if self.watch.cuda:
            clock.sleep_until(taken.started_s + self.watch.takes_s)
        return FrameResult(frame=self.frame, time=StageTime(compute_s=self.watch.takes_s))


class Broken(FakeStage):
    """A GPU whose context is gone, as PyTorch tells it at every call from then on."""

    def launch(
        self, frame: Frame, _sequences: Any, _clock: Any, *, sleeps: bool = False
    ) -> FakeLaunched:
        if frame.frame > 1:
            raise torch.AcceleratorError("CUDA error: unspecified launch failure")
        return super().launch(frame, _sequences, _clock, sleeps=sleeps)


class Bench:
    """A session on a fake stage; results are kept as they come."""

    def __init__(self, takes_s: float, *, cuda: bool = False) -> None:
        self.clock = ManualClock()
        self.stage = FakeStage(takes_s, self.clock, cuda)
        self.stage.released.set()
        self.stage.may_finish.set()
        self.thread = DeviceThread(self.clock)
        self.announced_s: list[float] = []
        self.results: list[FrameResult] = []
        self._came = threading.Semaphore(0)
        stage = cast("ResidentStage", self.stage)
        self.session = Session(
            stage=stage,
            thread=self.thread,
            reply=self._reply,
            announce=self.announced_s.append,
        )

    def submit(self, number: int, tokens: int = 1) -> None:
        segment = Segment(sequence=1, first_position=0, tokens=tokens, samples=0)
        frame = Frame(frame=number, segments=(segment,), payload=b"")
        self.thread.submit(
            FrameJob(session=self.session, frame=frame, received_s=0.0, decode_s=0.0)
        )

    def wait_for(self, count: int) -> list[int]:
        for _ in range(count):
            assert self._came.acquire(timeout=WAIT_S)
        return [result.frame for result in self.results]

    def settle(self) -> None:
        """Returns when the device's thread has nothing left."""
        done = threading.Event()
        self.thread.call(done.set)
        assert done.wait(WAIT_S)
        for _ in range(1000):  # the count goes down just behind the call
            if self.thread._unfinished == 0:
                return
            threading.Event().wait(0.001)
        pytest.fail("work is left")

    def _reply(self, raw: bytes) -> None:
        self.results.append(decode_result(raw))
        self._came.release()


def test_a_first_frame_of_its_size_runs_on_the_thread_and_a_short_one_then_on_the_loop() -> None:
    bench = Bench(takes_s=SHORT_S / 10)
    bench.submit(1)
    bench.wait_for(1)
    bench.settle()

    bench.submit(2)

    assert bench.stage.ran_on[0] != LOOP
    assert bench.stage.ran_on[1] == LOOP
    assert bench.wait_for(1) == [1, 2]
    bench.thread.stop()


def test_a_long_frame_never_runs_on_the_loop() -> None:
    bench = Bench(takes_s=SHORT_S * 2)
    for number in (1, 2, 3):
        bench.submit(number)
        bench.wait_for(1)
        bench.settle()

    assert LOOP not in bench.stage.ran_on
    bench.thread.stop()


def test_a_short_frame_never_overtakes_one_that_waits() -> None:
    bench = Bench(takes_s=SHORT_S / 10)
    bench.submit(1)
    bench.wait_for(1)
    bench.settle()
    bench.stage.released.clear()

    bench.submit(2, tokens=64)  # of a size not seen before: on the thread, where it is held back
    bench.submit(3)
    bench.stage.released.set()

    assert bench.wait_for(2) == [1, 2, 3]
    assert bench.stage.ran_on[2] != LOOP
    bench.thread.stop()


def test_a_gpu_is_told_on_the_loop_however_long_it_computes() -> None:
    bench = Bench(takes_s=SHORT_S * 10, cuda=True)
    for number in (1, 2):
        bench.submit(number)
        bench.wait_for(1)
        bench.settle()

    assert [ran_on == LOOP for ran_on in bench.stage.ran_on] == [False, True]
    bench.thread.stop()


def test_what_is_no_graph_never_starts_on_the_loop_of_a_gpu() -> None:
    """Its first product there would take memory for a handle of cuBLAS that nobody planned."""
    bench = Bench(takes_s=SHORT_S / 10, cuda=True)
    bench.stage.graph_tokens = 64
    for number, tokens in enumerate((64, 64, 65, 65, 65, 64), start=1):
        bench.submit(number, tokens)
        bench.wait_for(1)
        bench.settle()

    assert [ran_on == LOOP for ran_on in bench.stage.ran_on] == [
        False, True, False, False, False, True,
    ]  # fmt: skip
    bench.thread.stop()


def test_who_waits_for_a_gpu_sleeps_if_it_takes_long_or_nobody_knows() -> None:
    bench = Bench(takes_s=0.0, cuda=True)
    for number, takes_s in enumerate((SLEEP_S / 2, SLEEP_S * 2, SLEEP_S / 2, 0.0), start=1):
        bench.stage.takes_s = takes_s
        bench.submit(number)
        bench.wait_for(1)
        bench.settle()
    bench.submit(5, tokens=2)
    bench.wait_for(1)

    # As the frame before it of the same size took; of 2 tokens there was none.
    assert bench.stage.slept == [True, False, True, False, True]
    bench.thread.stop()


@pytest.mark.parametrize(("takes_s", "early"), [(0.030, True), (COLD_S / 2, False)])
def test_a_result_is_announced_shortly_before_if_it_took_long_last_time(
    takes_s: float, early: bool
) -> None:
    bench = Bench(takes_s=takes_s, cuda=True)
    for number in (1, 2):
        bench.submit(number)
        bench.wait_for(1)
        bench.settle()

    # Nobody knows how long the first one takes.
    assert bench.announced_s == ([pytest.approx(takes_s - EARLY_S)] if early else [])
    bench.thread.stop()


def test_a_result_behind_another_is_announced_when_it_is_due_itself() -> None:
    bench = Bench(takes_s=0.030, cuda=True)
    bench.submit(1)
    bench.wait_for(1)
    bench.settle()
    bench.stage.may_finish.clear()
    for number in (2, 3):
        bench.submit(number)
    bench.settle()
    assert bench.announced_s == [
        pytest.approx(0.030 - EARLY_S), pytest.approx(0.060 - EARLY_S),
    ]  # fmt: skip
    bench.stage.may_finish.set()
    bench.wait_for(2)
    bench.thread.stop()


def test_a_refused_frame_is_answered_and_the_next_one_runs() -> None:
    bench = Bench(takes_s=1.0)
    bench.submit(1, tokens=100)
    bench.submit(2)
    bench.wait_for(2)

    refused, fine = bench.results

    assert refused.failure is not None
    assert refused.failure.error_type == "wire"
    assert fine.failure is None
    bench.thread.stop()


def test_who_watches_is_told_of_a_lost_device_behind_the_answers_to_its_frames() -> None:
    bench = Bench(takes_s=SHORT_S / 10)
    bench.stage.__class__ = Broken
    told: list[tuple[str, int]] = []
    bench.thread._on_lost = lambda error: told.append((str(error), len(bench.results)))
    bench.submit(1)
    bench.wait_for(1)
    bench.settle()

    bench.submit(2)  # on the loop
    bench.submit(3, tokens=64)  # on the thread
    bench.wait_for(2)
    bench.settle()

    assert [each.failure and each.failure.error_type for each in bench.results] == [
        None, "device_lost", "device_lost",
    ]  # fmt: skip
    assert [answered for _, answered in told] == [2, 3]
    assert all("unspecified launch failure" in words for words, _ in told)
    bench.thread.stop()
