"""How many tokens a request took, in OpenAI's words. Refuses to know what they say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgeserve.gateway.generate.run import RunningSequence

NOT_TOLD_APART = {
    "reasoning_tokens": 0,
    "audio_tokens": 0,
    "accepted_prediction_tokens": 0,
    "rejected_prediction_tokens": 0,
}
"""Of an answer: what a model thinks is text like any other here, and there is nothing else."""


def usage_so_far(runs: Sequence[RunningSequence], answers_per_prompt: int = 1) -> dict[str, Any]:
    """Of the `runs` of a request, those of one prompt together. A prompt counts once, however many
    answers it gets, and so do those of its tokens that needed no computing.
    """
    firsts = runs[::answers_per_prompt]
    prompt = sum(len(run.order.prompt) for run in firsts)
    completion = sum(len(run.answer.pieces) for run in runs)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {
            "cached_tokens": sum(run.cached_tokens for run in firsts),
            "audio_tokens": 0,
        },
        "completion_tokens_details": dict(NOT_TOLD_APART),
    }
