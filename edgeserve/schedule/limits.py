"""What the scheduler may do, and what it says of itself."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the cluster has and what the operator allows."""

    stages: int
    processors: int
    """Of all stages: fewer than stages if some share theirs."""
    pages: int
    context_tokens: int
    micro_batches: int | None = None
    """Frames of decodes in flight at once; None learns how many are best."""
    max_running: int = 64
    max_waiting: int = 128
    prefill_chunk: int = 64
    """Prompt tokens in one frame, at most."""
    decode_slowdown: float = 1.6
    """How many times as long a step of decodes may take because of other requests' prompts."""
    queue_timeout_s: float = 120.0
    prefix_cache: bool = True

    @property
    def frame_tokens_max(self) -> int:
        """No frame holds more: a chunk, and one token of each running sequence."""
        return self.prefill_chunk + self.max_running

    @property
    def frames_max(self) -> int:
        """In flight at once. More than one a processor would only take it from each other."""
        return max(self.processors, self.micro_batches or 1)

    @property
    def prompt_frames_max(self) -> int:
        """The same while full chunks are all there is: at each stage one computes, one arrives."""
        arriving = self.stages if self.processors == self.stages else 0
        return self.frames_max + arriving


@dataclass(frozen=True, kw_only=True)
class Statistics:
    running: int = 0
    waiting: int = 0
    pages_in_use: int = 0
    pages_kept: int = 0
    """In nobody's use, but good for the next prompt that begins alike."""
    frames_in_flight: int = 0
    micro_batches: int = 1
    prompt_share: int = 0
    """Prompt tokens that may ride with one step of the decodes."""
    step_ms: dict[str, float] = field(default_factory=dict)
    """Learned: milliseconds of a step of decodes, by tokens in its frame."""
    prompt_tokens: int = 0
    """Of all admitted requests."""
    cached_tokens: int = 0
    """Those of them that needed no computing."""
