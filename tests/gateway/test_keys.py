"""Keys: where they come from, what they open, and that they are never told."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from edgeserve.clock import ManualClock
from edgeserve.config import GatewaySettings
from edgeserve.errors import BadSettings, RateLimited
from edgeserve.gateway.edge import keys
from edgeserve.gateway.edge.keys import KeyRing, first_secret, read_keys
from edgeserve.gateway.edge.quota import QuotaLimits
from tests.gateway.conftest import key_ring

FILE = """
# who may use this gateway
alice:sk-alice

bob:sk-bob:with:colons  concurrency=2
sk-somebody tokens-per-minute=600 concurrency=7
"""


def ring(tmp_path: Path, text: str = "", mode: int = 0o600, **settings: Any) -> KeyRing:
    if text:
        path = tmp_path / "keys"
        path.write_text(text)
        path.chmod(mode)
        settings["api_key_file"] = str(path)
    return read_keys(GatewaySettings(**settings), ManualClock())


def name_of(found: KeyRing, secret: str) -> str | None:
    tenant = found.tenant_of(secret)
    return tenant.name if tenant else None


def most_at_once(found: KeyRing, secret: str) -> int:
    tenant = found.tenant_of(secret)
    assert tenant is not None
    try:
        for _ in range(100):
            tenant.quota.reserve(1, 1)
    except RateLimited:
        return tenant.quota.in_use
    raise AssertionError("there is no limit")


def test_a_file_names_its_keys(tmp_path: Path) -> None:
    found = ring(tmp_path, FILE)
    assert [tenant.name for tenant in found.tenants] == ["alice", "bob", "line-6"]
    assert name_of(found, "sk-alice") == "alice"
    assert name_of(found, "sk-bob:with:colons") == "bob"
    assert name_of(found, "sk-somebody") == "line-6"
    for wrong in ("", "alice", "alice:sk-alice", "sk-alice ", "SK-ALICE", "# who"):
        assert found.tenant_of(wrong) is None, wrong


def test_the_environment_may_name_several_beside_the_file(tmp_path: Path) -> None:
    found = ring(tmp_path, FILE, api_key=("one", "two"))
    assert [name_of(found, each) for each in ("one", "two", "sk-alice")] == [
        "env-1",
        "env-2",
        "alice",
    ]


def test_who_asks_for_the_operator_takes_the_first_key(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    for text, first in ((FILE, "sk-alice"), ("# none\n\nsk-bare concurrency=2\n", "sk-bare")):
        path.write_text(text)
        assert first_secret(GatewaySettings(api_key_file=str(path))) == first
    both = GatewaySettings(api_key_file=str(path), api_key=("one", "two"))
    assert [first_secret(each) for each in (both, GatewaySettings())] == ["one", ""]


def test_a_limit_in_the_file_goes_before_that_of_all_keys(tmp_path: Path) -> None:
    found = ring(tmp_path, FILE, api_key=("one",), key_concurrency=4)
    secrets = ["one", "sk-alice", "sk-bob:with:colons", "sk-somebody"]
    assert [most_at_once(found, secret) for secret in secrets] == [4, 4, 2, 7]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("alice:other", "alice names another key, too"),
        ("carol:sk-alice", "this is the key of alice, too"),
        ("carol:from-env", "this is the key of env-1, too"),
        ("no name!:k", "behind a key stands"),
        ("näme:k", "a name has 1 to 64 letters"),
        (":k", "a name has 1 to 64 letters"),
        ("carol:", "there is no key behind the name"),
        ("carol:schlüssel", "printable ASCII"),
        ("carol:k concurrency=0", "'0' is not a whole number above 0"),
        ("carol:k concurrency", "'' is not a whole number above 0"),
        ("carol:k speed=9", "behind a key stands concurrency=N"),
        ("carol: secret", "there is no key behind the name"),
    ],
)
def test_a_line_that_is_wrong_is_named_and_its_key_is_not(
    line: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(BadSettings, match=rf"keys:3: .*{said}") as refused:
        ring(tmp_path, f"# ours\nalice:sk-alice\n{line}\n", api_key=("from-env",))
    for secret in ("sk-alice", "from-env", "schlüssel"):
        assert secret not in str(refused.value)


def test_a_file_that_is_not_there_or_says_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="cannot be read: .*No such file"):
        ring(tmp_path, api_key_file=str(tmp_path / "nowhere"))
    with pytest.raises(BadSettings, match="holds no key"):
        ring(tmp_path, "# nobody yet\n")


def test_limits_without_a_key_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="limit each key, and there is no key"):
        ring(tmp_path, key_concurrency=1)


@pytest.mark.parametrize(("mode", "warnings"), [(0o600, 0), (0o640, 0), (0o644, 1)])
def test_a_file_that_everybody_can_read_is_warned_of(
    mode: int, warnings: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        ring(tmp_path, FILE, mode)
    assert caplog.text.count("everybody on this box can read the keys") == warnings


@pytest.mark.parametrize("secret", ["key-0", "key-49", "key-99", "wrong", ""])
def test_every_key_is_compared_whichever_is_sent(
    secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that time tells nothing: neither whether a key was right, nor where it stands."""
    compared: list[tuple[int, int]] = []

    def compare(given: bytes, expected: bytes) -> bool:
        compared.append((len(given), len(expected)))
        return given == expected

    monkeypatch.setattr(keys, "compare_digest", compare)
    found = key_ring(ManualClock(), {f"name-{i}": f"key-{i}" for i in range(100)})
    found.tenant_of(secret)
    assert compared == [(32, 32)] * 100


def test_a_key_is_not_kept(tmp_path: Path) -> None:
    key = keys._key("alice:sk-alice", 1, QuotaLimits())
    assert "sk-alice" not in repr(key)
    assert b"sk-alice" not in key.digest
