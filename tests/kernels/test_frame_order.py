"""Python's part of a frame comes first; then one copy, and the device has nothing to wait for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from edgeserve.clock import ManualClock
from edgeserve.families.folder import open_model
from edgeserve.families.spec import ModelSpec
from edgeserve.frames.stage import LayerRange, Stage
from edgeserve.model.batch import PagedSegment
from edgeserve.model.frame_table import FrameTable
from edgeserve.model.fused import Computed
from edgeserve.model.pages import KvPages
from edgeserve.worker import cuda_frames
from edgeserve.worker.cuda_frames import CudaFrames
from edgeserve.worker.stopwatch import Stopwatch

VIEWS = {"slice", "view", "alias", "detach", "split_with_sizes"}
GRAPHS = (1, 2, 4)
MIDDLE = Stage(LayerRange(1, 2), embedding=False, head=False)


class Noted(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """What PyTorch is asked to do, but for views; `note` puts other events between."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.events: list[str] = []

    def note(self, event: str) -> None:
        self.events.append(event)

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        if name not in VIEWS:
            self.events.append(name)
        return func(*args, **(kwargs or {}))


@dataclass(kw_only=True)
class NotingWatch(Stopwatch):
    noted: Noted

    def mark(self) -> None:
        self.noted.note("mark")
        super().mark()


@dataclass
class FakeSlice:
    """What `CudaFrames` asks of one; it computes nothing."""

    spec: ModelSpec
    stage: Stage = MIDDLE
    embedding: None = None
    computed: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def compute(self, _slice: Any, x: Tensor, table: FrameTable, *_rest: Any) -> Computed:
        self.computed.append((x.clone(), table.rows_T8.clone()))
        return Computed(out=x, logits_NV=None, hidden_TD=x)


@pytest.fixture
def slice_(monkeypatch: pytest.MonkeyPatch) -> FakeSlice:
    fake = FakeSlice(open_model("demo").spec)
    monkeypatch.setattr(cuda_frames, "GRAPH_ROWS", GRAPHS)
    monkeypatch.setattr(cuda_frames, "compute", fake.compute)
    return fake


@pytest.mark.parametrize("tokens", [1, 3, 7], ids=["a graph", "with a spare row", "no graph"])
def test_a_frame_is_written_before_the_first_mark_and_comes_in_one_copy(
    slice_: FakeSlice, tokens: int
) -> None:
    pages = KvPages(slice_.spec, 1, 2, torch.float32, torch.device("cpu"))
    frames: Any = CudaFrames(slice_, pages, 8)  # type: ignore[arg-type]
    x = torch.randn((tokens, slice_.spec.hidden))
    slice_.computed.clear()

    with Noted() as noted:
        watch = NotingWatch(clock=ManualClock(), cuda=False, noted=noted)
        frames.compute(x, [PagedSegment((1,), 2, tokens)], {}, watch)

    before, copy_in, computing, _copy_out, after = split(noted.events)
    assert "empty" in before
    assert copy_in == ["copy_"]
    assert set(computing) == {"clone"}, "what the fake itself does"
    assert after == []
    [(seen_x, seen_rows)] = slice_.computed
    assert torch.equal(seen_x[:tokens], x)
    assert seen_rows[:tokens, 0].tolist() == list(range(2, 2 + tokens))
    assert (seen_rows[tokens:, 1] == -1).all()


def split(events: list[str]) -> list[list[str]]:
    """What lies between the marks."""
    laps: list[list[str]] = [[]]
    for event in events:
        if event == "mark":
            laps.append([])
        else:
            laps[-1].append(event)
    return laps
