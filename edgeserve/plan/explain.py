"""A plan in words and numbers, for people and for programs. Every figure follows from the plan.

The text is made from the same `Explanation` as the document, so the two cannot differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edgeserve.families.folder import ModelSource
from edgeserve.families.spec import PAGE_TOKENS
from edgeserve.plan.amount import amount
from edgeserve.plan.facts import Plan, StagePlan

FLOOR_BYTES_PER_S = 360 * 10**9
"""An RTX 3060's memory, by its data sheet: 15 Gbit/s on 192 bits."""
FLOOR_DEVICE = "RTX 3060"
CONCURRENCIES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128)


@dataclass(frozen=True, kw_only=True)
class StageRow:
    stage: int
    worker: str
    layers: tuple[int, int]
    """[start, end)."""
    embedding: bool
    head: bool
    holds: str
    """The three above, in words."""
    slice_bytes: int
    reserve_bytes: int
    """For the runtime and for what computing takes."""
    free_bytes: int
    """For keys and values, beside slice and reserve."""
    read_bytes: int
    """Of the slice, in every step."""
    kv_bytes_per_token: int
    pages_fit: int
    kv_tokens_fit: int
    """Tokens that it has room for; the plan holds as many as the fullest stage."""


@dataclass(frozen=True, kw_only=True)
class ContextRow:
    """How long sequences may be if so many run at once."""

    sequences: int
    tokens_each: int
    """Prompt and answer together."""


@dataclass(frozen=True, kw_only=True)
class Floor:
    """A step reads every weight once, whatever the cut: nothing is faster than that."""

    device: str
    bytes_per_s: int
    step_read_bytes: int

    @property
    def step_ms(self) -> float:
        return self.step_read_bytes / self.bytes_per_s * 1e3


@dataclass(frozen=True, kw_only=True)
class Explanation:
    model: str
    revision: str | None
    """Its commit on the Hugging Face hub; null for a model that is not from there."""
    dtype: str
    weights: str
    """"random" for a built-in shape, else "real"."""
    layer_counts: tuple[int, ...]
    slice_bytes: int
    pages: int
    kv_tokens: int
    kv_bytes_per_token: int
    context_tokens: int
    stages: tuple[StageRow, ...]
    contexts: tuple[ContextRow, ...]
    floor: Floor
    warnings: tuple[str, ...]
    """What in the model's files is ignored, or is not as they say."""


def explain(plan: Plan, source: ModelSource) -> Explanation:
    rows = tuple(_stage_row(plan, i, each) for i, each in enumerate(plan.stages))
    return Explanation(
        model=source.name,
        revision=source.revision,
        dtype=str(plan.dtype),
        weights="random" if source.random_weights else "real",
        layer_counts=plan.layer_counts,
        slice_bytes=sum(row.slice_bytes for row in rows),
        pages=plan.pages,
        kv_tokens=plan.kv_tokens,
        kv_bytes_per_token=plan.spec.kv_bytes_per_token(plan.spec.layers, plan.dtype),
        context_tokens=plan.spec.context_tokens,
        stages=rows,
        contexts=tuple(_contexts(plan)),
        floor=Floor(
            device=FLOOR_DEVICE,
            bytes_per_s=FLOOR_BYTES_PER_S,
            step_read_bytes=sum(row.read_bytes for row in rows),
        ),
        warnings=source.warnings,
    )


def to_text(told: Explanation) -> str:
    """For people."""
    sections = [
        [_title(told)],
        _stage_table(told.stages),
        [
            f"{_kv_line(told.kv_tokens, told.pages)}, {told.kv_bytes_per_token:,} B each",
            f"the model reads at most {told.context_tokens:,} tokens of one sequence",
        ],
        _context_table(told.contexts),
        _floor_lines(told.floor),
        *([[f"note: {each}" for each in told.warnings]] if told.warnings else []),
    ]
    return "\n\n".join("\n".join(lines) for lines in sections)


def to_json(told: Explanation) -> dict[str, Any]:
    """For programs."""
    floor = {
        **asdict(told.floor),
        "label": _floor_label(told.floor),
        "step_ms": round(told.floor.step_ms, 2),
        "tok_s_at_batch_1": round(1e3 / told.floor.step_ms, 2),
    }
    return {**asdict(told), "floor": floor}


