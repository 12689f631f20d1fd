"""What other programs print, and what a gateway streams, as figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import schedule_effects, side_by_side
from benchmarks.client import read_answer
from benchmarks.llama_cpp import LlamaCpp, read_rows
from benchmarks.machine import _processor, cpu_ticks
from benchmarks.measures import decode, prefill
from benchmarks.tables import LLAMA_CPP, LLAMA_CPP_Q8, THREE_WORKERS, THREE_WORKERS_INT8
from tests.probe.fake_gateway import receipt

SAID = """
common_params: something that is no row
{"pp": 128, "tg": 64, "pl": 1, "t_pp": 0.74, "speed_pp": 171.8, "t_tg": 5.2, "speed_tg": 12.25}
{"pp": 128, "tg": 64, "pl": 8, "t_pp": 0.55, "speed_pp": 229.3, "t_tg": 7.7, "speed_tg": 65.9}

llama_perf_context_print:        load time =    8898.18 ms
"""


class Told(LlamaCpp):
    """Says what it was told to instead of starting anything."""

    def bench(self, *_: Any) -> list[dict[str, float]]:
        return read_rows(SAID)


TOLD = Told(binaries=Path("bin"), gguf=Path("x.gguf"), threads=2, server_threads=2, flags=())


def test_rows_of_llama_cpp_are_found_among_its_other_lines() -> None:
    assert [(row["pl"], row["speed_tg"]) for row in read_rows(SAID)] == [(1, 12.25), (8, 65.9)]


def test_decoding_is_told_from_reading_the_prompt() -> None:
    assert TOLD._decode([], (1, 8)) == {decode(1): 12.25, decode(8): 65.9}
    assert TOLD._prefill([]) == {prefill(): 229.3}  # the second of two


def test_an_answer_keeps_instants_tokens_and_receipt() -> None:
    events = [(1.5, {"token": {"id": 7}}), (1.75, {"token": {"id": 9}, "timing": receipt(4, 2)})]
    found = read_answer(1.0, [(at_s, f"data:{json.dumps(each)}") for at_s, each in events])

    assert found.ttft_s == pytest.approx(0.5)
    assert found.gaps_s == [(1.75, 0.25)]
    assert found.token_ids == (7, 9)
    assert found.receipt["prefill"]["tokens"] == 4


def test_a_stream_that_breaks_ends_the_benchmark_with_the_gateways_reason() -> None:
    with pytest.raises(SystemExit, match="without a receipt: stage 1 is lost"):
        read_answer(0.0, [(1.0, 'data:{"error": "stage 1 is lost"}')])


def test_the_processor_is_named_with_family_and_model() -> None:
    cpuinfo = "model name\t: AMD EPYC\ncpu family\t: 26\nmodel\t\t: 2\n\nmodel name\t: AMD EPYC\n"

    assert _processor(cpuinfo) == "AMD EPYC (family 26, model 2)"


def test_waiting_for_a_disk_is_no_work_of_a_core() -> None:
    stat = "cpu  50 5 20 900 100 1 2 3 0 0\ncpu0 25 2 10 450 50 0 1 1 0 0\n"

    assert cpu_ticks(stat) == (81, 1000)


def probed(batch: int, **changes: Any) -> dict[str, Any]:
    """A row of the probe."""
    return {
        "batch": batch, "status": "ok", "reason": None, "output_tok_s": 90.0, "transfer_ms": 2.5,
        "other_ms": 1.25, "waiting_ms": 0.5, "efficiency": 0.97, "ttft_ms": {"p50": 600.0},
        **changes,
    }  # fmt: skip


def test_a_probed_batch_gives_throughput_lost_time_and_efficiency() -> None:
    rows = schedule_effects.read_probe({"rows": [probed(1), probed(8)]})

    assert [(row.value, row.aim) for row in rows] == [
        (90.0, "at least 11"), (3.75, "at most 4.5"), (0.5, ""),
        (90.0, "at least 85"), (3.75, "at most 4.5"), (0.5, ""), (0.97, "at least 0.95"),
    ]  # fmt: skip


def test_a_batch_that_was_refused_says_why_in_place_of_figures() -> None:
    refused = probed(24, status="rejected", reason="429: too many", output_tok_s=None)
    (row,) = schedule_effects.read_probe({"rows": [refused]})

    assert row.value == "rejected: 429: too many"


def test_the_first_token_is_told_in_seconds() -> None:
    (row,) = schedule_effects.read_ttft({"input_tokens": 1024, "rows": [probed(1)]})

    assert (row.name, row.value) == ("first token after 1024 prompt tokens, s", 0.6)


def test_a_simulation_is_called_one_in_the_first_line() -> None:
    rows = [schedule_effects.Row(name="as a multiple", value=1.5, aim="at most 2")]
    text = schedule_effects.report("paced simulation: rtx-3060", rows)

    assert text.splitlines()[0] == "paced simulation: rtx-3060"
    assert "| as a multiple | 1.50 | at most 2 |" in text


def test_a_peer_takes_part_when_programs_and_model_are_given() -> None:
    parser = side_by_side.make_parser()
    found, left_out = side_by_side.choose(parser.parse_args(["--llama-cpp", "b", "--gguf", "g"]))
    bare, bare_left_out = side_by_side.choose(parser.parse_args([]))

    assert {each.name for each in found} >= {THREE_WORKERS, LLAMA_CPP}
    assert left_out.keys() - {THREE_WORKERS_INT8} == {LLAMA_CPP_Q8}
    assert LLAMA_CPP not in {each.name for each in bare}
    assert bare_left_out[LLAMA_CPP] == "not given: it needs --llama-cpp and --gguf"


def test_a_part_that_does_not_exist_is_refused() -> None:
    with pytest.raises(SystemExit):
        side_by_side.make_parser().parse_args(["--only", "decode,speed"])
