"""Settings: what each text means, who wins, and what a mistake is told."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeserve.config import (
    Address,
    GatewaySettings,
    WorkerSettings,
    add_flags,
    address,
    addresses,
    counts,
    device,
    dtype,
    environment_with,
    header_text,
    http_url,
    number_bytes,
    origins,
    positive_int,
    positive_seconds,
    read_settings,
    secrets,
    yes_or_no,
)
from edgeserve.errors import BadSettings

# -- what a text means


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("123", 123),
        ("12GB", 12 * 10**9),
        ("11GiB", 11 * 2**30),
        ("11gib", 11 * 2**30),
        (" 1.5 GiB ", 3 * 2**29),
        ("512MiB", 2**29),
        ("100kB", 100_000),
        ("3KiB", 3 * 2**10),
        ("7B", 7),
        ("2TB", 2 * 10**12),
        ("2TiB", 2**41),
    ],
)
def test_memory_is_read_with_its_unit(text: str, expected: int) -> None:
    assert number_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "GiB", "11G", "11 Gbit", "-1", "1e9", "1,5GB", "9" * 400])
def test_what_is_no_amount_of_memory_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="such as 11GiB or 12GB"):
        number_bytes(text)


@pytest.mark.parametrize(
    ("parse", "text", "expected"),
    [
        (positive_int, "1", 1),
        (positive_int, "65536", 65536),
        (positive_seconds, "0.5", 0.5),
        (positive_seconds, "60", 60.0),
        (counts, "13, 14,13", (13, 14, 13)),
        (yes_or_no, "1", True),
        (yes_or_no, "True", True),
        (yes_or_no, "YES", True),
        (yes_or_no, "0", False),
        (yes_or_no, "false", False),
        (yes_or_no, "no", False),
        (device, "cuda", "cuda"),
        (dtype, "bf16", "bf16"),
        (header_text, "s3cret!~", "s3cret!~"),
        (header_text, "", ""),
    ],
)
def test_a_good_text_is_its_value(parse: Callable[[str], Any], text: str, expected: object) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("parse", "text", "words"),
    [
        (positive_int, "0", "'0' is not a whole number above 0"),
        (positive_int, "-3", "'-3' is not a whole number above 0"),
        (positive_int, "1.5", "'1.5' is not a whole number above 0"),
        (positive_int, "", "'' is not a whole number above 0"),
        (positive_int, "²", "'²' is not a whole number above 0"),
        (positive_seconds, "0", "'0' is not a number of seconds above 0"),
        (positive_seconds, "-1", "'-1' is not"),
        (positive_seconds, "nan", "'nan' is not"),
        (positive_seconds, "inf", "'inf' is not"),
        (positive_seconds, "soon", "'soon' is not"),
        (counts, "13,,14", "'' is not a whole number"),
        (yes_or_no, "on", "'on' is neither yes nor no"),
        (device, "gpu", "'gpu' is none of auto, cpu, cuda"),
        (dtype, "int2", "'int2' is none of auto, fp32, bf16, fp16, int8, int4"),
    ],
)
def test_a_bad_text_is_refused_and_repeated(
    parse: Callable[[str], Any], text: str, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        parse(text)


@pytest.mark.parametrize("secret", ["two words", "trailing\n", "schlüssel", "nul\0"])
def test_a_secret_that_no_header_can_carry_is_refused_and_not_repeated(secret: str) -> None:
    with pytest.raises(BadSettings) as raised:
        read_settings(WorkerSettings, "worker", {}, {"EDGESERVE_TOKEN": secret})
    assert str(raised.value).startswith("EDGESERVE_TOKEN: a secret is made of printable ASCII")
    assert secret not in str(raised.value)


# -- addresses


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:50051", "127.0.0.1", 50051),
        ("box-2.local:1", "box-2.local", 1),
        (" localhost:0 ", "localhost", 0),
        ("[::1]:65535", "::1", 65535),
        ("[fe80::1%eth0]:50051", "fe80::1%eth0", 50051),
        ("0.0.0.0:80", "0.0.0.0", 80),
    ],
)
def test_an_address_is_a_host_and_a_port(text: str, host: str, port: int) -> None:
    assert address(text) == Address(host, port)
    assert str(address(text)) == text.strip()


@pytest.mark.parametrize(
    "text",
    ["", "box", "box:", ":1", "box:65536", "box:-1", "box:http", "::1:50051", "[box]:1", "a/b:1"],
)
def test_what_is_no_address_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="not HOST:PORT, such as 127.0.0.1:50051"):
        address(text)


@settings(max_examples=50, deadline=None)
@given(host=st.ip_addresses(), port=st.integers(0, 65535))
def test_every_ip_address_is_read_as_it_is_written(host: object, port: int) -> None:
    written = Address(str(host), port)
    assert address(str(written)) == written


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.0.7", False),
        ("127.example.org", False),
        ("box", False),
    ],
)
def test_loopback_is_known_for_certain_or_not_at_all(host: str, expected: bool) -> None:
    assert Address(host, 1).is_loopback is expected


def test_addresses_keep_their_order() -> None:
    assert addresses("b:1, a:1,[::1]:2,") == (Address("b", 1), Address("a", 1), Address("::1", 2))
    assert addresses("") == ()


def test_a_worker_named_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="^a:1, b:2 is named twice; each worker holds one stage"):
        addresses("b:2,a:1,c:3,a:1,b:2")


# -- who wins


def _read(
    config: Path | None, flags: dict[str, str] | None = None, **environ: str
) -> GatewaySettings:
    return read_settings(GatewaySettings, "gateway", flags or {}, environ, config)


def test_flags_go_before_the_environment_and_the_environment_before_the_file(
    tmp_path: Path,
) -> None:
    config = tmp_path / "mine.toml"
    config.write_text(
        "[gateway]\nmax_running = 1\nmax-waiting = 2\nprefill_chunk = 3\nmodel = 'demo'\n"
    )
    settings = _read(
        config,
        {"max_running": "30"},
        EDGESERVE_MAX_RUNNING="10",
        EDGESERVE_MAX_WAITING="20",
        EDGESERVE_MODEL="",
    )
    assert settings.max_running == 30
    assert settings.max_waiting == 20
    assert settings.prefill_chunk == 3
    assert settings.model == "demo"
    #      an empty variable is no variable
    assert settings.prefix_cache == "on"
    #      nobody said anything: the default


def test_every_kind_of_toml_value_is_read(tmp_path: Path) -> None:
    config = tmp_path / "edgeserve.toml"
    config.write_text(
        "[gateway]\nworkers = ['a:1', 'b:2']\ninsecure = true\nqueue-timeout = 2.5\n"
        "listen = '[::1]:9'\nlayers = [1, 2]\napi_key = 'k'\n"
        "[worker]\nmemory = 123\ndevice = 'cpu'\n"
    )
    settings = _read(config)
    assert settings.workers == (Address("a", 1), Address("b", 2))
    assert settings.insecure is True
    assert settings.queue_timeout == 2.5
    assert settings.listen == Address("::1", 9)
    assert settings.layers == (1, 2)
    assert settings.api_key == ("k",)
    worker = read_settings(WorkerSettings, "worker", {}, {}, config)
    assert (worker.memory, worker.device) == (123, "cpu")


def test_the_file_here_is_read_without_being_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert _read(None).max_running == 64
    Path("edgeserve.toml").write_text("[gateway]\nmax_running = 5\n")
    assert _read(None).max_running == 5


def test_secrets_are_taken_from_the_environment() -> None:
    settings = _read(None, EDGESERVE_TOKEN="t", EDGESERVE_API_KEY="k")
    assert (settings.token, settings.api_key) == ("t", ("k",))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("k", ("k",)), ("a, b,c", ("a", "b", "c")), ("", None), ("a,,b", None), ("a,b,a", None)],
)
def test_several_secrets_have_commas_between_them(
    text: str, expected: tuple[str, ...] | None
) -> None:
    if expected is not None:
        assert secrets(text) == expected
        return
    with pytest.raises(ValueError, match="between two commas stands one secret"):
        secrets(text)


def test_an_origin_is_what_a_browser_names() -> None:
    assert origins("https://a.example, http://localhost:3000") == (
        "https://a.example",
        "http://localhost:3000",
    )
    assert origins("*") == ("*",)
    for text in ("", "a.example", "https://a.example/", "https://*.example", "ftp://a.example"):
        with pytest.raises(ValueError, match="is no origin such as"):
            origins(text)


def test_a_collector_is_named_by_its_url() -> None:
    assert http_url("http://collector:4318/") == "http://collector:4318"
    assert http_url("https://a.example/otlp") == "https://a.example/otlp"
    assert http_url("127.0.0.1:8000") == "http://127.0.0.1:8000", "what an address stands in"
    assert http_url("box:8000/") == "http://box:8000"
    for text in ("", "grpc://collector:4317", "http://", "http://a b"):
        with pytest.raises(ValueError, match="is not a URL such as"):
            http_url(text)


def test_keys_are_there_if_any_source_has_some() -> None:
    assert not GatewaySettings().has_keys
    assert GatewaySettings(api_key=("k",)).has_keys
    assert GatewaySettings(api_key_file="keys").has_keys


# -- mistakes


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("[gateway]\nmodle = 3", "mine.toml [gateway]: unknown key 'modle'; did you mean 'model'?"),
        ("[gateway]\nzzz = 3", "mine.toml [gateway]: unknown key 'zzz'; known are workers, model,"),
        ("[gatway]\nlisten = 'a:1'", "mine.toml: unknown key 'gatway'; did you mean 'gateway'?"),
        ("listen = 'a:1'", "mine.toml: unknown key 'listen'; known are worker, gateway"),
        ("gateway = 3", "mine.toml: 'gateway' is a table: write [gateway], then its keys below"),
        ("[gateway\n", "mine.toml: cannot be read as TOML:"),
        ("[gateway]\nmax_running = 0", "mine.toml: max_running: '0' is not a whole number above 0"),
        ("[gateway]\ninsecure = 'maybe'", "mine.toml: insecure: 'maybe' is neither yes nor no"),
        ("[gateway]\nworkers = ['a:1', 'a:1']", "mine.toml: workers: a:1 is named twice"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_file_names_file_and_key(tmp_path: Path, written: str, words: str) -> None:
    config = tmp_path / "mine.toml"
    config.write_text(written)
    with pytest.raises(BadSettings) as raised:
        _read(config)
    assert str(raised.value).startswith(f"{tmp_path}/{words}")


def test_a_file_that_is_named_and_missing_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match=r"gone\.toml: cannot be read.*No such file"):
        _read(tmp_path / "gone.toml")


def test_bytes_that_are_no_text_are_a_mistake(tmp_path: Path) -> None:
    config = tmp_path / "edgeserve.toml"
    config.write_bytes(b"[gateway]\nmodel = '\xff'\n")
    with pytest.raises(BadSettings, match="cannot be read as TOML"):
        _read(config)


def test_a_bad_flag_and_a_bad_variable_are_named() -> None:
    with pytest.raises(BadSettings, match="^--max-running: 'many' is not a whole number"):
        _read(None, {"max_running": "many"}, EDGESERVE_MAX_RUNNING="3")
    with pytest.raises(BadSettings, match="^EDGESERVE_LISTEN: 'here' is not HOST:PORT"):
        _read(None, EDGESERVE_LISTEN="here")


# -- flags


@pytest.mark.parametrize("settings", [WorkerSettings, GatewaySettings])
def test_every_setting_but_a_secret_is_a_flag_with_help(settings: type) -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser, settings)
    shown = parser.format_help()
    for each in fields(settings):
        flag = "--" + each.name.replace("_", "-")
        assert bool(re.search(rf"{flag}\s", shown)) != bool(each.metadata.get("secret")), flag
        assert len(each.metadata["help"]) > 10


def test_only_flags_that_are_given_are_in_the_namespace() -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser, GatewaySettings, without=("listen",))
    given = vars(parser.parse_args(["--max-running", "3", "--insecure"]))
    assert given == {"max_running": "3", "insecure": "yes"}
    settings = _read(None, given)
    assert (settings.max_running, settings.insecure) == (3, True)
    with pytest.raises(SystemExit):
        parser.parse_args(["--listen", "a:1"])


def test_a_child_gets_this_environment_and_the_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESERVE_ONE", "1")
    monkeypatch.setenv("EDGESERVE_TWO", "1")
    child = environment_with({"EDGESERVE_TWO": "2"})
    assert (child["EDGESERVE_ONE"], child["EDGESERVE_TWO"]) == ("1", "2")


@pytest.mark.parametrize(
    ("text", "names"),
    [("a", ("a",)), ("org/a, b", ("org/a", "b")), (" gpt-4o ,tgi", ("gpt-4o", "tgi"))],
)
def test_a_model_has_one_served_name_or_several(text: str, names: tuple[str, ...]) -> None:
    flags = {"served_model_name": text}
    assert read_settings(GatewaySettings, "gateway", flags, {}).served_model_name == names


@pytest.mark.parametrize("text", ["a,", ",", "a,,b", "a,b,a", "a\x00", "x" * 257, " "])
def test_a_served_name_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(BadSettings, match="--served-model-name: .* name"):
        read_settings(GatewaySettings, "gateway", {"served_model_name": text}, {})
