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

from edgeserve.gateway.exchange import exchange_of
from edgeserve.gateway.parts import GatewayParts
from edgeserve.gateway.run import Run, together
from edgeserve.gateway.stream import until_gone
from edgeserve.gateway.text_options import PLAIN, TextOptions
from edgeserve.pipeline.generation import Order, Scoring


async def admit(
    parts: GatewayParts,
    request: Request,
    orders: Sequence[Sequence[Order]],
    stop: Sequence[str],
    options: TextOptions = PLAIN,
    *,
    scoring: Scoring | None = None,
) -> list[Run]:
    """`orders` has those of each prompt together; it is scored for the first of them, and all know.
    The error that keeps one out is raised, and frees the others. The request's body must have been
    read.
    """
    exchange = exchange_of(request)
    exchange.reserve([order for alike in orders for order in alike])
    with ExitStack() as admitted:

        async def run_of(order: Order) -> Run:
            run = Run(parts, order, await parts.engine.submit(order), stop, options)
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
    exchange.runs += flat
    return flat
