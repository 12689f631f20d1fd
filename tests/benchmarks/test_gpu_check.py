"""`make gpu-check` as far as it goes without a GPU: its refusal, its runner, what it makes of rows,
and a rehearsal of all sections, so that a slip of the pen does not cost minutes on a card.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu_check.runner import (
    Outcome,
    end_workers,
    last_lines,
    read_rows,
    run_process,
    run_section,
    run_sections,
)
from benchmarks.gpu_check.setup import FULL, QUICK, REHEARSAL, SECTIONS, Section
from benchmarks.gpu_check.suite import read_report
from benchmarks.gpu_check.tokens import nearness
from benchmarks.gpu_check.verdicts import Assumption, assumptions, layers_share, summary, targets
from edgeserve.wire.frame import Sampled

H200 = "NVIDIA H200"
ROOT = Path(__file__).resolve().parent.parent.parent
PYTHON = sys.executable


def gpu_check(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PYTHON, "-m", "benchmarks.gpu_check", *arguments],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True, text=True, timeout=110,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a GPU")
def test_without_a_gpu_nothing_is_claimed(tmp_path: Path) -> None:
    done = gpu_check(OUT=str(tmp_path / "never"))

    assert done.returncode == 1
    assert done.stderr.startswith("NO GPU")
    assert not done.stdout
    assert not (tmp_path / "never").exists()


@pytest.mark.slow
@pytest.mark.cluster
def test_a_rehearsal_goes_through_all_sections_and_says_what_it_is(tmp_path: Path) -> None:
    done = gpu_check("--rehearse", OUT=str(tmp_path))

    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout.splitlines()[-1])
    assert document == json.loads((tmp_path / "gpu_check.json").read_text())
    assert document["rehearsal"]
    assert "REHEARSAL, the figures mean nothing" in done.stdout
    sections = document["sections"]
    assert [name for name, each in sections.items() if each["status"] == "ok"] == [
        "card", "pipeline fp16", "linear", "tokens", "memory fp16", "attention",
    ]  # fmt: skip
    rows = {name: each["rows"] for name, each in sections.items()}
    assert [each["stages"] for each in rows["pipeline fp16"] if "stages" in each] == [
        [[0, 2], [2, 4], [4, 6]]
    ]
    batches = [each for each in rows["pipeline fp16"] if "batch" in each]
    assert [each["batch"] for each in batches] == [1, 2]
    assert all(each["tok_s"] > 0 < each["compute_ms"] < each["total_ms"] for each in batches)
    assert [each["as_told"] for each in rows["tokens"]] == [True, True]
    assert not [each for each in rows["linear"] if "cannot" in each]
    assert all(each["us"] > 0 for each in rows["attention"] if "context" in each)
    assert [each["frame_rows"] for each in rows["memory fp16"] if "frame_rows" in each] == [1]


# -- the runner


def test_all_sections_fit_the_time_that_is_promised() -> None:
    assert FULL.budget_s <= 8 * 60
    assert QUICK.budget_s <= 3 * 60
    assert all((ROOT / f"benchmarks/gpu_check/{each.module}.py").is_file() for each in SECTIONS)


def test_a_section_without_time_is_skipped_with_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.gpu_check.runner.LEAST_S", QUICK.budget_s + 1)
    found: dict[str, Outcome] = {}

    run_sections(QUICK, tmp_path, found.__setitem__)

    assert list(found) == [each.name for each in SECTIONS]
    assert {each.status for each in found.values()} == {"skipped"}
    assert found["card"].why == "no time left of 170 s"
    assert found["tests"].why == "not a part of quick"


@pytest.mark.slow
def test_a_section_that_breaks_or_hangs_ends_itself_alone(tmp_path: Path) -> None:
    broken = Section(name="broken one", module="nonesuch", full_s=20, quick_s=0)
    slow = Section(name="slow", module="tokens", full_s=20, quick_s=0)

    failed = run_section(broken, REHEARSAL, tmp_path, 20)
    late = run_section(slow, REHEARSAL, tmp_path, 0.3)

    assert failed.status == "failed"
    assert "exit code 1" in failed.why
    assert "nonesuch" in failed.why
    assert (late.status, late.why) == ("timed out", "stopped after 0 s")
    assert late.taken_s < 10


@pytest.mark.slow
def test_what_a_section_started_ends_with_it(tmp_path: Path) -> None:
    program = (
        "import subprocess; child = subprocess.Popen(['sleep', '60']);"
        "print(child.pid, flush=True); child.wait()"
    )

    code = run_process([PYTHON, "-c", program], tmp_path / "log", os.environ, 1.0)

    assert code is None
    command = Path("/proc") / (tmp_path / "log").read_text().strip() / "cmdline"
    deadline_s = time.monotonic() + 10
    while _reads(command) == b"sleep\x0060\x00" and time.monotonic() < deadline_s:
        time.sleep(0.02)
    assert _reads(command) == b"", "killed, and perhaps not yet collected"


def _reads(file: Path) -> bytes:
    return file.read_bytes() if file.exists() else b""


def test_a_row_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    assert read_rows(file) == []
    file.write_text('{"a": 1}\n{"b": 2}\n{"c": ')
    assert read_rows(file) == [{"a": 1}, {"b": 2}]


def test_the_last_lines_of_a_log_say_why(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("first\n" + "x\n" * 9 + "RuntimeError: no\n")
    assert last_lines(log) == "x / x / x / x / x / RuntimeError: no"


@pytest.mark.slow
def test_workers_that_outlive_their_section_are_ended_and_nothing_else() -> None:
    program = "import time; time.sleep(60)"
    worker = subprocess.Popen([PYTHON, "-c", program, "edgeserve"])
    other = subprocess.Popen([PYTHON, "-c", program])
    try:
        end_workers([{"worker_pid": worker.pid}, {"worker_pid": other.pid}, {"us": 3}])
        assert worker.wait(10) == -9
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_report_of_tests_names_those_that_did_not_pass(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(
        '<testsuites><testsuite><testcase classname="a" name="b"/>'
        '<testcase classname="a" name="c"><failure/></testcase>'
        '<testcase classname="a" name="d"><error/></testcase>'
        '<testcase classname="a" name="e"><skipped/></testcase></testsuite></testsuites>'
    )
    assert read_report(report) == {"tests": 4, "skipped": 1, "failed": ["a::c", "a::d"]}


# -- tokens


def told(token: int, *top: tuple[int, float]) -> Sampled:
    return Sampled(sequence=1, token=token, logprob=top[0][1], top=top)


def test_tokens_may_change_places_only_where_they_are_nearly_as_good() -> None:
    clear = told(5, (5, -0.5), (6, -0.7))
    close = told(5, (5, -0.50), (6, -0.58))
    turned = told(6, (6, -0.540), (5, -0.545))

    assert nearness([clear], [clear])["as_told"]
    assert nearness([turned], [close])["as_told"]
    assert nearness([turned], [close])["clear_steps"] == 0
    assert not nearness([told(6, (6, -0.52), (5, -0.54))], [clear])["as_told"], "another token"
    assert not nearness([told(5, (5, -0.56), (6, -0.70))], [clear])["as_told"], "0.06 off"
    assert not nearness([told(9, (9, -0.5), (8, -0.7))], [close])["as_told"], "neither is told"


# -- verdicts


def document_of(**rows: list[dict[str, Any]]) -> dict[str, Any]:
    named = {name.replace("_", " "): each for name, each in rows.items()}
    sections = {
        name: {"status": "ok", "why": "", "taken_s": 1.0, "rows": each}
        for name, each in named.items()
    }
    return {"rehearsal": False, "device": H200, "model": "llama-2-13b", "sections": sections}


def pipeline(tok_s: float, compute_ms: float = 8.0, batch: int = 1, **more: Any) -> dict[str, Any]:
    times = {"total_ms": 10.0, "transfer_ms": 1.0, "waiting_ms": 0.0, "other_ms": 1.0, "hop_us": 9}
    row = {"batch": batch, "drawn": False, "tok_s": tok_s, "compute_ms": compute_ms}
    return times | row | more


GOOD = document_of(
    card=[{"context_bytes": 500_000_000, "allocator_bytes": 0}],
    pipeline_fp16=[
        {"copy_gb_s": 4000.0},
        {"read_gb": 25.6},
        pipeline(100.0),
        pipeline(800.0, batch=8),
        pipeline(700.0, batch=8, drawn=True, total_ms=12.5),
        {"used_gb_by_all": 35.6},
    ],
    pipeline_int8=[{"read_gb": 13.0}, pipeline(160.0)],
    tokens=[{"as_told": True}, {"as_told": True}],
    memory_fp16=[
        {"beside_bytes": 120_000_000, "outside_bytes": 40_000_000, "planned_bytes": 659_000_000}
    ],
)


def verdicts(document: dict[str, Any]) -> dict[str, str]:
    return {each.name.split(",")[-1].strip(): each.verdict for each in targets(document)}


def test_targets_are_met_at_their_number_and_missed_below_it() -> None:
    assert [each.verdict for each in targets(GOOD)] == ["PASS"] * 6
    worse = document_of(
        pipeline_fp16=[
            {"copy_gb_s": 4300.0}, {"read_gb": 25.6}, pipeline(99.9), pipeline(799.0, batch=8),
            {"used_gb_by_all": 35.8},
        ],
        pipeline_int8=[pipeline(159.0)],
        tokens=[{"as_told": True}, {"as_told": False}],
        tests=[{"exit_code": 1}],
    )  # fmt: skip
    assert [each.verdict for each in targets(worse)] == ["MISS"] * 7
    assert str(targets(worse)[0]) == "MISS: fp16, batch 1, tokens/s: at least 100, measured 99.9"
    assert [each.measured for each in targets(worse)] == [99.9, 0.744, 799.0, 1.59, 0.5, -0.1, 0]


def test_what_was_not_measured_is_missed_and_said() -> None:
    nothing = targets(document_of())
    assert {each.verdict for each in nothing} == {"MISS"}
    assert all("not measured" in str(each) for each in nothing)


def test_another_card_has_no_target_of_speed() -> None:
    other = {**GOOD, "device": "NVIDIA GeForce RTX 3060"}
    assert [each.verdict for each in targets(other)] == ["not judged"] * 4 + ["PASS"] * 2


def test_assumptions_stand_beside_what_was_measured() -> None:
    found = {each.name: each for each in assumptions(GOOD)}
    assert str(found["a context"]) == (
        "too low: a context: assumed 250 to 450 MB, measured 500 MB (cost/reserve.py takes 350)"
    )
    assert str(found["all but weights and pages, fp16"]) == (
        "too low: all but weights and pages, fp16: assumed 0 to 659 MB, measured 660 MB "
        "(the plan's reserve)"
    )
    assert found["all but weights and pages, int8"].verdict == "not measured"
    assert found["what 8 drawn tokens cost beside greedy ones"].measured == 2.5
    assert found["their compiling"].verdict == "not measured"


@pytest.mark.parametrize(
    ("measured", "verdict"),
    [(None, "not measured"), (2.0, "holds"), (3.0, "holds"), (1.9, "too high"), (3.1, "too low")],
)
def test_an_assumption_holds_between_its_ends(measured: float | None, verdict: str) -> None:
    assumed = Assumption(name="a", low=2, high=3, unit="s", measured=measured)
    assert assumed.verdict == verdict


def test_layers_count_by_the_time_that_they_take() -> None:
    rows = [
        {"layer": name, "rows": 1, "candidate": "cublas", "us": us, "copy_share": share}
        for name, us, share in [
            ("qkv", 10.0, 0.5), ("attn_out", 10.0, 0.5), ("gate_up", 60.0, 0.9),
            ("down", 20.0, 0.6), ("head", 1000.0, 0.1),
        ]
    ]  # fmt: skip
    assert layers_share(rows, "cublas", 1) == 0.76
    assert layers_share(rows[:3], "cublas", 1) is None
    assert layers_share(rows, "cublas", 8) is None
    assert layers_share([*rows[:3], rows[3] | {"rows": 2}], "cublas", 1) is None


def test_a_summary_has_a_line_for_everything_and_bears_what_is_missing() -> None:
    linear = [{"layer": "qkv", "rows": 1, "candidate": "cublas", "us": 9, "gb_s": 3900.4,
               "copy_share": 0.98}, {"layer": "qkv", "rows": 8, "candidate": "cublas",
               "cannot": "RuntimeError: no"}]  # fmt: skip
    document = document_of(linear=linear)
    document["sections"]["card"] = {
        "status": "timed out", "why": "stopped after 25 s", "taken_s": 25.0, "rows": [],
    }  # fmt: skip
    text = summary(document)
    assert "timed out    25.0 s: stopped after 25 s" in text
    assert "| qkv | cublas | 3900 (0.98) | - |" in text
    assert "MISS: fp16, batch 8, tokens/s" in text
    assert "llama-2-13b, random weights; NVIDIA H200" in summary(GOOD)


def test_a_token_stands_beside_what_paper_says_for_the_targets_card_alone() -> None:
    found = {each.name: each for each in assumptions(GOOD)}
    assert found["a token, fp16, batch 8"].measured == 10.0
    assert found["a token, fp16, batch 8"].low == pytest.approx(0.9 * 9.92, abs=0.02)
    assert found["a token, fp16, batch 8"].high == pytest.approx(1.1 * 9.92, abs=0.02)
    other = {**GOOD, "device": "NVIDIA GeForce RTX 3060"}
    assert not [each for each in assumptions(other) if each.name.startswith("a token")]
