"""What the rows come to: targets with PASS or MISS, and each assumption beside what was measured.

Pure: from the document of a run, whatever it has. What was not measured is said to be so, and a
target of it counts as missed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.gpu_check.setup import MEMORY_BYTES, WORKERS
from benchmarks.paper import CASES, CONTEXTS, SHARED_H200, token_time

Row = dict[str, Any]
Document = dict[str, Any]
KERNELS_OF_A_LAYER = ("qkv", "attn_out", "gate_up", "down")
TARGETS_CARD = "H200"
"""The speeds that are aimed for are this card's, whose memory is 13 times as fast as an RTX 3060's.
"""
MB, GB = 1e6, 1e9


@dataclass(frozen=True, kw_only=True)
class Target:
    name: str
    least: float
    measured: float | None
    judged: bool = True
    """A speed of another card than the target's is only shown."""

    @property
    def verdict(self) -> str:
        if not self.judged:
            return "not judged"
        return "PASS" if self.measured is not None and self.measured >= self.least else "MISS"

    def __str__(self) -> str:
        measured = "not measured" if self.measured is None else f"measured {self.measured:g}"
        return f"{self.verdict}: {self.name}: at least {self.least:g}, {measured}"


@dataclass(frozen=True, kw_only=True)
class Assumption:
    """A number that code or pages were made with: between `low` and `high`."""

    name: str
    low: float
    high: float
    unit: str
    measured: float | None
    source: str = ""
    """Where it is used, or was said."""

    @property
    def verdict(self) -> str:
        if self.measured is None:
            return "not measured"
        if self.low <= self.measured <= self.high:
            return "holds"
        return "too low" if self.measured > self.high else "too high"

    def __str__(self) -> str:
        measured = "nothing" if self.measured is None else f"{self.measured:g} {self.unit}"
        assumed = f"{self.low:g}" if self.low == self.high else f"{self.low:g} to {self.high:g}"
        where = f" ({self.source})" if self.source else ""
        told = f"assumed {assumed} {self.unit}, measured {measured}"
        return f"{self.verdict}: {self.name}: {told}{where}"


def rows_of(document: Document, section: str) -> list[Row]:
    found: list[Row] = document.get("sections", {}).get(section, {}).get("rows", [])
    return found


def first(among: list[Row], key: str, **wanted: Any) -> Any:
    """`key` of the first row that has it and all that is wanted; None without one."""
    for row in among:
        if key in row and all(row.get(name) == value for name, value in wanted.items()):
            return row[key]
    return None


# -- targets


def targets(document: Document) -> list[Target]:
    is_card = TARGETS_CARD in document["device"]
    return [*(replace(each, judged=is_card) for each in _speeds(document)), *_correct(document)]


def _speeds(document: Document) -> list[Target]:
    half, whole = rows_of(document, "pipeline fp16"), rows_of(document, "pipeline int8")
    alone, int8 = (first(rows, "tok_s", batch=1, drawn=False) for rows in (half, whole))
    ratio = round(int8 / alone, 2) if alone and int8 else None
    return [
        Target(name="fp16, batch 1, tokens/s", least=100, measured=alone),
        Target(name="fp16, batch 1, share of the copy rate", least=0.75, measured=copy_share(half)),
        Target(name="fp16, batch 8, tokens/s", least=800,
               measured=first(half, "tok_s", batch=8, drawn=False)),
        Target(name="int8 to fp16 at batch 1, times", least=1.6, measured=ratio),
    ]  # fmt: skip


def copy_share(rows: list[Row]) -> float | None:
    """Weights that a token of batch 1 reads, over the time of computing, of the copy rate."""
    read_gb, copy_gb_s = first(rows, "read_gb"), first(rows, "copy_gb_s")
    compute_ms = first(rows, "compute_ms", batch=1, drawn=False)
    if not (read_gb and copy_gb_s and compute_ms):
        return None
    return round(float(read_gb) / (float(compute_ms) / 1e3) / float(copy_gb_s), 3)


def _correct(document: Document) -> list[Target]:
    """Of any card."""
    compared = [row["as_told"] for row in rows_of(document, "tokens") if "as_told" in row]
    share = sum(compared) / len(compared) if compared else None
    used_gb = first(rows_of(document, "pipeline fp16"), "used_gb_by_all")
    left_gb = None if used_gb is None else round(WORKERS * MEMORY_BYTES / GB - used_gb, 2)
    found = [
        Target(name="families with the CPU's tokens, share", least=1, measured=share),
        Target(name="GB that the workers leave of their --memory", least=0, measured=left_gb),
    ]
    code = first(rows_of(document, "tests"), "exit_code")
    passed = [] if code is None else [float(code == 0)]
    return found + [Target(name="tests pass", least=1, measured=each) for each in passed]


# -- assumptions


def assumptions(document: Document) -> list[Assumption]:
    return [each for part in (_memory, _overheads, _layers, _whole) for each in part(document)]


