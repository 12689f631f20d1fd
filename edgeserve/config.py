"""Settings, from flags, then the environment, then `edgeserve.toml`. The only module that reads the
environment.

A setting is declared once, as a field made by `setting(...)`; its flag, its variable, its key in
the file, its help and its place in docs/operating.md all follow from that. Unknown keys are errors
with a suggestion.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import re
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from edgeserve.errors import BadSettings
from edgeserve.usage import complete_with, suggestion

PREFIX = "EDGESERVE_"
CONFIG_FILE = "edgeserve.toml"
NAME_CHARACTERS_MAX = 256
"""Of a served model; a request may name one with 1024."""
_BYTE_UNITS = {
    "": 1, "B": 1,
    "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40,
}  # fmt: skip

Settings = TypeVar("Settings")


def setting(default: Any, help_text: str, parse: Callable[[str], Any] = str, **more: Any) -> Any:
    """A dataclass field that is also a flag. `parse` raises ValueError with a sentence;
    `secret=True` has no flag.
    """
    return field(default=default, metadata={"help": help_text, "parse": parse, **more})


def number_bytes(text: str) -> int:
    """'11GiB', '12GB' or '123' as bytes."""
    match = re.fullmatch(r"\s*(\d{1,15}(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    unit = _BYTE_UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None:
        raise ValueError(f"{text!r} is not an amount of memory such as 11GiB or 12GB")
    return int(float(match[1]) * unit)


def positive_int(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{text!r} is not a whole number above 0")
    return int(text)


def positive_seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1e9:
        raise ValueError(f"{text!r} is not a number of seconds above 0")
    return value


def header_text(text: str) -> str:
    """A secret: it travels in a header. It is not repeated in the message."""
    if not re.fullmatch(r"[!-~]*", text):
        raise ValueError("a secret is made of printable ASCII characters without blanks")
    return text


def secrets(text: str) -> tuple[str, ...]:
    """One secret, or several with commas between them."""
    found = tuple(header_text(part.strip()) for part in text.split(","))
    if not all(found) or len(set(found)) < len(found):
        raise ValueError("between two commas stands one secret, and no secret stands there twice")
    return found


def model_names(text: str) -> tuple[str, ...]:
    """One name, or several with commas between them."""
    found = tuple(part.strip() for part in text.split(","))
    if not all(found) or len(set(found)) < len(found):
        raise ValueError(
            f"{text!r}: between two commas stands one name, and no name stands there twice"
        )
    long = next((name for name in found if len(name) > NAME_CHARACTERS_MAX), "")
    if long or not text.isprintable():
        raise ValueError(
            f"{text[:80]!r}: a model's name has at most {NAME_CHARACTERS_MAX} printable characters"
        )
    return found


def origins(text: str) -> tuple[str, ...]:
    """As browsers name them: scheme, host and port, and no path. Or * for any."""
    found = tuple(part.strip() for part in text.split(","))
    for each in found:
        if each != "*" and not re.fullmatch(r"https?://[^\s/,*]+", each):
            raise ValueError(f"{each!r} is no origin such as https://chat.example.org, nor *")
    return found


def http_url(text: str) -> str:
    """A URL, or the address that stands in one: `127.0.0.1:8000`."""
    url = text if "://" in text else f"http://{text}"
    if not re.fullmatch(r"https?://[^\s/]+(/\S*)?", url):
        raise ValueError(f"{text!r} is not a URL such as http://127.0.0.1:8000")
    return url.rstrip("/")


@dataclass(frozen=True)
class OneOf:
    """Parses one of a few words."""

    allowed: tuple[str, ...]

    def __call__(self, text: str) -> str:
        if text not in self.allowed:
            near = suggestion(text, self.allowed)
            raise ValueError(f"{text!r} is none of {', '.join(self.allowed)}{near}")
        return text


def one_of(*allowed: str) -> OneOf:
    return OneOf(allowed)


def yes_or_no(text: str) -> bool:
    if text.lower() not in ("1", "0", "true", "false", "yes", "no"):
        raise ValueError(f"{text!r} is neither yes nor no")
    return text.lower() in ("1", "true", "yes")


@dataclass(frozen=True)
class Address:
    """HOST:PORT; IPv6 hosts stand in brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:  # some other name
            return False


