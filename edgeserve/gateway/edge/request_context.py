"""One request and its answer, from the first byte to the last, for those who tell of it afterwards:
the log and a trace. And what it holds of its key's quota meanwhile, which it gives back however it
ends.

The middleware opens it and closes it; a route adds the sequences that it runs for it. Refuses to
know what is told of it, and to whom.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from starlette.requests import Request
from starlette.types import Scope

from edgeserve.gateway.edge.keys import Tenant
from edgeserve.gateway.edge.quota import Reservation
from edgeserve.pipeline.generation import Order

_log = logging.getLogger(__name__)
PATH_CHARACTERS_MAX = 200


class Generated(Protocol):
    """One sequence of a request, and what has become of it."""

    @property
    def order(self) -> Order: ...

    @property
    def failure(self) -> str:
        """The type of the error that ended it, or an empty string."""

    @property
    def ended_by(self) -> str: ...

    @property
    def output_tokens(self) -> int: ...

    def receipt(self) -> dict[str, Any]:
        """As far as it has come."""

    def receipt_later(self) -> Callable[[], dict[str, Any]]:
        """Makes the receipt when the sequence is over, without holding its tokens until then."""


@dataclass(kw_only=True, eq=False)
class RequestContext:
    request_id: str
    method: str
    """As it was asked; `scope` has what routes go by."""
    scope: Scope
    started_s: float
    """On the gateway's clock, which durations are taken from."""
    started_unix_ns: int
    """By the calendar, which a trace is dated with."""
    tenant: Tenant | None = None
    """None until the key is known."""
    status: int = 0
    """0 if no answer began."""
    error_type: str = ""
    runs: list[Generated] = field(default_factory=list)
    total_s: float = 0.0
    """Known once it is closed."""
    _reserved: Reservation | None = None

    @property
    def tenant_name(self) -> str:
        return self.tenant.name if self.tenant else ""

    @property
    def path(self) -> str:
        path: str = self.scope["path"]
        return path[:PATH_CHARACTERS_MAX]

    @property
    def is_news(self) -> bool:
        """Whoever only looked, and was shown, is none: a scrape of /metrics, say."""
        return self.method not in ("GET", "HEAD") or self.status >= 400

    @property
    def failure(self) -> str:
        """The type of the error that it was answered with, or that broke its stream off."""
        return self.error_type or next((run.failure for run in self.runs if run.failure), "")

    @property
    def prompt_tokens(self) -> int:
        """Of each sequence, as a quota counts them."""
        return sum(len(run.order.prompt) for run in self.runs)

    @property
    def output_tokens(self) -> int:
        return sum(run.output_tokens for run in self.runs)

    def reserve(self, orders: Sequence[Order]) -> None:
        """Raises what keeps them out. To be asked before any of them is submitted."""
        assert self.tenant is not None, "whoever asks for tokens has passed the middleware"
        assert self._reserved is None, "a request reserves once"
        tokens = sum(len(order.prompt) + order.max_new_tokens for order in orders)
        self._reserved = self.tenant.quota.reserve(len(orders), tokens)

    def close(self, now_s: float) -> None:
        self.total_s = now_s - self.started_s
        if self.tenant is not None and self._reserved is not None:
            self.tenant.quota.close(self._reserved, self.prompt_tokens + self.output_tokens)


Tell = Callable[[RequestContext], None]
"""What is done with the context of a request that is over."""


def context_of(request: Request) -> RequestContext:
    """The middleware has put it there."""
    context: RequestContext = request.scope["state"]["context"]
    return context


def log_request(context: RequestContext) -> None:
    """One line for each request; those that are no news are for debugging."""
    facts: dict[str, Any] = {
        "method": context.method,
        "path": context.path,
        "status": context.status,
        "ms": round(context.total_s * 1e3, 1),
    }
    if context.error_type:
        facts["error_type"] = context.error_type
    if context.runs:
        facts["prompt_tokens"] = context.prompt_tokens
        facts["output_tokens"] = context.output_tokens
        facts["finish_reason"] = ",".join(run.ended_by for run in context.runs)
    _log.log(logging.INFO if context.is_news else logging.DEBUG, "request", extra=facts)