def _memory(document: Document) -> Iterator[Assumption]:
    card, memory = rows_of(document, "card"), rows_of(document, "memory fp16")
    yield Assumption(
        name="a context", low=250, high=450, unit="MB",
        measured=_in(MB, first(card, "context_bytes")), source="cost/reserve.py takes 350",
    )  # fmt: skip
    yield Assumption(
        name="a context with cuBLAS", low=250, high=450, unit="MB",
        measured=_in(MB, first(card, "context_with_cublas_bytes")),
        source="cost/reserve.py takes 350",
    )  # fmt: skip
    for dtype in ("fp16", "int8"):
        yield _reserve(rows_of(document, f"memory {dtype}"), dtype, first(card, "context_bytes"))
    yield Assumption(
        name="graphs, modules and handles outside the allocator", low=0, high=150, unit="MB",
        measured=_in(MB, first(memory, "outside_bytes")), source="CUDA_LATE_BYTES",
    )  # fmt: skip
    yield Assumption(
        name="kernels that a first start compiles", low=7, high=16, unit="kernels",
        measured=first(memory, "kernels_compiled"), source="docs/operating.md",
    )  # fmt: skip
    yield Assumption(
        name="their compiling", low=7, high=40, unit="s", measured=first(memory, "compile_s"),
        source="docs/operating.md",
    )  # fmt: skip


def _reserve(memory: list[Row], dtype: str, context_bytes: float | None) -> Assumption:
    """All that the last stage takes beside slice and pages, against what the plan kept for it."""
    parts = [first(memory, key) for key in ("beside_bytes", "outside_bytes")]
    parts.append(context_bytes)
    return Assumption(
        name=f"all but weights and pages, {dtype}", low=0, unit="MB", source="the plan's reserve",
        high=_in(MB, first(memory, "planned_bytes")) or 0.0,
        measured=None if None in parts else _in(MB, sum(map(float, filter(None, parts)))),
    )  # fmt: skip


def _overheads(document: Document) -> Iterator[Assumption]:
    card, memory = rows_of(document, "card"), rows_of(document, "memory fp16")
    yield Assumption(
        name="filling a frame's table, 1 row", low=50, high=150, unit="us",
        measured=first(card, "fill_us", fill_rows=1),
    )  # fmt: skip
    yield Assumption(
        name="launching a stage's graph", low=30, high=60, unit="us",
        measured=first(card, "graph_launch_us"), source="benchmarks/paper.py",
    )  # fmt: skip
    yield Assumption(
        name="a small kernel in a graph with its gap", low=1.5, high=4.2, unit="us",
        measured=first(card, "graph_node_us"), source="benchmarks/paper.py",
    )  # fmt: skip
    yield Assumption(
        name="the host's time for a frame of 1 row", low=150, high=400, unit="us",
        measured=first(memory, "host_us", frame_rows=1),
    )  # fmt: skip
    yield Assumption(
        name="copies in and out of a frame of 1 row", low=5, high=30, unit="us",
        measured=_sum(memory, ("copy_in_us", "copy_out_us"), frame_rows=1),
    )  # fmt: skip
    for blocking, low, high in ((False, 5, 30), (True, 20, 100)):
        yield Assumption(
            name=f"waking up behind 25 ms, event {'blocks' if blocking else 'spins'}",
            low=low, high=high, unit="us",
            measured=first(card, "late_us", wait_ms=25, blocking=blocking),
        )  # fmt: skip
    yield Assumption(
        name="a hop beside compute, batch 1", low=300, high=600, unit="us",
        measured=first(rows_of(document, "pipeline fp16"), "hop_us", batch=1, drawn=False),
        source="benchmarks/paper.py",
    )  # fmt: skip


def _layers(document: Document) -> Iterator[Assumption]:
    rows = rows_of(document, "linear")
    for number, low, high in ((1, 0.85, 0.90), (8, 0.78, 0.80)):
        yield Assumption(
            name=f"cuBLAS at {number} rows, share of the copy rate", low=low, high=high, unit="",
            measured=layers_share(rows, "cublas", number), source="benchmarks/paper.py",
        )  # fmt: skip
    for each in candidates(rows):
        if each != "cublas":
            yield Assumption(
                name=f"{each} at 1 row, share of the copy rate", low=0.85, high=0.93, unit="",
                measured=layers_share(rows, each, 1), source="benchmarks/paper.py",
            )  # fmt: skip


def candidates(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(row["candidate"] for row in rows if "candidate" in row))


def layers_share(rows: list[Row], candidate: str, number: int) -> float | None:
    """Of the four layers of a block together, by the time that they take."""
    found = [
        (row["us"], row["copy_share"] * row["us"])
        for row in rows
        if row.get("layer") in KERNELS_OF_A_LAYER
        and (row.get("candidate"), row.get("rows")) == (candidate, number)
        and "us" in row
    ]
    if len(found) < len(KERNELS_OF_A_LAYER):
        return None
    return round(float(sum(read for _, read in found) / sum(us for us, _ in found)), 3)