def address(text: str) -> Address:
    ipv6, name = r"\[([0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]", r"([^\s:\[\],/]+)"
    match = re.fullmatch(rf"(?:{ipv6}|{name}):(\d{{1,5}})", text.strip())
    if match is None or int(match[3]) > 65535:
        raise ValueError(f"{text!r} is not HOST:PORT, such as 127.0.0.1:50051 or [::1]:50051")
    return Address(match[1] or match[2], int(match[3]))


def addresses(text: str) -> tuple[Address, ...]:
    found = tuple(address(part) for part in text.split(",") if part.strip())
    doubles = {str(a) for a in found if found.count(a) > 1}
    if doubles:
        raise ValueError(
            f"{', '.join(sorted(doubles))} is named twice; each worker holds one stage"
        )
    return found


def counts(text: str) -> tuple[int, ...]:
    """'13,14,13' as numbers."""
    return tuple(positive_int(part.strip()) for part in text.split(","))


def drafts(text: str) -> str:
    """'auto', 'off' or how many."""
    return text if text in ("auto", "off") else str(positive_int(text))


def slowdown(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1 < value <= 1000:
        raise ValueError(f"{text!r} is not a number above 1, such as 1.6")
    return value


device = one_of("auto", "cpu", "cuda")
dtype = one_of("auto", "fp32", "bf16", "fp16", "int8", "int4")


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    listen: Address = setting(
        Address("127.0.0.1", 50051), "where to serve gRPC; port 0 takes a free one", address
    )
    model: str = setting(
        "",
        "this box's model folder, or org/name@commit on the Hugging Face hub; default: what the "
        "gateway names",
    )
    device: str = setting("auto", "auto, cpu or cuda", device)
    memory: int = setting(
        0, "bytes for slice, pages and workspace, as 11GiB; default: what is free", number_bytes
    )
    threads: int = setting(0, "CPU threads; default: all cores", positive_int)
    local_files: str = setting(
        "on",
        "on or off: look into the folder that the gateway names, before asking it for weights",
        one_of("on", "off"),
    )
    cache: str = setting("", "folder to keep weights in; default: edgeserve in the user's caches")
    cache_bytes: int = setting(
        0, "of weights to keep there, at most, as 50GB; default: 100GB", number_bytes
    )
    pace: str = setting(
        "", "compute nothing, and take the time of this card, as rtx-3060: a paced simulation"
    )
    insecure: bool = setting(False, "listen beyond loopback without a token", yes_or_no)
    until_stdin_closes: bool = setting(
        False, "end when standard input closes, as a child of another program should", yes_or_no
    )
    token: str = setting("", "the cluster's shared secret", header_text, secret=True)


@dataclass(frozen=True, kw_only=True)
class GatewaySettings:
    workers: tuple[Address, ...] = setting((), "HOST:PORT of each stage, in order", addresses)
    model: str = setting(
        "",
        "model folder, org/name[@revision] on the Hugging Face hub, or a built-in shape with "
        "random weights",
    )
    served_model_name: tuple[str, ...] = setting(
        (),
        "name of the model for clients, or several with commas between them: answers carry the one "
        "that was asked for; default: the name of its folder or repository",
        model_names,
    )
    listen: Address = setting(Address("127.0.0.1", 8000), "where to serve HTTP", address)
    dtype: str = setting("auto", "auto, fp32, bf16, fp16, int8 or int4", dtype)
    cache: str = setting(
        "", "folder to note hashes of files in; default: edgeserve in the user's caches"
    )
    layers: tuple[int, ...] = setting((), "of each stage, as 13,14,13; default: planned", counts)
    micro_batches: int = setting(
        0, "frames of decodes in flight at once; default: learned", positive_int
    )
    max_running: int = setting(64, "sequences that compute at the same time", positive_int)
    max_waiting: int = setting(128, "requests that wait for pages; more get 429", positive_int)
    prefill_chunk: int = setting(
        0,
        "prompt tokens in one frame, at most; default: 512 if one processor computes all stages, "
        "else 64",
        positive_int,
    )
    decode_slowdown: float = setting(
        1.6, "times as long as alone that a token may take while others' prompts run", slowdown
    )
    prefix_cache: str = setting(
        "on", "on or off: prompts that begin alike share what is computed", one_of("on", "off")
    )
    speculate: str = setting(
        "auto", "tokens to guess and check in one step: auto, off or how many", drafts
    )
    connect_timeout: float = setting(60.0, "seconds to wait for workers", positive_seconds)
    step_timeout: float = setting(
        60.0, "seconds without an answer after which a stage is lost, at most", positive_seconds
    )
    queue_timeout: float = setting(
        120.0, "seconds after which a waiting request gets 429", positive_seconds
    )
    drain_timeout: float = setting(
        30.0, "seconds that running requests have to end in after SIGTERM", positive_seconds
    )
    api_key_file: str = setting("", "file with keys for HTTP clients, one a line, as NAME:KEY")
    key_concurrency: int = setting(
        0, "answers of one key that run or wait at once; more get 429", positive_int
    )
    key_tokens_per_minute: int = setting(
        0, "tokens of prompts and answers that one key has a minute; more get 429", positive_int
    )
    max_connections: int = setting(
        900, "connections of HTTP clients at once; more get 429", positive_int
    )
    cors_origins: tuple[str, ...] = setting(
        (), "pages of these origins may ask from a browser, as https://a.example, or *", origins
    )
    otlp_endpoint: str = setting(
        "", "send a trace of each request to this OTLP/HTTP collector", http_url
    )
    log_format: str = setting(
        "console", "console for people, or json: one document a line", one_of("console", "json")
    )
    insecure: bool = setting(False, "listen beyond loopback without an API key", yes_or_no)
    until_stdin_closes: bool = setting(
        False, "end when standard input closes, as a child of another program should", yes_or_no
    )
    token: str = setting("", "the cluster's shared secret", header_text, secret=True)
    api_key: tuple[str, ...] = setting(
        (), "what HTTP clients send as a bearer token; several have commas between them",
        secrets, secret=True,
    )  # fmt: skip

    @property
    def has_keys(self) -> bool:
        return bool(self.api_key or self.api_key_file)


def add_flags(
    parser: argparse._ActionsContainer, settings: type, without: Collection[str] = ()
) -> None:
    """One flag for each setting; those that are not given are absent from the parsed namespace."""
    for each in fields(settings):
        if each.metadata.get("secret") or each.name in without:
            continue
        flag = "--" + each.name.replace("_", "-")
        if isinstance(each.default, bool):
            parser.add_argument(
                flag, action="store_const", const="yes", default=argparse.SUPPRESS,
                help=each.metadata["help"],
            )  # fmt: skip
        else:
            action = parser.add_argument(
                flag, metavar=_metavar(each), default=argparse.SUPPRESS, help=_help(each)
            )
            if isinstance(each.metadata["parse"], OneOf):
                complete_with(action, partial(list, each.metadata["parse"].allowed))


def read_settings(
    settings: type[Settings],
    section: str,
    flags: Mapping[str, str],
    environ: Mapping[str, str] | None = None,
    config: Path | None = None,
) -> Settings:
    """The settings of one command. `section` is its table in the configuration file.

    Raises BadSettings naming the flag, variable or key, and the value.
    """
    environ = os.environ if environ is None else environ
    from_file = _read_file(config, section, settings)
    values: dict[str, Any] = {}
    for each in fields(settings):  # type: ignore[arg-type]  # a dataclass, by convention
        for source, text in _candidates(each, flags, environ, from_file):
            values[each.name] = _parse(each, source, text)
            break
    return settings(**values)


def cache_folder(named: str) -> Path:
    """`named`, or edgeserve's own where the user's caches are."""
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(named or f"{caches}/edgeserve").expanduser()


@dataclass(frozen=True, kw_only=True)
class GpuEnvironment:
    """What the environment tells CUDA and Triton, in their own variables."""

    visible_devices: str | None
    """`CUDA_VISIBLE_DEVICES`: which GPUs CUDA shows, by index or UUID; None shows all."""
    counts_by_slot: bool
    """`CUDA_DEVICE_ORDER`: as nvidia-smi does; the default is the fastest first."""
    compiler: str
    """`CC`; empty leaves the choice to Triton."""
    kernel_cache: Path
    """Where Triton keeps what it has compiled."""


def gpu_environment() -> GpuEnvironment:
    home = os.environ.get("TRITON_HOME") or "~"
    return GpuEnvironment(
        visible_devices=os.environ.get("CUDA_VISIBLE_DEVICES"),
        counts_by_slot=os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID",
        compiler=os.environ.get("CC") or "",
        kernel_cache=Path(
            os.environ.get("TRITON_CACHE_DIR") or f"{home}/.triton/cache"
        ).expanduser(),
    )


def completes_a_line() -> bool:
    """Whether a shell asks what could come next on the line that is being typed."""
    return "_ARGCOMPLETE" in os.environ


def environment_with(changes: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with `changes`, for a child process."""
    return {**os.environ, **changes}


SPINS = 20_000
"""Some 0.2 ms, by an estimate: from one operation to the next, but not from one frame to the next.
Without, each operation wakes the other threads anew, a fifth of a step's time (docs/LOG.md)."""


def tell_openmp(threads: int) -> None:
    """How many threads compute, 0 for all cores, and that those that wait soon sleep: spinning for
    long, as they would, takes the cores from the other workers of the machine.

    To be called before torch is loaded, which is when OpenMP reads its environment. Setting the
    number later counts for one thread only, and frames are computed on another. What the
    environment says about waiting already stays.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))
    if threads:
        os.environ["OMP_NUM_THREADS"] = str(threads)


def _metavar(each: Field[Any]) -> str:
    return each.name.split("_")[-1].upper()


def _help(each: Field[Any]) -> str:
    default = each.default
    shown = "" if default is MISSING or default in ("", 0, ()) else f" (default: {default})"
    help_text: str = each.metadata["help"]
    return help_text.replace("%", "%%") + shown


def _candidates(
    each: Field[Any],
    flags: Mapping[str, str],
    environ: Mapping[str, str],
    from_file: Mapping[str, tuple[str, str]],
) -> Iterator[tuple[str, str]]:
    flag, variable = "--" + each.name.replace("_", "-"), PREFIX + each.name.upper()
    if each.name in flags:
        yield flag, flags[each.name]
    if environ.get(variable):
        yield variable, environ[variable]
    if each.name in from_file:
        yield from_file[each.name]


def _parse(each: Field[Any], source: str, text: str) -> Any:
    try:
        return each.metadata["parse"](text)
    except ValueError as error:
        raise BadSettings(f"{source}: {error}") from None


def _read_file(path: Path | None, section: str, settings: type) -> Mapping[str, tuple[str, str]]:
    """Where each setting stands, and its text. Keys may be spelt with - or _. Without `path`,
    edgeserve.toml here, if there is one.
    """
    if path is None:
        path = Path(CONFIG_FILE)
        if not path.exists():
            return {}
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadSettings(f"{path}: cannot be read as TOML: {error}") from None
    _refuse_unknown(f"{path}", document, ["worker", "gateway"])
    keys = document.get(section, {})
    if not isinstance(keys, dict):
        raise BadSettings(f"{path}: {section!r} is a table: write [{section}], then its keys below")
    table = {key.replace("-", "_"): value for key, value in keys.items()}
    _refuse_unknown(f"{path} [{section}]", table, [each.name for each in fields(settings)])
    return {name: (f"{path}: {name}", _text(value)) for name, value in table.items()}


def _refuse_unknown(where: str, found: Mapping[str, Any], known: list[str]) -> None:
    for key in found:
        if key not in known:
            hint = suggestion(key, known) or f"; known are {', '.join(known)}"
            raise BadSettings(f"{where}: unknown key {key!r}{hint}")


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(str(part) for part in value)
    return str(value).lower() if isinstance(value, bool) else str(value)
