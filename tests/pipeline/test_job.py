"""One sequence's tokens, as the last stage sampled them and as its reader gets them."""

from __future__ import annotations

from edgeserve.frames.sampling import Sampling
from edgeserve.pipeline.draft import Drafter
from edgeserve.pipeline.generation import Generation, Order, Token
from edgeserve.pipeline.job import Job
from edgeserve.timing.ledger import Ledger
from edgeserve.wire.frame import Sampled

PROMPT = (5, 6)


def job() -> Job:
    order = Order(
        prompt=PROMPT, max_new_tokens=9, sampling=Sampling(), stop_ids=frozenset({2}),
        received_s=0.0,
    )  # fmt: skip
    ledger = Ledger(labels=(), received_s=0.0, prompt_tokens=len(PROMPT), queued_s=0.0)
    tokens = list(PROMPT)
    return Job(
        order=order, tokens=tokens, ledger=ledger, generation=Generation(ledger, lambda: None),
        drafter=Drafter(tokens, 4),
    )  # fmt: skip


def test_what_was_likely_beside_a_token_comes_with_it_and_with_each_draft_that_came_true() -> None:
    found = [
        Sampled(sequence=1, token=7, logprob=-0.5, top=((7, -0.5), (8, -1.5))),
        Sampled(sequence=1, token=9, logprob=-1.0, top=((4, -0.25), (9, -1.0))),
        Sampled(sequence=1, token=3, logprob=-0.1, top=((3, -0.1), (5, -3.0))),
    ]
    new = job().sampled(found, drafts=[7, 8], now_s=1.0)
    #                                     9 was sampled where 8 was guessed: what follows is void
    assert new == [
        Token(token=7, logprob=-0.5, top=((7, -0.5), (8, -1.5))),
        Token(token=9, logprob=-1.0, top=((4, -0.25), (9, -1.0))),
    ]