def _whole(document: Document) -> Iterator[Assumption]:
    half = rows_of(document, "pipeline fp16")
    if TARGETS_CARD in document["device"]:
        yield from _computed(document)
    greedy, drawn = (first(half, "total_ms", batch=8, drawn=each) for each in (False, True))
    more_ms = None if None in (greedy, drawn) else round(drawn - greedy, 2)
    yield Assumption(
        name="what 8 drawn tokens cost beside greedy ones", low=0, high=0.5, unit="ms",
        measured=more_ms, source="drawn in one sequence of kernels",
    )  # fmt: skip


def _computed(document: Document) -> Iterator[Assumption]:
    """A token on paper, a tenth more or less."""
    for case in (replace(each, context_tokens=CONTEXTS[1]) for each in CASES):
        paper_ms = token_time(SHARED_H200, case, after=True).total_s * 1e3
        yield Assumption(
            name=f"a token, {case}", low=round(0.9 * paper_ms, 2), high=round(1.1 * paper_ms, 2),
            unit="ms", source="benchmarks/paper.py",
            measured=first(rows_of(document, f"pipeline {case.dtype}"), "total_ms",
                           batch=case.batch, drawn=False),
        )  # fmt: skip


def _in(unit: float, measured: float | None) -> float | None:
    return None if measured is None else round(measured / unit, 1)


def _sum(rows: list[Row], keys: tuple[str, ...], **wanted: Any) -> float | None:
    found = [first(rows, key, **wanted) for key in keys]
    return None if None in found else round(sum(found), 1)


# -- the table


def summary(document: Document) -> str:
    """All of it for people, and to be pasted."""
    parts: list[Callable[[Document], Iterator[str]]] = [
        _head, _pipeline_table, _linear_table, _attention_table, _token_lines, _ends,
    ]  # fmt: skip
    return "\n".join(line for part in parts for line in part(document))


def _head(document: Document) -> Iterator[str]:
    facts = next((row for row in rows_of(document, "card") if "torch" in row), {})
    label = "REHEARSAL, the figures mean nothing: " if document["rehearsal"] else ""
    yield f"{label}{document['model']}, random weights; {document['device']}"
    yield ", ".join(f"{key} {value}" for key, value in facts.items())
    for name, section in document["sections"].items():
        why = f": {section['why']}" if section["why"] else ""
        yield f"  {name:15} {section['status']:10} {section['taken_s']:6.1f} s{why}"


def _pipeline_table(document: Document) -> Iterator[str]:
    names = ("batch", "drawn", "tok_s", "total_ms", "compute_ms", "transfer_ms", "waiting_ms",
             "other_ms", "hop_us")  # fmt: skip
    for section in ("pipeline fp16", "pipeline int8"):
        rows = [row for row in rows_of(document, section) if "batch" in row]
        if rows:
            share = copy_share(rows_of(document, section))
            yield f"\n{section}, three processes in turns; batch 1 at {share} of the copy rate"
            yield from table(names, [[row[name] for name in names] for row in rows])


def _linear_table(document: Document) -> Iterator[str]:
    rows = rows_of(document, "linear")
    numbers = list(dict.fromkeys(row["rows"] for row in rows if "rows" in row))
    if numbers:
        yield "\nlinear layers: GB/s of weights (share of the copy rate), by rows"
        layers = list(dict.fromkeys(row["layer"] for row in rows if "layer" in row))
        yield from table(
            ("layer", "candidate", *(str(number) for number in numbers)),
            [
                [layer, each, *(_cell(rows, layer, each, number) for number in numbers)]
                for layer in layers
                for each in candidates(rows)
            ],
        )


def _cell(rows: list[Row], layer: str, candidate: str, number: int) -> str:
    wanted = {"layer": layer, "candidate": candidate, "rows": number}
    gb_s, share = (first(rows, key, **wanted) for key in ("gb_s", "copy_share"))
    return "-" if gb_s is None else f"{gb_s:.0f} ({share:.2f})"


def _attention_table(document: Document) -> Iterator[str]:
    rows = [row for row in rows_of(document, "attention") if "context" in row]
    if rows:
        yield "\nattention of decodes"
        yield from table(tuple(rows[0]), [list(row.values()) for row in rows])


def _token_lines(document: Document) -> Iterator[str]:
    for row in rows_of(document, "tokens"):
        told = ", ".join(f"{key} {value}" for key, value in row.items())
        yield f"{'same' if row.get('as_told') else '! OTHER'} tokens: {told}"


def _ends(document: Document) -> Iterator[str]:
    yield ""
    yield from (str(each) for each in targets(document))
    yield ""
    yield from (str(each) for each in assumptions(document))


def table(names: tuple[str, ...], rows: list[list[Any]]) -> Iterator[str]:
    yield f"| {' | '.join(names)} |"
    yield f"|{'---|' * len(names)}"
    for row in rows:
        yield f"| {' | '.join(str(cell) for cell in row)} |"
