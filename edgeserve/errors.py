"""Every error a user can meet, on one page.

    EdgeserveError
    ├── BadRequest              the caller's fault: change the request
    │   ├── Unprocessable       well-formed, but it can never be served here
    │   ├── Unauthorized        no key, or the wrong one
    │   ├── NotFound            no such route or name
    │   ├── MethodNotAllowed    the route exists, with other methods
    │   ├── PayloadTooLarge     more bytes than the gateway reads
    │   ├── UnsupportedEncoding  a compressed body
    │   ├── HeadersTooLarge     the same, of what goes before a body
    │   ├── TooSlow             the body did not come in time
    │   └── BadSettings         a flag, variable or configuration key is wrong
    ├── BadModel                the model folder's fault
    │   ├── UnsupportedModel    an architecture or knob that no test covers: refused by name
    │   ├── DoesNotFit          memory or disk is too small for it, and by how much
    │   └── DamagedWeights      bytes on a disk are no longer those that were written
    ├── FetchFailed             the network's fault: a model of the Hugging Face hub is not here yet
    ├── Overloaded              nobody's fault: come back later
    │   └── RateLimited         the limits of one key, while others are served
    ├── StageUnavailable        a machine's fault: a stage cannot compute now
    │   └── DeviceLost          its GPU has failed for good in this process, which therefore ends
    └── WireError               two versions' fault: the ends do not speak the same language

Each class knows its three exits: HTTP status, gRPC status name and the command's exit code, so no
handler holds a table. A message says what, how much, and what to do; the numbers in it also travel
apart, for programs.
"""

from __future__ import annotations

from typing import Any, ClassVar


class EdgeserveError(Exception):
    """The root. `numbers` are the figures of the message, by name and with their unit."""

    http_status: ClassVar[int] = 500
    grpc_status: ClassVar[str] = "INTERNAL"
    exit_code: int = 3
    error_type: ClassVar[str] = "internal"

    def __init__(self, message: str, **numbers: Any) -> None:
        super().__init__(message)
        self.numbers = numbers

    def to_json(self) -> dict[str, Any]:
        """The body of an HTTP answer."""
        return {"error": str(self), "error_type": self.error_type, **self.numbers}


class BadRequest(EdgeserveError):
    http_status = 400
    grpc_status = "INVALID_ARGUMENT"
    exit_code = 2
    error_type = "bad_request"


class Unprocessable(BadRequest):
    http_status = 422
    error_type = "validation"


class Unauthorized(BadRequest):
    http_status = 401
    grpc_status = "UNAUTHENTICATED"
    error_type = "unauthorized"


class NotFound(BadRequest):
    http_status = 404
    grpc_status = "NOT_FOUND"
    error_type = "not_found"


class MethodNotAllowed(BadRequest):
    http_status = 405
    error_type = "method_not_allowed"


class PayloadTooLarge(BadRequest):
    http_status = 413
    error_type = "payload_too_large"


class UnsupportedEncoding(BadRequest):
    http_status = 415
    error_type = "unsupported_encoding"


class HeadersTooLarge(BadRequest):
    http_status = 431
    error_type = "headers_too_large"


class TooSlow(BadRequest):
    http_status = 408
    error_type = "too_slow"


class BadSettings(BadRequest):
    error_type = "bad_settings"


class BadModel(EdgeserveError):
    http_status = 422
    grpc_status = "FAILED_PRECONDITION"
    exit_code = 2
    error_type = "bad_model"


class UnsupportedModel(BadModel):
    error_type = "unsupported_model"


class DoesNotFit(BadModel):
    exit_code = 3
    error_type = "does_not_fit"


class FetchFailed(EdgeserveError):
    http_status = 503
    grpc_status = "UNAVAILABLE"
    error_type = "fetch_failed"


class DamagedWeights(BadModel):
    exit_code = 3
    error_type = "damaged_weights"


class Overloaded(EdgeserveError):
    """`retry_after_s` becomes the `Retry-After` header."""

    http_status = 429
    grpc_status = "RESOURCE_EXHAUSTED"
    error_type = "overloaded"

    def __init__(self, message: str, *, retry_after_s: int, **numbers: Any) -> None:
        super().__init__(message, retry_after_s=retry_after_s, **numbers)
        self.retry_after_s = retry_after_s


class RateLimited(Overloaded):
    error_type = "rate_limit_exceeded"


class StageUnavailable(EdgeserveError):
    """`stage` counts from 0; `worker` is its address. The same request may succeed later."""

    http_status = 503
    grpc_status = "UNAVAILABLE"
    error_type = "stage_unavailable"

    def __init__(self, message: str, **numbers: Any) -> None:
        super().__init__(message, **{"retryable": True, **numbers})


class DeviceLost(StageUnavailable):
    """The exit code is its own: whoever watches the worker sees that starting it anew helps."""

    exit_code = 4
    error_type = "device_lost"


class WireError(EdgeserveError):
    http_status = 503
    grpc_status = "FAILED_PRECONDITION"
    error_type = "wire"


def named_errors() -> dict[str, type[EdgeserveError]]:
    """Every class by its `error_type`: how an error from the wire gets its class back."""
    found: dict[str, type[EdgeserveError]] = {}
    pending: list[type[EdgeserveError]] = [EdgeserveError]
    while pending:
        kind = pending.pop()
        found[kind.error_type] = kind
        pending.extend(kind.__subclasses__())
    return found
