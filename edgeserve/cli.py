"""`edgeserve COMMAND`: one command, one package.

Imports nothing heavy until it knows which command runs, so that `--help` answers at once; and is
the one place where an error becomes a sentence and an exit code.
"""

from __future__ import annotations

import argparse
import gc
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgeserve import __version__
from edgeserve.config import (
    GatewaySettings,
    WorkerSettings,
    add_flags,
    completes_a_line,
    http_url,
    positive_int,
    read_settings,
    tell_openmp,
)
from edgeserve.errors import EdgeserveError
from edgeserve.usage import Parser, complete_with, suggestion

COMMANDS = {
    "up": "start a whole cluster on this machine",
    "worker": "hold a slice of the layers and compute with it",
    "gateway": "answer HTTP, and relay frames through the stages",
    "plan": "decide which layers go to which worker, and what fits",
    "probe": "measure a running cluster: compute, transfer, tokens per second",
    "doctor": "look at every box, and say what would go wrong at start",
}
EXAMPLES = {
    "up": (
        "edgeserve up                                          the demo model on three workers",
        'edgeserve up --prompt "Once upon a time"              and one answer, with its receipt',
        "edgeserve up --model ./qwen3-0.6b --workers 2 --dtype bf16",
        "edgeserve up --model llama-2-13b --dtype fp16 --pace rtx-3060    without its cards",
    ),
    "worker": (
        "edgeserve worker                                      for a gateway on this box",
        "EDGESERVE_TOKEN=... edgeserve worker --listen 10.0.0.2:50051",
        "edgeserve worker --device cuda --memory 11GiB",
    ),
    "gateway": (
        "edgeserve gateway --workers 127.0.0.1:50051 --model demo",
        "EDGESERVE_TOKEN=... edgeserve gateway --model /models/llama-2-13b \\",
        "    --workers 10.0.0.2:50051,10.0.0.3:50051,10.0.0.4:50051",
    ),
    "plan": (
        "edgeserve plan --model llama-2-13b --workers 3 --memory 12GB --dtype fp16",
        "edgeserve plan --model ./qwen3-14b --workers 2 --memory 12GB,24GB --dtype int8",
    ),
    "probe": (
        "edgeserve probe                                       of http://127.0.0.1:8000",
        "edgeserve probe --url 10.0.0.2:8000 --batch 1,4,16 --output-tokens 128",
        "edgeserve probe --batch 1-8 --json --plot probe.png",
    ),
    "doctor": (
        "edgeserve doctor                                      this box alone",
        "edgeserve doctor --workers 10.0.0.2:50051,10.0.0.3:50051 --model llama-2-13b",
    ),
}
PACKAGES = {"up": "launch"}
"""Commands whose package has another name."""

CHATTY = ("httpx", "httpx2", "uvicorn.error", "matplotlib")
"""Libraries whose INFO is no news to an operator, or has addresses that are secrets."""
PORT_MAX = 65535
INTERRUPTED = 130  # what a shell reports for a program that Ctrl-C ended
UP_SETS_ITSELF = {"listen", "insecure", "until_stdin_closes", "workers", "model"}
DOCTOR_TAKES = {"workers", "model", "dtype"}


