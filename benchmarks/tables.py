"""From the turns of a comparison to tables for people. Pure: figures in, text out."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.machine import Bandwidth, Machine
from benchmarks.measures import (
    CONTEXTS,
    DECODE_STEPS,
    MODEL,
    Figures,
    context_ms,
    decode,
    memory_bound,
    memory_peak,
    prefill,
)
from edgeserve.families.shapes import SHAPES
from edgeserve.families.spec import Dtype
from edgeserve.frames.stage import LayerRange, Stage

THREE_WORKERS = "edgeserve, 3 workers"
THREE_WORKERS_INT8 = "edgeserve int8, 3 workers"
ONE_WORKER = "edgeserve, 1 worker"
TRANSFORMERS = "transformers, 1 process"
LLAMA_CPP = "llama.cpp, 3 RPC servers"
LLAMA_CPP_Q8 = "llama.cpp Q8_0, 3 RPC servers"
SYSTEMS = (
    THREE_WORKERS, ONE_WORKER, TRANSFORMERS, LLAMA_CPP, THREE_WORKERS_INT8, LLAMA_CPP_Q8,
)  # fmt: skip
RATES = (decode(1), decode(8), decode(16), prefill())
DISTURBED_BELOW = 0.8
"""Of the best bandwidth of the run. Two quiet probes in a row differ by a few percent."""
DISTURBED_ABOVE = 0.1
"""Of the cores, used by others. On two cores that is a fifth of one; threads that wait for one
another at every layer lose far more than their share."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One system, measured once."""

    repeat: int
    system: str
    figures: Figures
    before: Bandwidth
    after: Bandwidth

    @property
    def line(self) -> str:
        """While the run goes on."""
        figures = "; ".join(f"{name} {value:.1f}" for name, value in self.figures.items())
        return f"turn {self.repeat}, {self.system}: {figures}"


@dataclass(frozen=True, kw_only=True)
class Aim:
    """What the project wants of itself."""

    measure: str
    ours: str
    peer: str
    at_least: float


AIMS = (
    Aim(measure=decode(1), ours=THREE_WORKERS, peer=LLAMA_CPP, at_least=1.20),
    Aim(measure=decode(8), ours=THREE_WORKERS, peer=LLAMA_CPP, at_least=1.5),
    Aim(measure=decode(16), ours=THREE_WORKERS, peer=LLAMA_CPP, at_least=2.0),
    Aim(measure=prefill(), ours=THREE_WORKERS, peer=LLAMA_CPP, at_least=4.0),
    Aim(measure=decode(1), ours=THREE_WORKERS, peer=TRANSFORMERS, at_least=1.35),
    Aim(measure=decode(8), ours=THREE_WORKERS, peer=TRANSFORMERS, at_least=1.3),
    Aim(measure=decode(16), ours=THREE_WORKERS, peer=TRANSFORMERS, at_least=1.3),
    Aim(measure=prefill(), ours=THREE_WORKERS, peer=TRANSFORMERS, at_least=1.0),
    Aim(measure=decode(1), ours=THREE_WORKERS_INT8, peer=LLAMA_CPP_Q8, at_least=1.4),
    Aim(measure=decode(1), ours=THREE_WORKERS, peer=ONE_WORKER, at_least=0.93),
)


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """Ours to theirs; each round's own, so that both sides were measured within minutes."""

    aim: Aim
    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)


def ratios(turns: Sequence[Turn]) -> list[Ratio]:
    """Of the aims whose two sides were both measured."""
    found = []
    for aim in AIMS:
        ours, theirs = _of(turns, aim.ours, aim.measure), _of(turns, aim.peer, aim.measure)
        if ours and theirs:
            rounds = tuple(mine / other for mine, other in zip(ours, theirs, strict=True))
            found.append(Ratio(aim=aim, rounds=rounds))
    return found


def report(machine: Machine, turns: Sequence[Turn], left_out: Mapping[str, str]) -> str:
    tables = (
        _machine(machine),
        _rates(turns),
        "\n".join(f"Left out: {name}: {why}." for name, why in left_out.items()),
        _ratios(turns),
        _contexts(turns),
        _memory(turns),
        _disturbances(turns),
    )
    return "\n\n".join(each for each in tables if each)


def _machine(machine: Machine) -> str:
    return (
        f"{machine.processor}, {machine.cores} cores, {machine.memory_bytes / 1e9:.0f} GB, "
        f"Linux {machine.kernel}, Python {machine.python}"
    )


def _rates(turns: Sequence[Turn]) -> str:
    measured = [name for name in SYSTEMS if any(turn.system == name for turn in turns)]
    names = [name for name in RATES if any(name in turn.figures for turn in turns)]
    rows = [[name, *(_spread(_of(turns, system, name)) for system in measured)] for name in names]
    head = ["tokens per second: median (least to most)", *measured]
    return _table(head, [*rows, _floor(turns, measured)]) if rows else ""


