"""A place in the pipeline: which layers, and whether the embedding or the head is there too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class LayerRange:
    """Layers [start, end): end is not included, as in Python's `range`."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end:
            raise ValueError(f"layers [{self.start}, {self.end}) is not a range")

    def __len__(self) -> int:
        return self.end - self.start

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.end))

    def __str__(self) -> str:
        return f"layers [{self.start}, {self.end})"


@dataclass(frozen=True, order=True)
class Stage:
    """What one worker holds.

    The first stage embeds token ids; the last norms, projects and samples.
    """

    layers: LayerRange
    embedding: bool
    head: bool

    def __str__(self) -> str:
        parts = (["embedding"] if self.embedding else []) + [str(self.layers)]
        return " + ".join(parts + (["head"] if self.head else []))


def cut(layer_counts: tuple[int, ...]) -> tuple[Stage, ...]:
    """The stages that hold `layer_counts` layers each, in order."""
    ends = [sum(layer_counts[: i + 1]) for i in range(len(layer_counts))]
    last = len(layer_counts) - 1
    return tuple(
        Stage(LayerRange(end - count, end), embedding=i == 0, head=i == last)
        for i, (count, end) in enumerate(zip(layer_counts, ends, strict=True))
    )