def main(arguments: Sequence[str] | None = None) -> int:
    """0 done, 1 a verdict failed, 2 bad usage or input, 3 the cluster could not do it, 4 a worker's
    GPU has failed for good.
    """
    options = _parsed(sys.argv[1:] if arguments is None else arguments)
    for library in CHATTY:
        logging.getLogger(library).setLevel(logging.WARNING)
    try:
        return int(options.run(options))
    except EdgeserveError as error:
        sys.stderr.write(f"edgeserve: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """Ends the process with exit code 2 if they cannot be understood."""
    parser = _parser()
    if completes_a_line():
        import argcomplete

        argcomplete.autocomplete(parser)
    first = next(iter(arguments), "--help")
    if first not in COMMANDS and first not in parser._option_string_actions:
        if not first.startswith("-"):
            parser.error(f"there is no command {first!r}{suggestion(first, [*COMMANDS])}")
        parser.error(f"{first} stands before the command: flags come after it")
    return parser.parse_args([first, *arguments[1:]])


def _parser() -> Parser:
    parser = Parser(
        prog="edgeserve",
        description="One model over several cheap boxes, and where every millisecond went.",
        usage="edgeserve COMMAND [FLAGS]",
        examples=[EXAMPLES[name][0] for name in COMMANDS],
    )
    parser.add_argument("--version", action="version", version=f"edgeserve {__version__}")
    commands = parser.add_subparsers(
        prog="edgeserve", title="commands", metavar="COMMAND", required=True
    )
    for name, what in COMMANDS.items():
        command = commands.add_parser(
            name, help=what, description=what, usage=f"edgeserve {name} [FLAGS]",
            examples=EXAMPLES[name],
        )  # fmt: skip
        _DECLARE[name](command)
        _complete(command)
    return parser


# -- worker and gateway: settings from flags, environment and file


def _declare_worker(parser: argparse.ArgumentParser) -> None:
    add_flags(parser, WorkerSettings)
    _declare_config(parser, _run_worker)


def _run_worker(options: argparse.Namespace) -> int:
    settings = read_settings(WorkerSettings, "worker", _given(options), config=options.config)
    tell_openmp(settings.threads)
    from edgeserve.log import write_log

    write_log("console")
    try:
        with _nothing_collected():
            from edgeserve.worker.serve import run_worker
    except (ImportError, OSError) as error:  # the latter for a library that PyTorch links to
        raise EdgeserveError(
            f"a worker cannot be loaded: {error}; it needs PyTorch: install edgeserve[worker], or "
            "PyTorch again"
        ) from error

    return run_worker(settings)


def _declare_gateway(parser: argparse.ArgumentParser) -> None:
    add_flags(parser, GatewaySettings)
    _declare_config(parser, _run_gateway)


def _run_gateway(options: argparse.Namespace) -> int:
    settings = read_settings(GatewaySettings, "gateway", _given(options), config=options.config)
    from edgeserve.log import write_log

    write_log(settings.log_format)
    with _nothing_collected():
        from edgeserve.gateway.serve import run_gateway

    return run_gateway(settings)


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """What is imported lives on. Looking for garbage in it, again and again, takes Python's
    collector a seventh of the time that importing PyTorch takes.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _declare_config(parser: argparse.ArgumentParser, run: Any) -> None:
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="settings; default: edgeserve.toml"
    )
    parser.set_defaults(run=run)


# -- up


def _declare_up(parser: argparse.ArgumentParser) -> None:
    model_help = "folder, org/name on the Hugging Face hub, or built-in shape (default: demo)"
    parser.add_argument("--model", default="demo", help=model_help)
    parser.add_argument("--workers", type=_count, default=3, metavar="N", help="(default: 3)")
    parser.add_argument("--port", type=_port, default=8000, help="of HTTP (default: 8000)")
    parser.add_argument("--prompt", default="", help="ask this once, and print answer and receipt")
    json_help = "print the answer to --prompt as one JSON document, and nothing else"
    parser.add_argument("--json", action="store_true", help=json_help)
    taken = UP_SETS_ITSELF
    for settings, whom in ((WorkerSettings, "each worker"), (GatewaySettings, "the gateway")):
        group = parser.add_argument_group(f"passed on to {whom}")
        add_flags(group, settings, without=taken)
        taken = taken | settings.__dataclass_fields__.keys()
    parser.set_defaults(run=_run_up)


def _run_up(options: argparse.Namespace) -> int:
    """What is wrong with the settings of the processes is found before there are any."""
    from edgeserve.launch.up import UpOptions, run_up

    given = _given(options)
    worker_flags, gateway_flags = _only(given, WorkerSettings), _only(given, GatewaySettings)
    as_worker = read_settings(WorkerSettings, "worker", worker_flags)
    as_gateway = read_settings(GatewaySettings, "gateway", gateway_flags)
    card_bytes = _card_bytes(as_worker)
    return run_up(
        UpOptions(
            model=options.model,
            workers=options.workers,
            port=options.port,
            prompt=options.prompt,
            as_json=options.json,
            api_key=_first_key(as_gateway),
            as_worker=as_worker,
            as_gateway=as_gateway,
            card_bytes=card_bytes,
            worker_flags=worker_flags,
            gateway_flags=gateway_flags,
        )
    )


def _card_bytes(as_worker: WorkerSettings) -> int:
    """Of the card that workers are paced like, if they are. Raises BadSettings for an unknown one,
    as a worker would.
    """
    from edgeserve.worker.cards import card_named

    return card_named(as_worker.pace).memory_bytes if as_worker.pace else 0


def _first_key(as_gateway: GatewaySettings) -> str:
    """A key of the gateway's. Raises BadSettings with what it would say when it is up."""
    from edgeserve.clock import MonotonicClock
    from edgeserve.gateway.edge.keys import first_secret, read_keys

    read_keys(as_gateway, MonotonicClock())
    return first_secret(as_gateway)


def _only(given: dict[str, str], settings: type) -> dict[str, str]:
    # a dataclass
    names = settings.__dataclass_fields__.keys() - UP_SETS_ITSELF  # type: ignore[attr-defined]
    return {name: text for name, text in given.items() if name in names}


