"""The way to a worker, measured on one whose times are known."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass, field

import pytest

from edgeserve.clock import ManualClock
from edgeserve.doctor import link as link_module
from edgeserve.doctor.link import PROMPT_BYTES, TOKEN_BYTES, Link, measure_link
from edgeserve.errors import StageUnavailable, WireError

FIRST_S = 0.5
LATENCY_S = 1e-3
ASLEEP_S = 2e-3
BYTES_PER_S = 100e6


@dataclass
class FakeWorker:
    """Answers after its latency, later the first times and after a pause, and never for free."""

    clock: ManualClock = field(default_factory=ManualClock)
    calls: int = 0
    is_asleep: bool = False
    spoils: bool = False

    async def echo(self, payload: bytes, timeout_s: float) -> bytes:
        assert timeout_s == 5.0
        self.clock.advance(LATENCY_S + 2 * len(payload) / BYTES_PER_S)
        self.clock.advance(FIRST_S * (self.calls < 2) + ASLEEP_S * self.is_asleep)
        self.calls += 1
        self.is_asleep = False
        return payload[1:] if self.spoils else payload

    async def pause(self, pause_s: float) -> None:
        self.clock.advance(pause_s)
        self.is_asleep = True


def test_a_link_is_what_it_takes_hot_after_a_pause_and_for_a_prompt() -> None:
    worker = FakeWorker()
    token_s = LATENCY_S + 2 * TOKEN_BYTES / BYTES_PER_S

    link = asyncio.run(measure_link(worker, worker.clock, worker.pause))

    assert link.round_trip_s == pytest.approx(token_s)
    #   neither the first calls, which take half a second, nor any pause is in it
    assert link.idle_round_trip_s == pytest.approx(token_s + ASLEEP_S)
    assert link.bytes_per_s == pytest.approx(
        2 * PROMPT_BYTES / (LATENCY_S + 2 * PROMPT_BYTES / BYTES_PER_S)
    )


def test_one_late_answer_of_many_does_not_count() -> None:
    class Hiccup(FakeWorker):
        async def echo(self, payload: bytes, timeout_s: float) -> bytes:
            if self.calls in {7, 26, 31}:
                self.clock.advance(3.0)
            return await super().echo(payload, timeout_s)

    steady, hiccup = FakeWorker(), Hiccup()

    def measured(worker: FakeWorker) -> Link:
        return asyncio.run(measure_link(worker, worker.clock, worker.pause))

    late, usual = measured(hiccup), measured(steady)
    assert asdict(late) == pytest.approx(asdict(usual))
    assert hiccup.clock.now_s() > steady.clock.now_s() + 8


def test_bytes_that_come_back_changed_are_no_echo() -> None:
    worker = FakeWorker(spoils=True)

    with pytest.raises(WireError, match="other bytes"):
        asyncio.run(measure_link(worker, worker.clock, worker.pause))


def test_a_link_that_takes_for_ever_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mute(FakeWorker):
        async def echo(self, payload: bytes, timeout_s: float) -> bytes:
            await asyncio.Event().wait()
            return payload

    monkeypatch.setattr(link_module, "LINK_TIMEOUT_S", 0.02)
    worker = Mute()

    with pytest.raises(StageUnavailable, match="10 KB and 5 of 1.3 MB took more than"):
        asyncio.run(measure_link(worker, worker.clock, worker.pause))
