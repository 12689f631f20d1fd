"""What is said of a cluster in which some stages, or all, are paced."""

from __future__ import annotations

from edgeserve.families.spec import Dtype
from edgeserve.pipeline.cluster import simulation_of
from edgeserve.wire.messages import Description

PACED = "paced simulation: rtx-3060"


def described(*simulations: str) -> list[Description]:
    return [
        Description(
            device="paced" if each else "cuda", device_name="", memory_bytes=0, reserve_bytes=0,
            memory_bytes_per_s=0.0, dtypes=(Dtype.FP16,), epoch=0, loaded=None, simulation=each,
        )
        for each in simulations
    ]  # fmt: skip


def test_a_cluster_that_computes_has_no_label() -> None:
    assert simulation_of(described("", "", "")) is None
    assert simulation_of([]) is None


def test_a_paced_cluster_is_labelled_once() -> None:
    assert simulation_of(described(PACED, PACED, PACED)) == PACED


def test_one_paced_stage_labels_the_whole_cluster_and_is_named() -> None:
    assert simulation_of(described("", PACED, "")) == f"{PACED} (stage 1 only)"


def test_cards_that_differ_are_all_named() -> None:
    both = simulation_of(described(PACED, "paced simulation: other", PACED))
    assert both == f"{PACED} and paced simulation: other"
