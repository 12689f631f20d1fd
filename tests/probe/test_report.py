"""The report for people and the one for programs, against golden files.

`python -m tests.probe.test_report` writes the files anew; look at the difference first.
"""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from edgeserve.probe.report import ProbeReport, print_report, to_json, wide_enough
from edgeserve.probe.rows import efficiency
from edgeserve.probe.verdict import judge
from tests.probe.made_up import SHAPE, oom, report, row, token

GOLDEN = Path(__file__).parent / "golden"
ROWS = (
    row(1),
    row(2, token(73.0)),
    row(4, token(75.0, 1.6, 0.2)),
    row(8, token(79.5, 1.9, 0.4, 2.2)),
    oom(16),
)
HEALTHY = ROWS[:-1]


def text_of(given: ProbeReport, columns: int = 200) -> str:
    console = Console(file=io.StringIO(), width=columns, highlight=False)
    print_report(given, wide_enough(console))
    assert isinstance(console.file, io.StringIO)
    return "".join(f"{line.rstrip()}\n" for line in console.file.getvalue().splitlines())


def json_text_of(given: ProbeReport) -> str:
    """Spread over lines, for the eyes of whoever reads the difference."""
    return json.dumps(to_json(given), indent=2) + "\n"


def test_the_table_for_people_is_the_golden_one() -> None:
    assert text_of(report(ROWS)) == (GOLDEN / "report.txt").read_text()


def test_the_document_for_programs_is_the_golden_one() -> None:
    assert json_text_of(report(ROWS)) == (GOLDEN / "report.json").read_text()


def test_the_document_has_the_promised_keys() -> None:
    document = to_json(report(ROWS))

    assert list(document) == [
        "model", "dtype", "weights", "simulation", "device", "input_tokens", "output_tokens",
        "runs", "stages", "rows", "verdict",
    ]  # fmt: skip
    promised = {
        "batch", "status", "output_tok_s", "tok_s_per_user", "ttft_ms", "tpot_ms", "compute_ms",
        "transfer_ms", "waiting_ms", "other_ms", "efficiency",
    }  # fmt: skip
    for each in document["rows"]:
        assert each.keys() == promised | {
            "reason", "kv_tokens_in_use", "receipts_add_up", "tokens_per_lap", "drafted",
        }  # fmt: skip
    assert document["verdict"].keys() == {"pass", "reasons"}


def test_efficiency_follows_from_the_throughputs_beside_it() -> None:
    """Whoever reads the document can check the formula."""
    rows: list[dict[str, Any]] = to_json(report(HEALTHY))["rows"]
    alone = rows[0]["output_tok_s"]

    for each in rows:
        expected = each["output_tok_s"] / (each["batch"] * alone)
        assert abs(each["efficiency"] - expected) < 1e-3


def test_a_batch_that_did_not_run_has_no_numbers() -> None:
    last = to_json(report(ROWS))["rows"][-1]

    assert (last["batch"], last["status"]) == (16, "oom")
    assert "out of memory" in last["reason"]
    assert [last[key] for key in ("output_tok_s", "ttft_ms", "efficiency")] == [None] * 3


def test_without_batch_one_the_efficiency_is_null_and_the_table_empty() -> None:
    given = report(ROWS[1:4])

    assert efficiency(ROWS[1], ROWS[1:4]) is None
    assert [each["efficiency"] for each in to_json(given)["rows"]] == [None] * 3
    assert "1.00" not in text_of(given)


def test_real_weights_are_not_called_random() -> None:
    given = report(HEALTHY)
    real = replace(given, cluster=replace(given.cluster, weights="real"))

    assert "weights: random" in text_of(given).splitlines()[0]
    assert "random" not in text_of(real)


def test_a_paced_simulation_is_named_in_title_verdict_and_document() -> None:
    simulation = "paced simulation: rtx-3060"
    cluster = replace(report(HEALTHY).cluster, simulation=simulation)
    given = replace(report(HEALTHY), cluster=cluster, verdict=judge(HEALTHY, SHAPE, cluster))
    lines, document = text_of(given).splitlines(), to_json(given)

    assert simulation in lines[0]
    assert lines[-1] == f"verdict: pass ({simulation})"
    assert document["simulation"] == simulation
    assert any(simulation in reason for reason in document["verdict"]["reasons"])
    assert "simulation" not in text_of(report(HEALTHY))


def test_a_narrow_terminal_cuts_no_number_short() -> None:
    wide, narrow = text_of(report(HEALTHY), 200), text_of(report(HEALTHY), 40)

    assert [line for line in wide.splitlines()[2:8] if line not in narrow.splitlines()] == []


def test_a_failed_verdict_is_shown_as_one() -> None:
    assert text_of(report(ROWS)).endswith("verdict: FAIL\n")
    assert text_of(report(HEALTHY)).endswith("verdict: pass\n")
    assert to_json(report(ROWS))["verdict"]["pass"] is False
    assert to_json(report(HEALTHY))["verdict"]["pass"] is True


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    (GOLDEN / "report.txt").write_text(text_of(report(ROWS)))
    (GOLDEN / "report.json").write_text(json_text_of(report(ROWS)))


def test_a_drafted_figure_stands_beside_the_plain_one() -> None:
    plain = HEALTHY[0]
    drafted = replace(plain, output_tok_s=3 * plain.output_tok_s, tokens_per_lap=2.5)
    given = report([replace(plain, drafted=drafted), *HEALTHY[1:]])

    assert (
        "batch 1 with drafted tokens: 39.2 tok/s, 2.50 tokens a lap; plain: 13.1 tok/s, 1.00"
        in (text_of(given))
    )
    rows: list[dict[str, Any]] = to_json(given)["rows"]
    assert (rows[0]["tokens_per_lap"], rows[0]["drafted"]["tokens_per_lap"]) == (1.0, 2.5)
    assert rows[1]["drafted"] is None
