"""A GPU is looked at again before it is loaded: what was planned with may be another's by now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import pytest

from edgeserve.errors import DoesNotFit
from edgeserve.families.shapes import SHAPES
from edgeserve.families.spec import Dtype
from edgeserve.frames.stage import LayerRange, Stage
from edgeserve.plan.facts import WorkerFacts
from edgeserve.plan.planner import make_plan
from edgeserve.wire.messages import LoadOrder
from edgeserve.worker.device import Device
from edgeserve.worker.room import check_room, needed_bytes

SPEC = SHAPES["llama-2-13b"]
GB = 10**9


@dataclass(frozen=True, kw_only=True)
class Card:
    """What is asked of a `Device`."""

    kind: str
    free_bytes: int
    memory_bytes: int = 12 * GB

    def memory_free_bytes(self) -> int:
        return self.free_bytes


def check(card: Card) -> None:
    check_room(SPEC, ORDER, cast("Device", card))


ORDER = LoadOrder(
    epoch=1, model="llama-2-13b", spec_hash=SPEC.spec_hash,
    stage=Stage(LayerRange(0, 14), embedding=False, head=False), dtype=Dtype.FP16,
    pages=500, frame_tokens_max=128,
)  # fmt: skip


def test_what_is_needed_is_what_was_planned() -> None:
    facts = [
        WorkerFacts(name=f"card {i}", memory_bytes=12 * GB, reserve_bytes=0, is_gpu=True)
        for i in range(3)
    ]
    plan = make_plan(SPEC, Dtype.FP16, facts, pages_max=500, layers=(13, 14, 13))
    middle = plan.stages[1]

    needed = needed_bytes(SPEC, ORDER)

    assert needed == middle.slice_bytes + middle.reserve_bytes + 500 * middle.page_bytes


def test_as_much_as_is_needed_is_enough() -> None:
    check(Card(kind="cuda", free_bytes=needed_bytes(SPEC, ORDER)))


def test_a_display_that_came_since_is_told_with_what_it_left() -> None:
    card = Card(kind="cuda", free_bytes=needed_bytes(SPEC, ORDER) - 1)

    with pytest.raises(DoesNotFit) as caught:
        check(card)

    assert str(caught.value) == (
        "layers [0, 14) with 500 pages needs 11.3 GB of this worker's GPU, and 11.3 GB are free "
        "now; it counted on 12.0 GB when it started. End the other programs on the card "
        "(nvidia-smi shows them), or restart this worker, so that the plan counts on what is left"
    )


@pytest.mark.parametrize("kind", ["cpu", "paced"])
def test_only_a_gpu_is_asked(kind: str) -> None:
    check(Card(kind=kind, free_bytes=0))