def plan_lines(plan: Plan) -> list[str]:
    """A few narrow lines for a terminal, while the slices load."""
    rows = [_stage_row(plan, i, each) for i, each in enumerate(plan.stages)]
    table = _table(
        ("stage", "worker", "holds", "slice"),
        [(str(row.stage), row.worker, row.holds, amount(row.slice_bytes, 2)) for row in rows],
    )
    return [*table, _kv_line(plan.kv_tokens, plan.pages)]


def _title(told: Explanation) -> str:
    random = ", weights: random" if told.weights == "random" else ""
    counts = "/".join(str(count) for count in told.layer_counts)
    revision = f"@{told.revision}" if told.revision else ""
    return (
        f"{told.model}{revision}, {told.dtype}{random}: {sum(told.layer_counts)} layers over "
        f"{len(told.stages)} workers as {counts}"
    )


def _kv_line(kv_tokens: int, pages: int) -> str:
    return f"keys and values of {kv_tokens:,} tokens fit ({pages:,} pages of {PAGE_TOKENS})"


def _stage_row(plan: Plan, number: int, each: StagePlan) -> StageRow:
    spec, layers = plan.spec, each.stage.layers
    return StageRow(
        stage=number,
        worker=each.worker,
        layers=(layers.start, layers.end),
        embedding=each.stage.embedding,
        head=each.stage.head,
        holds=str(each.stage),
        slice_bytes=each.slice_bytes,
        reserve_bytes=each.reserve_bytes,
        free_bytes=each.free_bytes,
        read_bytes=spec.read_bytes(each.stage, plan.dtype),
        kv_bytes_per_token=spec.kv_bytes_per_token(len(layers), plan.dtype),
        pages_fit=each.pages_fit,
        kv_tokens_fit=each.pages_fit * PAGE_TOKENS,
    )


def _contexts(plan: Plan) -> list[ContextRow]:
    """A sequence holds whole pages, and no more tokens than the model reads."""
    return [
        ContextRow(
            sequences=sequences,
            tokens_each=min(plan.pages // sequences * PAGE_TOKENS, plan.spec.context_tokens),
        )
        for sequences in CONCURRENCIES
        if sequences <= plan.pages
    ]


def _stage_table(rows: Sequence[StageRow]) -> list[str]:
    return _table(
        (
            "stage",
            "worker",
            "holds",
            "slice",
            "reserve",
            "left",
            "KV/token",
            "tokens",
            "reads",
        ),
        [
            (
                str(row.stage),
                row.worker,
                row.holds,
                amount(row.slice_bytes, 2),
                amount(row.reserve_bytes, 2),
                amount(row.free_bytes, 2),
                f"{row.kv_bytes_per_token:,} B",
                f"{row.kv_tokens_fit:,}",
                amount(row.read_bytes, 2),
            )
            for row in rows
        ],
    )


def _context_table(rows: Sequence[ContextRow]) -> list[str]:
    return _table(
        ("sequences at once", "longest prompt + output each"),
        [(f"{row.sequences:,}", f"{row.tokens_each:,} tokens") for row in rows],
    )


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns under their titles; those that start with a digit stand at the right."""
    columns = list(zip(titles, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    aligns = [">" if all(text[0].isdigit() for text in column[1:]) else "<" for column in columns]
    return [
        "  ".join(
            f"{text:{align}{width}}"
            for text, align, width in zip(line, aligns, widths, strict=True)
        ).rstrip()
        for line in (titles, *rows)
    ]


def _floor_label(floor: Floor) -> str:
    return f"floor at {floor.bytes_per_s / 1e9:.0f} GB/s ({floor.device})"


def _floor_lines(floor: Floor) -> list[str]:
    reads = f"a step reads {amount(floor.step_read_bytes)} of weights: {floor.step_ms:.1f} ms"
    most = f"so one sequence gets at most {1e3 / floor.step_ms:.1f} tokens per second"
    return [f"{_floor_label(floor)}: {reads},", f"{most}. Information, not a promise"]
