"""Where a stage's time with one frame went, by its own clock."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class StageTime:
    """What a stage says it did while it held the frame."""

    queue_s: float = 0.0
    """Behind other frames."""
    decode_s: float = 0.0
    copy_in_s: float = 0.0
    compute_s: float = 0.0
    """On the device."""
    copy_out_s: float = 0.0
    encode_s: float = 0.0

    @property
    def held_s(self) -> float:
        return (
            self.queue_s + self.decode_s + self.copy_in_s
            + self.compute_s + self.copy_out_s + self.encode_s
        )  # fmt: skip
