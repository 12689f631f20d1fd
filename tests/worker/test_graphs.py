"""What a recording that breaks off leaves behind: nothing that a later frame could meet.

CUDA is a stand-in with what PyTorch's own `torch.cuda.graph` and `torch.cuda.stream` ask of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from edgeserve.model.graph_timer import GraphTimer
from edgeserve.worker.graphs import GraphRecorder

DEVICE = torch.device("cuda", 0)


@dataclass
class MadeUpStream:
    name: str
    device: torch.device = DEVICE

    def wait_stream(self, other: MadeUpStream) -> None:
        """Nothing runs here."""


class BreakingGraph:
    """Whose recording CUDA has given up."""

    def capture_begin(self, *_pool: Any, **_named: Any) -> None:
        """As if it had begun."""

    def capture_end(self) -> None:
        raise torch.AcceleratorError("CUDA error: operation failed due to a previous error")


@pytest.fixture
def current(monkeypatch: pytest.MonkeyPatch) -> Callable[[], MadeUpStream]:
    """Which stream is the current one."""
    streams = [MadeUpStream("default")]
    stand_ins: dict[str, Any] = {
        "_get_device_index": lambda *_: 0,
        "current_stream": lambda *_: streams[-1],
        "set_stream": streams.append,
        "Stream": lambda *_: MadeUpStream("recorder's"),
        "CUDAGraph": BreakingGraph,
        "graph_pool_handle": lambda: (0, 1),
        "synchronize": lambda *_: None,
        "empty_cache": lambda: None,
    }
    for name, instead in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, instead)
    monkeypatch.setattr(torch._C, "_host_emptyCache", lambda: None, raising=False)
    return lambda: streams[-1]


def record() -> None:
    GraphRecorder(DEVICE).record(lambda: None)


def measure() -> None:
    GraphTimer()([lambda: None])


@pytest.mark.parametrize("work", [record, measure])
def test_after_a_recording_that_broke_off_the_stream_is_the_one_before(
    work: Callable[[], None], current: Callable[[], MadeUpStream]
) -> None:
    """Frames of this thread would run in it, beside those that the loop's thread launches."""
    with pytest.raises(torch.AcceleratorError, match="previous error"):
        work()

    assert current().name == "default"
