"""The sequences that one gateway has open here: their pages, how they sample, and what of a frame
may pass.

A malformed frame never reaches the device: whatever the frame says is checked here against what is
known.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from edgeserve.errors import WireError
from edgeserve.families.spec import PAGE_TOKENS, ModelSpec
from edgeserve.frames.micro_batch import Segment
from edgeserve.frames.sampling import TOP_LOGPROBS_MAX, Sampling
from edgeserve.frames.stage import Stage
from edgeserve.wire.frame import Frame, Open
from edgeserve.wire.messages import LoadOrder


@dataclass(kw_only=True)
class OpenSequence:
    pages: tuple[int, ...]
    sampling: Sampling
    prompt: tuple[int, ...] = ()
    """Token ids, if sampling needs them."""
    generated: list[int] = field(default_factory=list)
    """What followed the prompt so far, if sampling needs it."""


@dataclass(kw_only=True)
class SequenceTable:
    """For one stage and one session."""

    spec: ModelSpec
    stage: Stage
    hidden_bytes: int
    """Of one token's hidden state."""
    pages: int
    tokens_max: int
    """In one frame."""
    _open: dict[int, OpenSequence] = field(default_factory=dict)

    @classmethod
    def of(cls, spec: ModelSpec, order: LoadOrder) -> SequenceTable:
        return cls(
            spec=spec,
            stage=order.stage,
            hidden_bytes=spec.hidden_bytes_per_token(order.dtype),
            pages=order.pages,
            tokens_max=order.frame_tokens_max,
        )

    def take(self, frame: Frame) -> list[OpenSequence]:
        """Closes and opens what the frame says; the sequence of each of its segments.

        Raises WireError, and then nothing of the frame may be computed.
        """
        for number in frame.close:  # one that never got here may be closed too
            self._open.pop(number, None)
        for opened in frame.open:
            self._open[opened.sequence] = self._opened(opened)
        self._check_payload(frame)
        self._check_masks(frame)
        self._check_scores(frame)
        return [self._checked(segment) for segment in frame.segments]

    def all_most_likely(self, frame: Frame) -> bool:
        """Before `take`: whether each token that the frame asks for is simply the most likely one,
        with nothing told beside it.
        """
        opened: dict[int, Open | OpenSequence] = {each.sequence: each for each in frame.open}
        asked = (each.sequence for each in frame.segments if each.samples)
        found = (opened.get(number) or self._open.get(number) for number in asked)
        return not frame.masks and all(
            each.sampling.takes_most_likely and not each.sampling.top_logprobs
            for each in found
            if each is not None  # else `take` refuses it
        )

    def __len__(self) -> int:
        return len(self._open)

    def _opened(self, opened: Open) -> OpenSequence:
        bad = [page for page in opened.pages if page >= self.pages]
        if bad:
            raise WireError(
                f"sequence {opened.sequence}: page {bad[0]} of {self.pages} does not exist"
            )
        biased = (token for token, _bias in opened.sampling.logit_bias)
        strange = [token for token in (*opened.history, *biased) if token >= self.spec.vocab]
        if strange:
            raise WireError(
                f"sequence {opened.sequence} samples with token {strange[0]}; the vocabulary has "
                f"{self.spec.vocab}"
            )
        return OpenSequence(pages=opened.pages, sampling=opened.sampling, prompt=opened.history)

    def _check_payload(self, frame: Frame) -> None:
        token_bytes = 4 if self.stage.embedding else self.hidden_bytes
        tokens = frame.tokens
        if not 0 < tokens <= self.tokens_max:
            raise WireError(
                f"frame {frame.frame} has {tokens} tokens; it may have 1 to {self.tokens_max}"
            )
        if len(frame.payload) != tokens * token_bytes:
            raise WireError(
                f"frame {frame.frame} of {tokens} tokens has {len(frame.payload)} bytes; this "
                "stage needs "
                f"{tokens * token_bytes}"
            )

    def _check_masks(self, frame: Frame) -> None:
        """Each is of one token that is sampled, and allows one that is there."""
        sampled_once = {each.sequence for each in frame.segments if each.samples == 1}
        for number, mask in frame.masks.items():
            if number not in sampled_once:
                raise WireError(
                    f"sequence {number} has a mask, but is not sampled once in frame {frame.frame}"
                )
            if not int.from_bytes(mask, "little") & ((1 << self.spec.vocab) - 1):
                raise WireError(
                    f"sequence {number}: its mask of {len(mask)} bytes allows none of the "
                    f"{self.spec.vocab} tokens of the vocabulary"
                )

    def _check_scores(self, frame: Frame) -> None:
        """Each token follows one that its sequence has in this frame."""
        segments = {each.sequence: each for each in frame.segments} if frame.scores else {}
        for number, score in frame.scores.items():
            segment = segments.get(number)
            first, end = score.first_position, score.end_position
            if (
                segment is None
                or not segment.first_position < first < end <= segment.end_position + 1
            ):
                raise WireError(
                    f"sequence {number} is to be scored at positions [{first}, {end}), but they do "
                    f"not follow tokens that it has in frame {frame.frame}"
                )
            if max(score.tokens) >= self.spec.vocab:
                raise WireError(
                    f"sequence {number} is to be scored for token {max(score.tokens)}; the "
                    f"vocabulary has {self.spec.vocab}"
                )
            if score.top_logprobs > TOP_LOGPROBS_MAX:
                raise WireError(
                    f"sequence {number} wants {score.top_logprobs} tokens told beside each; at "
                    f"most {TOP_LOGPROBS_MAX} are"
                )

    def _checked(self, segment: Segment) -> OpenSequence:
        sequence = self._open.get(segment.sequence)
        if sequence is None:
            raise WireError(f"sequence {segment.sequence} is not open here")
        room = len(sequence.pages) * PAGE_TOKENS
        if segment.tokens < 1 or segment.end_position > room:
            raise WireError(
                f"sequence {segment.sequence}: positions [{segment.first_position}, "
                f"{segment.end_position}) do not lie in its pages for {room} tokens"
            )
        most = 1 if sequence.sampling.needs_history else segment.tokens  # drafts are in no history
        if segment.samples > most:
            raise WireError(
                f"sequence {segment.sequence}: {segment.samples} of {segment.tokens} tokens are to "
                f"be sampled after, but only {most} can be"
            )
        return sequence
