"""How the device is measured and waited for, with events that stand in for CUDA's."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from edgeserve.clock import ManualClock
from edgeserve.worker.stopwatch import Stopwatch


@dataclass
class FakeEvent:
    """With the names and defaults of `torch.cuda.Event`."""

    enable_timing: bool = False
    blocking: bool = False
    recorded: bool = False
    waited: bool = False

    def record(self) -> None:
        self.recorded = True

    def synchronize(self) -> None:
        assert self.recorded
        self.waited = True

    def elapsed_time(self, end: FakeEvent) -> float:
        assert self.enable_timing
        assert end.enable_timing
        return 2.0


@pytest.mark.parametrize("sleeps", [True, False])
def test_an_event_is_waited_for_asleep_if_asked_and_its_time_is_kept(
    sleeps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    watch = Stopwatch(clock=ManualClock(), cuda=True, sleeps=sleeps)
    for _ in range(4):
        watch.mark()

    watch.wait()

    assert [each.waited for each in watch._marks] == [False, False, False, True]
    assert watch._marks[-1].blocking == sleeps
    assert watch.laps_s() == [0.002] * 3


def test_the_real_event_takes_what_the_fake_one_does() -> None:
    made = torch.cuda.Event.__new__
    code = made.__code__
    assert {"enable_timing", "blocking"} <= set(code.co_varnames[: code.co_argcount])
    assert made.__defaults__ is not None
    assert not any(made.__defaults__)
