"""What the tables say of turns that were made up."""

from __future__ import annotations

import pytest

from benchmarks.machine import Bandwidth, Machine
from benchmarks.measures import (
    DECODE_BATCHES,
    Figures,
    context_ms,
    decode,
    memory_bound,
    memory_peak,
    prefill,
)
from benchmarks.tables import AIMS, LLAMA_CPP, ONE_WORKER, THREE_WORKERS, Turn, ratios, report

MACHINE = Machine(
    processor="a processor", cores=2, memory_bytes=24 * 10**9, kernel="6.1", python="3.11"
)
QUIET = Bandwidth(read_bytes_per_s=40e9, copy_bytes_per_s=30e9, load=0.1, busy=0.02)
SLOW = Bandwidth(read_bytes_per_s=31e9, copy_bytes_per_s=20e9, load=3.0, busy=0.02)
BUSY = Bandwidth(read_bytes_per_s=40e9, copy_bytes_per_s=30e9, load=0.1, busy=0.25)


def turn(repeat: int, system: str, figures: Figures, after: Bandwidth = QUIET) -> Turn:
    return Turn(repeat=repeat, system=system, figures=figures, before=QUIET, after=after)


def rounds(system: str, name: str, *values: float) -> list[Turn]:
    return [turn(i, system, {name: value}) for i, value in enumerate(values)]


def row_of(text: str, begins: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {begins} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_ratio_compares_the_two_sides_of_each_round() -> None:
    ours = rounds(THREE_WORKERS, decode(1), 10.0, 30.0, 12.0)
    theirs = rounds(LLAMA_CPP, decode(1), 10.0, 20.0, 10.0)
    # the second round was run backwards: which side came first does not matter
    turns = [ours[0], theirs[0], theirs[1], ours[1], ours[2], theirs[2]]

    (found,) = ratios(turns)

    assert found.rounds == pytest.approx((1.0, 1.5, 1.2))
    assert found.median == pytest.approx(1.2)


def test_an_aim_is_met_from_its_own_value_on() -> None:
    theirs = rounds(LLAMA_CPP, decode(8), 10.0)

    met = report(MACHINE, [*rounds(THREE_WORKERS, decode(8), 15.0), *theirs], {})
    missed = report(MACHINE, [*rounds(THREE_WORKERS, decode(8), 14.9), *theirs], {})

    assert "| 1.50x | 1.50 to 1.50 | 1.50x | yes |" in met
    assert "| 1.49x | 1.49 to 1.49 | 1.50x | no |" in missed


def test_a_peer_that_is_absent_is_named_with_the_reason_and_has_no_ratio() -> None:
    text = report(MACHINE, rounds(THREE_WORKERS, decode(1), 9.0), {LLAMA_CPP: "not given"})

    assert "Left out: llama.cpp, 3 RPC servers: not given." in text
    assert ratios(rounds(THREE_WORKERS, decode(1), 9.0)) == []
    assert "| aim |" not in text


def test_rates_are_medians_with_their_spread_and_stand_beside_the_bound_of_reading() -> None:
    text = report(MACHINE, rounds(THREE_WORKERS, decode(1), 9.0, 12.0, 10.0), {})

    assert row_of(text, "decode, batch 1") == ["decode, batch 1", "10.0 (9.0 to 12.0)"]
    # 1,034,514,432 parameters are read for a token, 2 bytes each, at 40 GB/s
    assert "| bound of decode, batch 1, at 40.0 GB/s | 19.3 |" in text


def test_the_growth_with_context_stands_beside_the_reading_of_keys_and_values() -> None:
    figures = {context_ms(16): 90.0, context_ms(1024): 91.5}
    text = report(MACHINE, [turn(0, THREE_WORKERS, figures)], {})

    assert row_of(text, "growth over 1008 tokens")[1] == "1.50 (1.50 to 1.50)"
    # 1008 x 22 layers x 2 x 4 heads x 64 x 2 bytes at 40 GB/s
    assert row_of(text, "reading their keys and values at 40.0 GB/s")[1] == "0.57"


def test_a_worker_above_its_bound_in_any_turn_has_not_met_it() -> None:
    turns = [
        turn(i, THREE_WORKERS, {memory_peak(0): peak, memory_bound(0): 1000.0})
        for i, peak in enumerate((900.0, 1001.0))
    ]

    assert "| 0 | 1001 | 1000 | no |" in report(MACHINE, turns, {})
    assert "| 0 | 900 | 1000 | yes |" in report(MACHINE, turns[:1], {})


def test_a_turn_that_others_disturbed_is_marked() -> None:
    turns = [turn(i, ONE_WORKER, {}, after=after) for i, after in enumerate((QUIET, SLOW, BUSY))]
    text = report(MACHINE, turns, {})

    assert "| 0 | edgeserve, 1 worker | 40.0 / 30.0 | 40.0 / 30.0 | 0.1 / 0.1 | 2 / 2 |  |" in text
    assert "| 40.0 / 30.0 | 31.0 / 20.0 | 0.1 / 3.0 | 2 / 2 | disturbed |" in text
    assert "| 40.0 / 30.0 | 40.0 / 30.0 | 0.1 / 0.1 | 2 / 25 | disturbed |" in text


def test_every_aim_is_of_something_that_is_measured() -> None:
    measured = {*(decode(batch) for batch in DECODE_BATCHES), prefill()}

    assert {each.measure for each in AIMS} == measured
