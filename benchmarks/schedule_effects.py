"""What the schedule does for users of a running cluster: `python -m benchmarks.schedule_effects`.

Against any gateway's URL, real or paced; what a paced one gives is a paced simulation, and the
first line says so. Batches come from `edgeserve probe`; the rest is asked here: how much a prompt
that arrives delays those who decode, what a repeated prompt saves, how fast a text is quoted that
stands in the prompt. Each on an otherwise idle cluster.

Not covered: starting the cluster; telling speculation from a fast model. For that, ask two
gateways, one of them without it, and compare their rows: `answer` says whether they gave the same.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import httpx

from benchmarks.client import Answer, Question, ask, ask_all, open_http
from benchmarks.windows import gaps_during_s, gaps_together_s
from edgeserve.config import GatewaySettings, read_settings
from edgeserve.probe.prompts import prompt_text
from edgeserve.probe.rows import percentile

PARTS = ("batches", "intruder", "prefix", "quoting")
LONG_PROMPT_TOKENS = 1024
DECODING = 8
INTRUDERS_MAX = 5
INTRUDER_TOKENS = 512
PAUSE_S = 0.5
"""Between intruders, so that each one meets a cluster that only decodes."""
PREFIX_TOKENS = 1000
QUOTED_WORDS, BEGUN_WORDS, QUOTED_TOKENS = 60, 20, 96


@dataclass(frozen=True, kw_only=True)
class Row:
    name: str
    value: float | str
    aim: str = ""
    """What the project wants of itself; of batches and long prompts, at the pace of an RTX 3060."""


def main() -> None:
    options = make_parser().parse_args()
    simulation, rows = asyncio.run(measure(options))
    if options.json:
        document = {"simulation": simulation, "rows": [asdict(each) for each in rows]}
        print(json.dumps(document))
    else:
        print(report(simulation, rows))


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.schedule_effects", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of the gateway")
    parser.add_argument("--only", default=",".join(PARTS), help=f"some of {','.join(PARTS)}")
    parser.add_argument("--batch", default="1,8,24", help="of the probe (default: 1,8,24)")
    parser.add_argument("--repeats", type=int, default=3, help="of each (default: 3)")
    parser.add_argument(
        "--decoded-tokens", type=int, default=192,
        help="of each sequence that an intruder meets (default: 192)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="one JSON document as the last line")
    return parser


async def measure(options: argparse.Namespace) -> tuple[str | None, list[Row]]:
    """What is simulated, if anything, and the figures."""
    parts, rows = options.only.split(","), list[Row]()
    api_key = next(iter(read_settings(GatewaySettings, "gateway", {}).api_key), "")
    async with open_http(options.url, api_key) as http:
        cluster = (await http.get("/v1/cluster")).json()
        await ask(http, _question(PREFIX_TOKENS // 2, 8))  # warms up
        if "batches" in parts:
            rows += read_probe(_probe(options, "--batch", options.batch))
            rows += read_ttft(
                _probe(options, "--batch", "1", "--input-tokens", f"{LONG_PROMPT_TOKENS}",
                       "--output-tokens", "2")
            )  # fmt: skip
        if "intruder" in parts:
            rows += await _intruder(http, options.repeats, options.decoded_tokens)
        if "prefix" in parts:
            rows += await _prefix(http, options.repeats)
        if "quoting" in parts:
            rows += await _quoting(http)
    return cluster.get("simulation"), rows


def report(simulation: str | None, rows: Sequence[Row]) -> str:
    lines = [f"| {each.name} | {_shown(each.value)} | {each.aim} |" for each in rows]
    title = simulation or "not a simulation"
    return "\n".join([f"{title}\n", "| measure | median | aim |", "|---|--:|--:|", *lines])


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.2f}"


# -- batches, by the probe


def _probe(options: argparse.Namespace, *more: str) -> dict[str, Any]:
    """Its document. A verdict that failed is a figure too."""
    command = [
        sys.executable, "-m", "edgeserve", "probe", "--url", options.url, "--json",
        "--runs", f"{options.repeats}", *more,
    ]  # fmt: skip
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, 1):
        raise SystemExit(f"the probe ended with {done.returncode}; what it said is above")
    document: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return document


def read_probe(document: Mapping[str, Any]) -> list[Row]:
    return [row for each in document["rows"] for row in _batch(each)]


def _batch(row: Mapping[str, Any]) -> list[Row]:
    batch = f"batch {row['batch']}"
    if row["status"] != "ok":
        return [Row(name=batch, value=f"{row['status']}: {row['reason']}")]
    aims = {1: "at least 11", 8: "at least 85", 24: "at least 230"}
    found = [
        Row(name=f"{batch}, tokens/s", value=row["output_tok_s"], aim=aims.get(row["batch"], "")),
        Row(name=f"{batch}, transfer + other of a token, ms",
            value=row["transfer_ms"] + row["other_ms"], aim="at most 4.5"),
        Row(name=f"{batch}, waiting of a token, ms", value=row["waiting_ms"]),
    ]  # fmt: skip
    if row["batch"] > 1 and row["efficiency"] is not None:
        aim = "at least 0.95" if row["batch"] == 8 else ""
        found.append(Row(name=f"{batch}, efficiency", value=row["efficiency"], aim=aim))
    return found


def read_ttft(document: Mapping[str, Any]) -> list[Row]:
    (row,) = document["rows"]
    if row["status"] != "ok":
        return [Row(name="long prompt", value=f"{row['status']}: {row['reason']}")]
    name = f"first token after {document['input_tokens']} prompt tokens, s"
    return [Row(name=name, value=row["ttft_ms"]["p50"] / 1e3, aim="at most 0.65")]


# -- a prompt that arrives while others decode


async def _intruder(http: httpx.AsyncClient, repeats: int, tokens: int) -> list[Row]:
    """Quiet and disturbed in turns."""
    quiet_s: list[float] = []
    disturbed_s: list[float] = []
    for _ in range(repeats):
        quiet = await ask_all(http, _eight(tokens))
        quiet_s += gaps_together_s(quiet)
        lead_s = 1.5 * max(each.ttft_s for each in quiet)  # by then all of them decode
        disturbed_s += gaps_during_s(*await _disturbed(http, tokens, lead_s))
    if not disturbed_s:
        raise SystemExit("the sequences ended before an intruder came: raise --decoded-tokens")
    before_s, during_s = percentile(quiet_s, 99), percentile(disturbed_s, 99)
    return [
        Row(name=f"p99 between tokens of {DECODING}, undisturbed, ms", value=1e3 * before_s),
        Row(name=f"while {INTRUDER_TOKENS} prompt tokens are read, ms", value=1e3 * during_s),
        Row(name="as a multiple", value=during_s / before_s, aim="at most 2"),
    ]


def _eight(tokens: int) -> list[Question]:
    return [_question(32, tokens) for _ in range(DECODING)]


async def _disturbed(
    http: httpx.AsyncClient, tokens: int, lead_s: float
) -> tuple[list[Answer], list[Answer]]:
    """The eight, and their intruders, one after another."""
    decoding = asyncio.create_task(ask_all(http, _eight(tokens)))
    intruders: list[Answer] = []
    await asyncio.sleep(lead_s)
    while not decoding.done() and len(intruders) < INTRUDERS_MAX:
        intruders.append(await ask(http, _question(INTRUDER_TOKENS, 1)))
        await asyncio.sleep(PAUSE_S)
    return await decoding, intruders


# -- a prompt that was read before


async def _prefix(http: httpx.AsyncClient, repeats: int) -> list[Row]:
    first_s, again_s = [], []
    for _ in range(repeats):
        question = _question(PREFIX_TOKENS, 1)
        first_s.append((await ask(http, question)).ttft_s)
        again_s.append((await ask(http, question)).ttft_s)
    first, again = statistics.median(first_s), statistics.median(again_s)
    return [
        Row(name=f"first token after {PREFIX_TOKENS} new prompt tokens, s", value=first),
        Row(name="the same prompt again, s", value=again),
        Row(name="as a share", value=again / first, aim="at most 0.15"),
    ]


# -- an answer that stands in the prompt


async def _quoting(http: httpx.AsyncClient) -> list[Row]:
    """A text, and its beginning once more: whoever can copy goes on with the rest. Always the same
    text, so that the answers of two gateways can be compared.
    """
    words = prompt_text(QUOTED_WORDS, "quoted").split()
    text = " ".join([*words, *words[:BEGUN_WORDS]])
    question = Question(text=text, new_tokens=QUOTED_TOKENS)
    answers = [await ask(http, question) for _ in range(3)]
    rates = [(len(a.token_s) - 1) / (a.token_s[-1] - a.token_s[0]) for a in answers]
    answer = hashlib.sha256(json.dumps(answers[0].token_ids).encode()).hexdigest()[:8]
    return [
        Row(name="quoting, tokens/s", value=statistics.median(rates)),
        Row(name="answer", value=answer),
    ]


def _question(tokens: int, new_tokens: int) -> Question:
    """Unlike any before, in this run or another: a cache would know it."""
    return Question(
        text=prompt_text(tokens, f"{time.time_ns()}"), prompt_tokens=tokens, new_tokens=new_tokens
    )


if __name__ == "__main__":
    main()
