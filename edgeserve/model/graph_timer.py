"""How long a GPU needs for some work, without the launches that a CPU cannot keep up with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import torch

REPLAYS, REPLAYS_MAX = 3, 1000
"""The fastest counts."""
LEAST_S = 0.02
"""Of replays: a card that had nothing to do, such as while a kernel was compiled, has slowed down,
and takes some milliseconds to be as fast as it is in service."""


class GraphTimer:
    """Records the work in a CUDA graph, as a decode runs it, and times replays of that."""

    def __call__(self, works: Sequence[Callable[[], object]], /) -> float:
        """In seconds. What has to be compiled or made once is so before the recording."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for work in works:
                work()
        graph = torch.cuda.CUDAGraph()
        with (
            torch.cuda.stream(torch.cuda.current_stream()),  # again, if the recording breaks off
            torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"),
        ):
            for work in works:
                work()
        with torch.cuda.stream(self._stream):
            return fastest_s(lambda: _replay_s(graph))

    def close(self) -> None:
        release_workspaces()

    @cached_property
    def _stream(self) -> torch.cuda.Stream:
        return torch.cuda.Stream()  # type: ignore[no-untyped-call]


def fastest_s(replay_s: Callable[[], float]) -> float:
    """Of some replays, whose seconds `replay_s` returns."""
    taken_s = list[float]()
    for _ in range(REPLAYS_MAX):
        taken_s.append(replay_s())
        if len(taken_s) >= REPLAYS and sum(taken_s) >= LEAST_S:
            break
    return min(taken_s)


def release_workspaces() -> None:
    """Gives the driver back what it was asked for and nobody uses. cuBLAS keeps memory for each
    stream that it was called on: those of a load, of which a worker's frames use none, and those
    of a stage that is gone.
    """
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
        torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()


def _replay_s(graph: torch.cuda.CUDAGraph) -> float:
    start, end = _event(), _event()
    start.record()
    graph.replay()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