def _floor(turns: Sequence[Turn], systems: Sequence[str]) -> list[str]:
    """What reading the weights once a step allows a batch of 1, at the best bandwidth seen."""
    bits = {THREE_WORKERS_INT8: 8.0, LLAMA_CPP_Q8: 8.5}  # Q8_0 has a scale for each 32 weights
    best = max(max(turn.before.read_bytes_per_s, turn.after.read_bytes_per_s) for turn in turns)
    read = SHAPES[MODEL].read_parameters(
        Stage(LayerRange(0, SHAPES[MODEL].layers), embedding=True, head=True)
    )
    cells = [f"{best / (read * bits.get(system, 16.0) / 8):.1f}" for system in systems]
    return [f"bound of decode, batch 1, at {best / 1e9:.1f} GB/s", *cells]


def _ratios(turns: Sequence[Turn]) -> str:
    rows = [
        [
            each.aim.measure, each.aim.ours, each.aim.peer, f"{each.median:.2f}x",
            f"{min(each.rounds):.2f} to {max(each.rounds):.2f}", f"{each.aim.at_least:.2f}x",
            "yes" if each.median >= each.aim.at_least else "no",
        ]
        for each in ratios(turns)
    ]  # fmt: skip
    head = ["measure", "of", "to", "ratio, median", "rounds", "aim", "met"]
    return _table(head, rows) if rows else ""


def _contexts(turns: Sequence[Turn]) -> str:
    """The slope beside the floor: what reading the keys and values takes at full bandwidth."""
    short, long = (_of(turns, THREE_WORKERS, context_ms(tokens)) for tokens in CONTEXTS)
    if not short or not long:
        return ""
    spec, tokens = SHAPES[MODEL], CONTEXTS[1] - CONTEXTS[0]
    best = max(max(turn.before.read_bytes_per_s, turn.after.read_bytes_per_s) for turn in turns)
    floor_ms = 1e3 * tokens * spec.kv_bytes_per_token(spec.layers, Dtype.BF16) / best
    grown = [after - before for before, after in zip(short, long, strict=True)]
    head = [f"{THREE_WORKERS}: a token's time, ms", "median (least to most)"]
    rows = [
        *([f"after {n} to {n + DECODE_STEPS} tokens", _spread(times, 2)]
          for n, times in zip(CONTEXTS, (short, long), strict=True)),
        [f"growth over {tokens} tokens", _spread(grown, 2)],
        [f"reading their keys and values at {best / 1e9:.1f} GB/s", f"{floor_ms:.2f}"],
    ]  # fmt: skip
    return _table(head, rows)


def _memory(turns: Sequence[Turn]) -> str:
    rows, stage = [], 0
    while peaks := _of(turns, THREE_WORKERS, memory_peak(stage)):
        bound = max(_of(turns, THREE_WORKERS, memory_bound(stage)))
        met = "yes" if max(peaks) <= bound else "no"
        rows.append([str(stage), f"{max(peaks):.0f}", f"{bound:.0f}", met])
        stage += 1
    head = ["worker", "peak RSS, MB, most of all turns", "slice + pages + 600 MB, MB", "met"]
    return _table(head, rows) if rows else ""


def _disturbances(turns: Sequence[Turn]) -> str:
    best = max(max(turn.before.read_bytes_per_s, turn.after.read_bytes_per_s) for turn in turns)
    rows = [
        [
            f"{turn.repeat}", turn.system,
            *(f"{each.read_bytes_per_s / 1e9:.1f} / {each.copy_bytes_per_s / 1e9:.1f}"
              for each in (turn.before, turn.after)),
            f"{turn.before.load:.1f} / {turn.after.load:.1f}",
            f"{100 * turn.before.busy:.0f} / {100 * turn.after.busy:.0f}", _disturbed(turn, best),
        ]
        for turn in turns
    ]  # fmt: skip
    head = [
        "round",
        "turn",
        "read / copy before, GB/s",
        "after",
        "load before / after",
        "others' CPU, %",
        "",
    ]
    return _table(head, rows)


def _disturbed(turn: Turn, best: float) -> str:
    worst = min(turn.before.read_bytes_per_s, turn.after.read_bytes_per_s)
    others = max(turn.before.busy, turn.after.busy)
    is_disturbed = worst < DISTURBED_BELOW * best or others > DISTURBED_ABOVE
    return "disturbed" if is_disturbed else ""


def _of(turns: Sequence[Turn], system: str, name: str) -> list[float]:
    """One for each round, in the order of the rounds."""
    ordered = sorted(turns, key=lambda turn: turn.repeat)
    return [
        turn.figures[name] for turn in ordered if turn.system == system and name in turn.figures
    ]


def _spread(values: Sequence[float], decimals: int = 1) -> str:
    if not values:
        return ""
    median, least, most = statistics.median(values), min(values), max(values)
    return f"{median:.{decimals}f} ({least:.{decimals}f} to {most:.{decimals}f})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *("--:" for _ in head[1:])], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
