"""One accepted sequence on its way to its answer: tokens of the pipeline become pieces of text.

Shared by all routes, so it knows the shape of none: what a piece looks like on the wire is theirs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

from edgeserve.errors import EdgeserveError
from edgeserve.gateway.app_state import AppState
from edgeserve.gateway.edge.event_stream import KEEP_ALIVE, Emit
from edgeserve.gateway.generate.aside import aside
from edgeserve.gateway.text.answer import Piece, TextOutput
from edgeserve.gateway.text.options import PLAIN, TextOptions
from edgeserve.pipeline.generation import Generation, Order, Token


class RunningSequence:
    def __init__(
        self,
        state: AppState,
        order: Order,
        generation: Generation,
        stop: Sequence[str],
        options: TextOptions = PLAIN,
    ) -> None:
        self.order = order
        self.answer = TextOutput(order, state.tokenizer, stop=stop, options=options)
        self.failure = ""
        """The type of the error that ended it."""
        self.prompt: Sequence[Token] = generation.prompt
        """The tokens of the prompt that were to be scored; known with the first piece, or the end.
        """
        self._state = state
        self._generation = generation
        self._receipt: dict[str, Any] | None = None
        self._closed_s: float | None = None

    @property
    def ended_by(self) -> str:
        """Its finish reason, or else the type of the error, or 'cancelled': by its client."""
        return self.answer.finish_reason or self.failure or "cancelled"

    @property
    def output_tokens(self) -> int:
        """So far."""
        return len(self.answer.pieces)

    @property
    def cached_tokens(self) -> int:
        """Of the prompt: their keys and values were there already. Known with the first token."""
        return self._generation.cached_tokens

    async def finish(self) -> None:
        """Returns when the answer is complete; raises the error that ended it before."""
        while self.answer.finish_reason is None:
            await self.advance()

    async def advance(self) -> list[Piece]:
        """The next piece; or none, if none was asked for and the prompt is done."""
        token = await self._next_token()
        if token is not None:
            return [self.answer.take(token)]
        self.answer.end_without_tokens()
        return []

    async def write(
        self, emit: Emit, event_of: Callable[[Piece], bytes], *, keep_alive: bytes = KEEP_ALIVE
    ) -> None:
        """An event for each piece: of those that are there, then of each as it comes. `keep_alive`
        where there is silence.
        """
        for piece in self.answer.pieces:
            await emit(await self._event(event_of, piece))
        while self.answer.finish_reason is None:
            try:
                async with asyncio.timeout(self._state.keep_alive_s):
                    pieces = await self.advance()
            except TimeoutError:
                await emit(keep_alive)
            else:
                for piece in pieces:
                    await emit(await self._event(event_of, piece))

    async def _event(self, event_of: Callable[[Piece], bytes], piece: Piece) -> bytes:
        """The first one may tell of all of the prompt."""
        is_first = piece is self.answer.pieces[0]
        return await aside(len(self.prompt) if is_first else 0, event_of, piece)

    def receipt(self) -> dict[str, Any]:
        """So far. Of an answer that is over it is made once: its client, and whoever traces it, see
        the same.
        """
        if self._receipt is not None:
            return self._receipt
        ended_s = self._state.clock.now_s() if self._closed_s is None else self._closed_s
        receipt = self._generation.receipt(ended_s, len(self.answer.pieces))
        if self.answer.finish_reason is not None or self._closed_s is not None:
            self._receipt = receipt
        return receipt

    def receipt_later(self) -> Callable[[], dict[str, Any]]:
        """What makes its receipt when it is over, and does not hold the run: its prompt, its tokens
        and their log-probabilities may take 100 MB.
        """
        made = self._receipt
        if made is not None:
            return lambda: made
        ended_s = self._state.clock.now_s() if self._closed_s is None else self._closed_s
        return self._generation.receipt_later(ended_s, len(self.answer.pieces))

    def close(self) -> None:
        """Frees what the request holds, if it would go on."""
        if self._closed_s is None:
            self._closed_s = self._state.clock.now_s()
        if self.answer.ends_early:
            self._generation.cancel(answered=self.answer.finish_reason is not None)

    async def _next_token(self) -> Token | None:
        """None: no token was asked for."""
        try:
            return await anext(self._generation)
        except EdgeserveError as error:
            self.failure = error.error_type
            raise
        except StopAsyncIteration:
            if not self.order.max_new_tokens:
                return None
            self.failure = EdgeserveError.error_type
            raise EdgeserveError(
                f"the pipeline ended the request after {len(self.answer.pieces)} of its "
                f"{self.order.max_new_tokens} tokens, and at no stop token; send it again, "
                "and report this fault of edgeserve"
            ) from None


async def together(works: Iterable[Coroutine[Any, Any, Any]]) -> None:
    """Returns when all are done. The first error ends the others, and is raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
