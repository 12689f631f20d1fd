"""Has the pipeline take the sequences of one request: all of them, or none.

Several answers to one prompt are several sequences. The first is admitted before the others, so
that they find the pages of the prompt computed (`schedule/page_holders.py` shares them). All of
this comes before an answer begins: what is refused is a status and not an event.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

from starlette.requests import Request

from edgeserve.errors import Unprocessable
from edgeserve.gateway.app_state import AppState
from edgeserve.gateway.edge.event_stream import until_gone
from edgeserve.gateway.edge.request_context import context_of
from edgeserve.gateway.generate.run import RunningSequence, together
from edgeserve.gateway.text.options import PLAIN, TextOptions
from edgeserve.pipeline.generation import Order, Scoring

TOLD_MAX = 2**20
"""Log-probabilities of prompts that one request is told: 100 MB of an answer, and five times as
much while it is written. lm-eval's batches of 128 prompts of 4096 tokens are within.
"""


async def admit(
    state: AppState,
    request: Request,
    orders: Sequence[Sequence[Order]],
    stop: Sequence[str],
    options: TextOptions = PLAIN,
    *,
    scoring: Scoring | None = None,
) -> list[RunningSequence]:
    """`orders` has those of each prompt together; it is scored for the first of them, and all know.
    The error that keeps one out is raised, and frees the others. The request's body must have been
    read.
    """
    _refuse_too_many([len(o[0].prompt) * len(o) for o in orders], scoring)
    context = context_of(request)
    context.reserve([order for alike in orders for order in alike])
    with ExitStack() as admitted:

        async def run_of(order: Order) -> RunningSequence:
            run = RunningSequence(state, order, await state.engine.submit(order), stop, options)
            admitted.callback(run.close)
            return run

        runs = [[await run_of(replace(first, scoring=scoring))] for first, *_ in orders]
        if any(others for _, *others in orders):
            begun = together(first.advance() for (first,) in runs)
            await until_gone(request.receive, begun)
        for alike, (_, *others) in zip(runs, orders, strict=True):
            alike += [await run_of(order) for order in others]
            for run in alike:
                run.prompt = alike[0].prompt
        admitted.pop_all()
    flat = [run for alike in runs for run in alike]
    context.runs += flat
    return flat


def _refuse_too_many(tokens: Sequence[int], scoring: Scoring | None) -> None:
    """`tokens` are those of each prompt, once for each of its answers."""
    asked = 0 if scoring is None else sum(tokens) * (1 + scoring.top_logprobs)
    if asked > TOLD_MAX:
        raise Unprocessable(
            f"{asked} log-probabilities of the prompts' tokens are asked for, those of likelier "
            f"tokens included; at most {TOLD_MAX} are told: ask for fewer of them, for fewer "
            "answers, or send fewer prompts at once",
            param="logprobs",
        )