# -- plan


def _declare_plan(parser: argparse.ArgumentParser) -> None:
    model_help = "folder, org/name on the Hugging Face hub, or built-in shape, as llama-2-13b"
    parser.add_argument("--model", required=True, help=model_help)
    parser.add_argument("--workers", type=_count, default=3, metavar="N", help="(default: 3)")
    parser.add_argument("--memory", default="12GB", help="of each, or a list (default: 12GB)")
    parser.add_argument(
        "--dtype", default="auto", help="auto, fp32, bf16, fp16, int8 or int4 (default: auto)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.set_defaults(run=_run_plan)


def _run_plan(options: argparse.Namespace) -> int:
    from edgeserve.hugging_face.find import find_model
    from edgeserve.plan.command import run_plan

    source = find_model(options.model)
    told = run_plan(source, options.workers, options.memory, options.dtype, options.json)
    sys.stdout.write(told + "\n")
    return 0


# -- probe


def _declare_probe(parser: argparse.ArgumentParser) -> None:
    url_help = "of the gateway, as 10.0.0.2:8000 (default: http://127.0.0.1:8000)"
    parser.add_argument("--url", type=_url, default="http://127.0.0.1:8000", help=url_help)
    parser.add_argument("--batch", default="1-8", help="as 1-8 or 1,4,16 (default: 1-8)")
    for name, default, what in (
        ("--input-tokens", 32, "of each prompt"),
        ("--output-tokens", 64, "of each answer"),
        ("--runs", 3, "of each batch, after a warm-up; the median counts"),
    ):
        help_text = f"{what} (default: {default})"
        parser.add_argument(name, type=_count, default=default, metavar="N", help=help_text)
    parser.add_argument("--speculate", action="store_true", help="measure drafted tokens, too")
    parser.add_argument("--json", action="store_true", help="one JSON document as the last line")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="write a picture, too")
    parser.set_defaults(run=_run_probe)


def _run_probe(options: argparse.Namespace) -> int:
    from edgeserve.probe.command import ProbeOptions, run_probe

    return run_probe(
        ProbeOptions(
            url=options.url,
            batch=options.batch,
            input_tokens=options.input_tokens,
            output_tokens=options.output_tokens,
            runs=options.runs,
            speculate=options.speculate,
            as_json=options.json,
            plot=options.plot,
            api_key=next(iter(read_settings(GatewaySettings, "gateway", {}).api_key), ""),
        )
    )


# -- doctor: what gateway and worker would be started with here, and three of their flags


def _declare_doctor(parser: argparse.ArgumentParser) -> None:
    others = GatewaySettings.__dataclass_fields__.keys() - DOCTOR_TAKES
    add_flags(parser, GatewaySettings, without=others)
    parser.add_argument("--json", action="store_true", help="one JSON document as the last line")
    _declare_config(parser, _run_doctor)


def _run_doctor(options: argparse.Namespace) -> int:
    from edgeserve.doctor.command import DoctorOptions, run_doctor

    return run_doctor(
        DoctorOptions(
            as_gateway=read_settings(
                GatewaySettings, "gateway", _given(options), config=options.config
            ),
            as_worker=read_settings(WorkerSettings, "worker", {}, config=options.config),
            as_json=options.json,
        )
    )


# -- what a shell offers


def _models() -> list[str]:
    """Built-in ones; folders are a shell's own business."""
    from edgeserve.families.shapes import SHAPES

    return ["demo", *SHAPES, *(f"{each.name}/" for each in Path().iterdir() if each.is_dir())]


def _cards() -> list[str]:
    from edgeserve.worker.cards import CARDS

    return [*CARDS]


def _complete(parser: argparse.ArgumentParser) -> None:
    words = {"--model": _models, "--pace": _cards}
    for action in parser._actions:
        for flag in words.keys() & set(action.option_strings):
            complete_with(action, words[flag])


# -- parsing


def _count(text: str) -> int:
    try:
        return positive_int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > PORT_MAX:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a port from 0 (a free one) to {PORT_MAX}"
        )
    return int(text)


def _url(text: str) -> str:
    try:
        return http_url(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _given(options: argparse.Namespace) -> dict[str, str]:
    """The flags that were given, as text."""
    return {name: value for name, value in vars(options).items() if isinstance(value, str)}


_DECLARE = {
    "up": _declare_up,
    "worker": _declare_worker,
    "gateway": _declare_gateway,
    "plan": _declare_plan,
    "probe": _declare_probe,
    "doctor": _declare_doctor,
}
