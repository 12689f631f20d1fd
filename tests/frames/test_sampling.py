"""What a way of sampling needs of the stage that samples."""

from __future__ import annotations

import pytest

from edgeserve.frames.sampling import Sampling


@pytest.mark.parametrize(
    ("sampling", "needs_history", "takes_most_likely"),
    [
        (Sampling(), False, True),
        (Sampling(top_k=3, seed=5, top_logprobs=4), False, True),
        #         greedy takes what filters keep anyway
        (Sampling(temperature=0.1), False, False),
        (Sampling(logit_bias=((3, 1.0),)), False, False),
        #         a bias is the same at each place, so drafts may be tried
        (Sampling(repetition_penalty=1.1), True, False),
        (Sampling(presence_penalty=0.1), True, False),
        (Sampling(frequency_penalty=-0.1), True, False),
    ],
)
def test_penalties_need_the_tokens_before_and_little_else_does(
    sampling: Sampling, needs_history: bool, takes_most_likely: bool
) -> None:
    assert sampling.needs_history is needs_history
    assert sampling.takes_most_likely is takes_most_likely
