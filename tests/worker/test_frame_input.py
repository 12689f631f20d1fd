"""A frame's table and input as one piece of memory, and where the time goes that it takes to write
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import pytest
import torch

from edgeserve.clock import ManualClock
from edgeserve.model.batch import PagedSegment
from edgeserve.model.frame_table import Extent, tiles_of
from edgeserve.model.scoring import Results
from edgeserve.worker.frame_input import ALIGNED_BYTES, FrameInput, InputRow
from edgeserve.worker.stage import Launched, Taken
from edgeserve.worker.stopwatch import Stopwatch

IDS = InputRow(shape=(), dtype=torch.int32)
HIDDEN = InputRow(shape=(6,), dtype=torch.float16)


def extent(rows: int, pages_each: int = 5) -> Extent:
    return Extent(
        rows=rows, asked=1, tiles=rows, tile_queries=16, parts=1, segments=rows,
        pages_each=pages_each,
    )  # fmt: skip


@pytest.mark.parametrize("row", [IDS, HIDDEN], ids=["ids", "hidden"])
@pytest.mark.parametrize("pages_each", [1, 2, 3, 5, 257])
@pytest.mark.parametrize("rows", [1, 2, 3, 8])
def test_each_part_begins_where_16_bytes_can_be_read_at_once(
    rows: int, pages_each: int, row: InputRow
) -> None:
    made = FrameInput.empty(extent(rows, pages_each), row, "cpu")
    begins = made.flat.data_ptr()

    assert made.x.shape == (rows, *row.shape)
    assert made.x.dtype == row.dtype
    for part in (made.table.rows_T8, made.table.pages_SW, made.x):
        at = part.data_ptr() - begins
        assert at % ALIGNED_BYTES == 0
        assert at + part.nbytes <= made.flat.nbytes
    assert made.x.data_ptr() >= made.table.flat.data_ptr() + made.table.flat.nbytes


@pytest.mark.parametrize("row", [IDS, HIDDEN], ids=["ids", "hidden"])
def test_a_copy_brings_the_whole_table_and_the_rows_of_the_frame(row: InputRow) -> None:
    host, device = (FrameInput.empty(extent(4), row, "cpu") for _ in range(2))
    segment = PagedSegment((7, 2), 17, 2)
    host.table.fill([segment], [1], tiles_of([segment], 16))
    host.x.fill_(3)
    device.clear()

    device.copy_in(host, 2)

    assert torch.equal(device.table.flat, host.table.flat)
    assert (device.x[:2] == 3).all()
    assert (device.x[2:] == 0).all()


def test_padding_alone_writes_nothing_and_asks_for_nothing() -> None:
    made = FrameInput.empty(extent(3), HIDDEN, "cpu")
    made.flat.fill_(255)

    made.clear()

    assert made.table.rows_T8[:, 1].tolist() == [-1, -1, -1]
    assert not made.table.rows_T8[:, 2:].any()
    assert not made.x.any()


@dataclass
class PastWatch:
    """A GPU's, that is past its last mark."""

    first_mark_s: float
    laps: Sequence[float]
    cuda: bool = True

    def wait(self) -> None:
        """Past it already."""

    def laps_s(self) -> Sequence[float]:
        return self.laps


def test_the_time_to_write_a_table_is_neither_a_copy_nor_waiting() -> None:
    """A frame came at 1, was decoded in 0.5, waited for 2, was written for 0.25; then the device
    copied for 0.125, computed for 4 and copied for 0.125, and 3 s went to other frames.
    """
    launched = Launched(
        frame=1,
        watch=cast("Stopwatch", PastWatch(first_mark_s=3.75, laps=(0.125, 4.0, 0.125))),
        results=Results(out=torch.zeros((1, 4)), scores_MP=None),
        asked=None,
        prompted=(),
    )
    taken = Taken(received_s=1.0, decode_s=0.5, started_s=3.5)

    time = launched.finish(taken, cast("Any", ManualClock(11.0))).time

    assert (time.copy_in_s, time.compute_s, time.copy_out_s) == (0.125, 4.0, 0.125)
    assert time.decode_s == 0.5 + 0.25
    assert time.queue_s == 2.0 + 3.0
    assert time.encode_s == 0.0


def test_a_watch_remembers_when_the_device_began() -> None:
    clock = ManualClock(5.0)
    watch = Stopwatch(clock=clock, cuda=False)
    watch.mark()
    clock.advance(1.0)
    watch.mark()

    assert watch.first_mark_s == 5.0
    assert watch.laps_s() == [1.0]
