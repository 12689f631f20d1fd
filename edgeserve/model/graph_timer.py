"""How long a GPU needs for some work, without the launches that a CPU cannot keep up with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import torch

REPLAYS = 3  # the fastest counts


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
            return min(_replay_s(graph) for _ in range(REPLAYS))

    def close(self) -> None:
        release_workspaces()

    @cached_property
    def _stream(self) -> torch.cuda.Stream:
        return torch.cuda.Stream()  # type: ignore[no-untyped-call]


def release_workspaces() -> None:
    """Gives the driver back what it was asked for and nobody uses. cuBLAS keeps memory for each
    stream that it was called on, of which a worker's frames use none of those at load.
    """
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
