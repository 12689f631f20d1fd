"""How much one key may ask for: sequences at once, and tokens in a minute.

Tokens are counted by a token bucket, as RFC 2697 has it for packets: it holds a minute's worth and
fills evenly. A request takes what it may need at most, prompt and `max_new_tokens`, before anything
is computed, since afterwards it could not be refused; at its end it puts back what it did not use.
So the bucket never goes below zero, and over any time no more is used than one minute's worth and
what came in meanwhile.

Refuses to know what a key is, and what HTTP is. Used on one thread.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgeserve.clock import Timekeeper
from edgeserve.errors import RateLimited, Unprocessable

MINUTE_S = 60.0
RETRY_S = 1  # when a sequence will end is not known; a second is a few dozen tokens


@dataclass(frozen=True, kw_only=True)
class QuotaLimits:
    """0 is no limit."""

    concurrency: int = 0
    """Sequences that run or wait at once."""
    tokens_per_minute: int = 0


class Bucket:
    """A minute's worth of tokens when full, filling evenly."""

    def __init__(self, tokens_per_minute: int, clock: Timekeeper) -> None:
        self.capacity = tokens_per_minute
        self._clock = clock
        self._level = float(tokens_per_minute)
        self._at_s = clock.now_s()

    @property
    def level(self) -> float:
        now_s = self._clock.now_s()
        filled = self._level + (now_s - self._at_s) * self.capacity / MINUTE_S
        self._level, self._at_s = min(filled, self.capacity), now_s
        return self._level

    def add(self, tokens: int) -> None:
        """Takes them out if negative; what overflows is lost when the level is read."""
        self._level = self.level + tokens

    def wait_s(self, tokens: float) -> float:
        """Until it holds so many."""
        return max(0.0, tokens - self.level) * MINUTE_S / self.capacity


@dataclass(kw_only=True, eq=False)
class Reservation:
    """What one request holds until it is closed, however often that is done."""

    sequences: int
    tokens: int
    is_open: bool = True


class Quota:
    """One key's limits, and what of them is taken."""

    def __init__(self, limits: QuotaLimits, clock: Timekeeper) -> None:
        self.in_use = 0
        """Sequences."""
        self.tokens_used = 0
        """By requests that have ended."""
        self.refused = 0
        self._limits = limits
        self._bucket = Bucket(limits.tokens_per_minute, clock) if limits.tokens_per_minute else None

    def reserve(self, sequences: int, tokens: int) -> Reservation:
        """All of it, or RateLimited: not now. Unprocessable: never."""
        self._check_concurrency(sequences)
        if self._bucket is not None:
            self._check_tokens(self._bucket, tokens)
            self._bucket.add(-tokens)
        self.in_use += sequences
        return Reservation(sequences=sequences, tokens=tokens)

    def close(self, reservation: Reservation, tokens_used: int) -> None:
        assert 0 <= tokens_used <= reservation.tokens, "it may use what it reserved"
        if not reservation.is_open:
            return
        reservation.is_open = False
        self.in_use -= reservation.sequences
        self.tokens_used += tokens_used
        if self._bucket is not None:
            self._bucket.add(reservation.tokens - tokens_used)

    def headers(self) -> dict[str, str]:
        """OpenAI's, of tokens; its others count requests in a minute, which nothing here does."""
        if self._bucket is None:
            return {}
        return {
            "x-ratelimit-limit-tokens": str(self._bucket.capacity),
            "x-ratelimit-remaining-tokens": str(int(self._bucket.level)),
            "x-ratelimit-reset-tokens": f"{self._bucket.wait_s(self._bucket.capacity):.3f}s",
        }

    def _check_concurrency(self, sequences: int) -> None:
        most = self._limits.concurrency
        numbers = {
            "limit": "concurrency",
            "sequences_max": most,
            "sequences_in_use": self.in_use,
            "sequences_asked": sequences,
        }
        if most and sequences > most:
            raise Unprocessable(
                f"{sequences} answers are asked for, but this key may have {most} at once; ask "
                f"for {most} or fewer",
                **numbers,
            )
        if most and self.in_use + sequences > most:
            self.refused += 1
            raise RateLimited(
                f"{self.in_use} answers of this key are under way and {sequences} more are asked "
                f"for; at most {most} may be at once; try again when one has ended",
                retry_after_s=RETRY_S,
                **numbers,
            )

    def _check_tokens(self, bucket: Bucket, tokens: int) -> None:
        left = int(bucket.level)
        numbers = {
            "limit": "tokens_per_minute",
            "tokens_per_minute": bucket.capacity,
            "tokens_left": left,
            "tokens_asked": tokens,
        }
        if tokens > bucket.capacity:
            raise Unprocessable(
                f"prompts and answers may come to {tokens} tokens, but this key has "
                f"{bucket.capacity} a minute; ask for at least {tokens - bucket.capacity} fewer",
                **numbers,
            )
        if tokens > bucket.level:
            self.refused += 1
            wait_s = math.ceil(bucket.wait_s(tokens))
            raise RateLimited(
                f"prompts and answers may come to {tokens} tokens, and {left} of this key's "
                f"{bucket.capacity} a minute are left; try again in {wait_s} s, or ask for fewer",
                retry_after_s=wait_s,
                **numbers,
            )
