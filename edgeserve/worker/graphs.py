"""Records work for a GPU once, to be replayed with one launch instead of hundreds.

Knows nothing of models: it is given a function that reads and writes tensors at fixed places.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

Result = TypeVar("Result")


class GraphRecorder:
    """All recordings share one pool of memory, so they must be replayed one after another, in one
    stream; record the largest first, and the others fit into what it left.
    """

    def __init__(self, device: torch.device) -> None:
        # Not the default one, which cannot be recorded.
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, work: Callable[[], Result]) -> Callable[[], Result]:
        """Runs `work` to warm up, and records it; the returned function replays it. Its results are
        the same tensors each time: read them before the next replay is launched.
        """
        self._warm_up(work)
        graph = torch.cuda.CUDAGraph()
        # "thread_local": what the finisher's thread asks CUDA meanwhile must not break the
        # recording, as it would by default. And PyTorch leaves its stream the current one where
        # CUDA gives a recording up: frames of this thread would no longer wait for the loop's.
        with (
            torch.cuda.stream(torch.cuda.current_stream()),
            torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            ),
        ):
            results = work()

        def replay() -> Result:
            graph.replay()
            return results

        return replay

    def _warm_up(self, work: Callable[[], object]) -> None:
        """Triton compiles, cuBLAS makes its workspace for the stream: neither may be recorded."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            work()
        torch.cuda.current_stream().wait_stream(self._stream)


class NoRecorder:
    """The same where there are no graphs: the work is done again each time."""

    def record(self, work: Callable[[], Result]) -> Callable[[], Result]:
        return work
