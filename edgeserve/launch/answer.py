"""The one answer of `edgeserve up --prompt`: its text and where its time went, or all of it as a
document.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgeserve.errors import EdgeserveError

ANSWER_TIMEOUT_S = 300.0
PARTS = ("total_ms", "compute_ms", "transfer_ms", "waiting_ms", "other_ms")
TABLE_COLUMNS = 100
"""Wide enough for the table; a narrower terminal would cut numbers short."""

Document = Mapping[str, Any]


def first_answer(url: str, prompt: str, api_key: str = "") -> Document:
    """What POST /generate says to one real request. Raises EdgeserveError with what it says if that
    is no answer.
    """
    body = {"inputs": prompt, "parameters": {"max_new_tokens": 200, "details": True}}
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        response = httpx.post(
            f"{url}/generate",
            json=body,
            headers=headers,
            timeout=ANSWER_TIMEOUT_S,
            trust_env=False,  # a proxy between this process and its child would know neither
        )
        answer = response.json()
    except (httpx.HTTPError, ValueError) as error:
        raise EdgeserveError(f"the first request failed: {type(error).__name__}: {error}") from None
    if response.status_code != httpx.codes.OK:
        raise EdgeserveError(f"the first request failed: {answer.get('error', response.text)}")
    return {"prompt": prompt, **answer}


def show_answer(answer: Document, as_json: bool) -> None:
    """On standard output."""
    if as_json:
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
        return
    console = Console()
    console.width = max(console.width, TABLE_COLUMNS)
    console.print(Text(f"\n{answer['prompt']}{answer['generated_text']}"), soft_wrap=True)
    console.print(Text(f"\n{_title(answer)}"), soft_wrap=True)
    console.print(_table(answer["timing"]))
    console.print()


def _title(answer: Document) -> str:
    timing = answer["timing"]
    tokens = timing["decode"]["tokens"] + 1
    labels = ["weights: random"] if answer.get("weights") == "random" else []
    labels += [answer["simulation"]] if "simulation" in answer else []
    label = f" ({', '.join(labels)})" if labels else ""
    return f"{tokens} tokens in {timing['total_ms']:.0f} ms{label}: {timing['verdict']}"


def _table(timing: Document) -> Table:
    """In milliseconds. Stages have the sums of both phases."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("ms", no_wrap=True)
    for name in ("tokens", *PARTS):
        table.add_column(name.removesuffix("_ms"), justify="right", no_wrap=True)
    for phase in ("prefill", "decode"):
        table.add_row(phase, str(timing[phase]["tokens"]), *_times(timing[phase]))
    for stage in timing["stages"]:
        start, end = stage["layers"]
        table.add_row(f"  stage {stage['stage']}, layers [{start}, {end})", "", *_times(stage))
    return table


def _times(times: Document) -> list[str]:
    return [f"{times[part]:.1f}" if part in times else "" for part in PARTS]
