"""Who may use the gateway: keys from the environment and from a file, and the tenant behind each.

Of a key, its SHA-256 alone is kept. A key's name stands for it wherever something is told: in the
log, in metrics, and as the tenant that shares computed prompts with nobody else. Refuses to know
what a limit counts (`quota.py`), and how a key is sent (`middleware.py`).
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from hmac import compare_digest
from pathlib import Path

from edgeserve.clock import Timekeeper
from edgeserve.config import GatewaySettings, header_text, positive_int
from edgeserve.errors import BadSettings
from edgeserve.gateway.edge.quota import Quota, QuotaLimits

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_READABLE_BY_ALL = 0o004
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Key:
    name: str
    digest: bytes = field(repr=False)
    limits: QuotaLimits


@dataclass(frozen=True, kw_only=True)
class Tenant:
    name: str
    """Empty where nobody needs a key."""
    quota: Quota


class KeyRing:
    """Without keys everybody is let in, as one tenant without limits."""

    def __init__(self, keys: Sequence[Key], clock: Timekeeper) -> None:
        self.anybody = Tenant(name="", quota=Quota(QuotaLimits(), clock))
        self._holders = [
            (key.digest, Tenant(name=key.name, quota=Quota(key.limits, clock))) for key in keys
        ]

    @property
    def tenants(self) -> tuple[Tenant, ...]:
        return tuple(tenant for _, tenant in self._holders)

    def tenant_of(self, secret: str) -> Tenant | None:
        """Digests are of one length and all of them are compared, so that how long it takes tells
        nothing of a key, nor of whose it is.
        """
        given, found = digest(secret), None
        for expected, tenant in self._holders:
            if compare_digest(given, expected):
                found = tenant
        return found


def read_keys(settings: GatewaySettings, clock: Timekeeper) -> KeyRing:
    """Raises BadSettings naming file and line, and never a key."""
    limits = QuotaLimits(
        concurrency=settings.key_concurrency, tokens_per_minute=settings.key_tokens_per_minute
    )
    keys = [
        Key(name=f"env-{number}", digest=digest(secret), limits=limits)
        for number, secret in enumerate(settings.api_key, start=1)
    ]
    if settings.api_key_file:
        keys += _read_file(Path(settings.api_key_file), limits, keys)
    if limits != QuotaLimits() and not keys:
        raise BadSettings(
            "--key-concurrency and --key-tokens-per-minute limit each key, and there is no key; "
            "set EDGESERVE_API_KEY or --api-key-file"
        )
    return KeyRing(keys, clock)


def first_secret(settings: GatewaySettings) -> str:
    """For who asks in the operator's name; empty if everybody is let in. The settings have been
    through `read_keys`.
    """
    if settings.api_key or not settings.api_key_file:
        return next(iter(settings.api_key), "")
    _, line = next(_lines(Path(settings.api_key_file).read_text(encoding="utf-8")))
    name, colon, secret = line.split()[0].partition(":")
    return secret if colon else name


def digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _read_file(path: Path, limits: QuotaLimits, before: Sequence[Key]) -> list[Key]:
    try:
        text = path.read_text(encoding="utf-8")
        is_open_to_all = bool(path.stat().st_mode & _READABLE_BY_ALL)
    except (OSError, UnicodeDecodeError) as error:
        raise BadSettings(f"--api-key-file {path}: cannot be read: {error}") from None
    if is_open_to_all:
        _log.warning("%s: everybody on this box can read the keys; say chmod o-r", path)
    keys: list[Key] = []
    for number, line in _lines(text):
        try:
            key = _key(line, number, limits)
            _refuse_twice(key, [*before, *keys])
        except ValueError as error:
            raise BadSettings(f"{path}:{number}: {error}") from None
        keys.append(key)
    if not keys:
        raise BadSettings(f"--api-key-file {path}: holds no key; write one a line")
    return keys


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Those that say something, and their numbers."""
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.strip().startswith("#"):
            yield number, line.strip()


def _key(line: str, number: int, limits: QuotaLimits) -> Key:
    """`NAME:KEY` or `KEY`, then what is special for it, as `concurrency=4`. Raises ValueError."""
    named, *wishes = line.split()
    name, colon, secret = named.partition(":")
    if not colon:
        name, secret = f"line-{number}", named
    if not _NAME.fullmatch(name):
        raise ValueError("a name has 1 to 64 letters, digits, dots, dashes or underscores")
    if not header_text(secret):
        raise ValueError("there is no key behind the name; write NAME:KEY")
    for wish in wishes:
        limits = _limited(limits, wish)
    return Key(name=name, digest=digest(secret), limits=limits)


def _limited(limits: QuotaLimits, wish: str) -> QuotaLimits:
    name, _, number = wish.partition("=")
    field_name = name.replace("-", "_")
    if field_name not in ("concurrency", "tokens_per_minute"):
        raise ValueError(
            "behind a key stands concurrency=N or tokens-per-minute=N, or nothing; keys have no "
            "blanks"
        )
    return replace(limits, **{field_name: positive_int(number)})


def _refuse_twice(key: Key, others: Sequence[Key]) -> None:
    if any(key.name == other.name for other in others):
        raise ValueError(f"{key.name} names another key, too; each has a name of its own")
    for other in others:
        if key.digest == other.digest:
            raise ValueError(f"this is the key of {other.name}, too; give each one its own")
