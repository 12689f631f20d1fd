"""`edgeserve probe`: measures a running cluster at one batch after another, and judges it.

Progress goes to stderr. Stdout holds the table or, with --json, one line with one document.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
from rich.console import Console

from edgeserve.clock import MonotonicClock
from edgeserve.errors import BadRequest
from edgeserve.probe.cluster import Cluster
from edgeserve.probe.load import CONNECT_TIMEOUT_S, Load, LoadRun, Refusal, Shape
from edgeserve.probe.plot import check_plot, write_plot
from edgeserve.probe.ranges import parse_range
from edgeserve.probe.report import ProbeReport, print_report, to_json, wide_enough
from edgeserve.probe.rows import Measured, Refused, Row, row_of
from edgeserve.probe.verdict import judge

OUTPUT_TOKENS_MIN = 2  # there has to be a time between two tokens


@dataclass(frozen=True, kw_only=True)
class ProbeOptions:
    url: str = "http://127.0.0.1:8000"
    batch: str = "1-8"
    input_tokens: int = 32
    output_tokens: int = 64
    runs: int = 3
    speculate: bool = False
    """Measure each batch with drafted tokens, too."""
    as_json: bool = False
    plot: Path | None = None
    api_key: str = ""
    silence_s: float = 150.0
    """Without a token, after which the cluster counts as dead. The gateway gives up queueing after
    120 s, and says so."""


def run_probe(options: ProbeOptions) -> int:
    """0 if the verdict is a pass, 1 if not.

    Raises BadRequest (exit code 2) for what was asked, and StageUnavailable or WireError (3) for a
    cluster that could not do it.
    """
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it would log every request
    batches = parse_range("--batch", options.batch)
    _check(options)
    report = asyncio.run(_probe(options, batches))
    if options.plot is not None:
        write_plot(report, options.plot)
    if options.as_json:
        print(json.dumps(to_json(report)))
    else:
        print_report(report, wide_enough(Console(highlight=False)))
    return 0 if report.verdict.passed else 1


def _check(options: ProbeOptions) -> None:
    if not _is_url(options.url):
        raise BadRequest(f"--url {options.url!r} is not a URL such as http://127.0.0.1:8000")
    if options.input_tokens < 1 or options.runs < 1:
        raise BadRequest("--input-tokens and --runs are at least 1")
    if options.output_tokens < OUTPUT_TOKENS_MIN:
        raise BadRequest(
            f"--output-tokens {options.output_tokens}: at least {OUTPUT_TOKENS_MIN} are needed for "
            "a time between tokens"
        )
    if options.plot is not None:
        check_plot(options.plot)


def _is_url(text: str) -> bool:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        return False
    return url.scheme in ("http", "https") and bool(url.host)


async def _probe(options: ProbeOptions, batches: tuple[int, ...]) -> ProbeReport:
    shape = Shape(input_tokens=options.input_tokens, output_tokens=options.output_tokens)
    async with _client(options) as http:
        load = Load(http, MonotonicClock(), options.silence_s)
        cluster = await load.cluster()
        rows: list[Row] = []
        for batch in batches:
            row = await _row(load, batch, shape, options.runs, cluster)
            if isinstance(row, Measured) and options.speculate:
                drafts = replace(shape, speculate=True)
                row = _beside(row, await _row(load, batch, drafts, options.runs, cluster))
            rows.append(row)
            if isinstance(row, Refused):
                break  # a larger batch needs more of what is missing
        cluster = await load.cluster()  # again: its stage times are now those of the probe
    return ProbeReport(
        cluster=cluster,
        shape=shape,
        runs=options.runs,
        rows=tuple(rows),
        verdict=judge(rows, shape, cluster),
    )


async def _row(load: Load, batch: int, shape: Shape, runs: int, cluster: Cluster) -> Row:
    return row_of(batch, await _measure(load, batch, shape, runs), shape, cluster)


def _beside(plain: Measured, drafted: Row) -> Row:
    return replace(plain, drafted=drafted) if isinstance(drafted, Measured) else drafted


def _client(options: ProbeOptions) -> httpx.AsyncClient:
    """One connection for each request of a batch, kept for the next batch.

    No proxy: it would be measured too, and would hold back what a stream sends.
    """
    return httpx.AsyncClient(
        base_url=options.url,
        headers={"Authorization": f"Bearer {options.api_key}"} if options.api_key else {},
        limits=httpx.Limits(
            max_connections=None, max_keepalive_connections=None, keepalive_expiry=None
        ),
        timeout=httpx.Timeout(options.silence_s, connect=CONNECT_TIMEOUT_S, pool=None),
        trust_env=False,
    )


async def _measure(load: Load, batch: int, shape: Shape, runs: int) -> list[LoadRun] | Refusal:
    _progress(f"batch {batch}: warming up")
    refusal = await load.warm_up(batch, shape)
    if refusal is not None:
        return refusal
    done: list[LoadRun] = []
    for number in range(1, runs + 1):
        _progress(f"batch {batch}: run {number} of {runs}")
        run = await load.run(batch, shape)
        if isinstance(run, Refusal):
            return run
        done.append(run)
    return done


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
