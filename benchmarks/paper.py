"""Where a token's time goes on cards that were not at hand, computed: `python -m benchmarks.paper`.

Sums of what a token of Llama-2 13B on three cards reads, launches and sends, over rates from data
sheets and from other people's measurements. Nothing here was measured on such a card by this
project; `make gpu-check` measures it, and names this file where a number is wrong.

"Before" is the CUDA path with cuBLAS alone, widened int8 and page lookups in the way of the next
keys; "after" is with kernels of its own wherever they are the faster ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from edgeserve.families.shapes import SHAPES
from edgeserve.families.spec import Dtype, ModelSpec
from edgeserve.frames.stage import LayerRange, Stage
from edgeserve.worker.cards import CARDS

SPEC = SHAPES["llama-2-13b"]
STAGES = 3
CONTEXTS = (1024, 96)
"""Tokens of each sequence whose keys and values a token reads; the second as `make gpu-check` has
it: a prompt of 32, and on average half of 128.
"""
CAUSES = ("weights", "keys and values", "small kernels", "hops", "wire")


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Shares of a card's bandwidth as its data sheet has it, and the kernels of a layer."""

    cublas_one_row: float
    cublas_rows: float
    """At 2 to 8 rows."""
    own_one_row: float
    own_rows: float
    attention_before: float
    attention_after: float


@dataclass(frozen=True, kw_only=True)
class Link:
    """What is between the gateway and a worker."""

    bytes_per_s: float
    one_way_s: float


@dataclass(frozen=True, kw_only=True)
class Place:
    name: str
    bytes_per_s: float
    """Memory bandwidth of each card, by its data sheet."""
    rates: Rates
    link: Link | None
    """None where three processes share one card and the loopback is a part of a hop."""


@dataclass(frozen=True, kw_only=True)
class Case:
    dtype: Dtype
    batch: int
    context_tokens: int = CONTEXTS[0]

    def __str__(self) -> str:
        return f"{self.dtype}, batch {self.batch}"


LLAMA_CPP = Rates(
    cublas_one_row=0.875, cublas_rows=0.78, own_one_row=0.93, own_rows=0.85,
    attention_before=0.85, attention_after=0.85,
)  # fmt: skip
"""llama.cpp on an RTX 3090, which has the same architecture: 58.1 tokens/s of 15.0 GB are 93 % of
936 GB/s with its own kernel; in its pull requests 14262 and 15131 cuBLAS has 79 and 78 % at batch 2
and 8, its own kernels 88 and 85 %. cuBLAS at one row: 85 to 90 %, an estimate. Attention hides the
latency of one program behind others."""
HBM_SHARE = 0.86
"""What a copy gets of an H200's data sheet. An estimate; everything is taken in proportion."""
H200 = Rates(
    cublas_one_row=HBM_SHARE * LLAMA_CPP.cublas_one_row,
    cublas_rows=HBM_SHARE * LLAMA_CPP.cublas_rows,
    own_one_row=HBM_SHARE * LLAMA_CPP.own_one_row,
    own_rows=HBM_SHARE * LLAMA_CPP.own_rows,
    attention_before=0.7 * HBM_SHARE, attention_after=0.9 * HBM_SHARE,
)  # fmt: skip
"""Attention: with one block of keys under way for each program its 132 processors are 20 to 40 %
short of what their memory can do (counted from bytes under way, not measured)."""
THREE_BOXES = Place(
    name="three RTX 3060", bytes_per_s=CARDS["rtx-3060"].memory_bytes_per_s, rates=LLAMA_CPP,
    link=Link(bytes_per_s=125e6, one_way_s=100e-6),  # gigabit Ethernet
)  # fmt: skip
SHARED_H200 = Place(name="an H200, three processes", bytes_per_s=4.8e12, rates=H200, link=None)
PLACES = (THREE_BOXES, SHARED_H200)
CASES = (
    Case(dtype=Dtype.FP16, batch=1),
    Case(dtype=Dtype.FP16, batch=8),
    Case(dtype=Dtype.INT8, batch=1),
)
KERNEL_S = 4.2e-6
"""A kernel that moves no weights, with the gap behind it: 25 us for six of them."""
KERNELS_EACH_LAYER = 6
"""Norm and sum twice, rotation, attention, the joining of its parts, and the gate."""
KERNELS_EACH_STAGE, KERNELS_OF_THE_END = 4, 22
"""Angles of the positions; the last norm, and the choice of tokens."""
WIDENED_BYTES = 5
"""Of each int8 weight that is widened before it is multiplied: 1 read, 2 written, 2 read."""
FILL_S = {True: {1: 25e-6, 8: 49e-6}, False: {1: 28e-6, 8: 64e-6}}
"""By whether it is after, and rows: the host's time to write a frame's table (docs/LOG.md)."""
HOP_S = 20e-6 + 45e-6 + 10e-6 + 300e-6
"""Copies in and out, the launch of a graph, four events; waking threads, the codec and gRPC. All
estimates, of which `make gpu-check` measures the sum."""


@dataclass(frozen=True, kw_only=True)
class TokenTime:
    """Seconds of one token of each sequence, by cause."""

    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def total_s(self) -> float:
        return sum(self.seconds.values())


def token_time(place: Place, case: Case, *, after: bool, spec: ModelSpec = SPEC) -> TokenTime:
    """What one step of `case.batch` sequences takes at `place`, all stages one after another."""
    read_s = weights_bytes(spec, case.dtype, after=after) / linear_rate(place, case, after=after)
    kv_bytes = case.batch * case.context_tokens * spec.kv_bytes_per_token(spec.layers, case.dtype)
    share = place.rates.attention_after if after else place.rates.attention_before
    return TokenTime(
        seconds={
            "weights": read_s,
            "keys and values": kv_bytes / (share * place.bytes_per_s),
            "small kernels": small_kernels(spec) * KERNEL_S,
            "hops": STAGES * (HOP_S + FILL_S[after][case.batch]),
            "wire": wire_s(place.link, spec, case) if place.link else 0.0,
        }
    )


def weights_bytes(spec: ModelSpec, dtype: Dtype, *, after: bool) -> int:
    """Moved for one step."""
    stage = Stage(LayerRange(0, spec.layers), embedding=True, head=True)
    if dtype is Dtype.INT8 and not after:
        return WIDENED_BYTES * spec.read_parameters(stage)
    return spec.read_bytes(stage, dtype)


def linear_rate(place: Place, case: Case, *, after: bool) -> float:
    """Bytes of weights in a second. What is widened goes as copies go, about as cuBLAS reads; int8
    of one's own has more to do for each byte than fp16, and is taken to be as slow as several rows.
    """
    rates, one_row = place.rates, case.batch == 1
    if not after:
        share = rates.cublas_one_row if one_row else rates.cublas_rows
    else:
        share = rates.own_one_row if one_row and case.dtype is Dtype.FP16 else rates.own_rows
    return share * place.bytes_per_s


def small_kernels(spec: ModelSpec) -> int:
    """Of a graph for up to eight rows. In those for more attention may have one part, and then
    nothing is joined: on an RTX 3060 from 16 rows on (`parts_for`).
    """
    return spec.layers * KERNELS_EACH_LAYER + STAGES * KERNELS_EACH_STAGE + KERNELS_OF_THE_END


def wire_s(link: Link, spec: ModelSpec, case: Case) -> float:
    """Hidden states cross between gateway and workers: out of each stage but the last, into each
    but the first; and each way takes a while however little it carries.
    """
    crossings = 2 * (STAGES - 1)
    row_bytes = case.batch * spec.hidden_bytes_per_token(case.dtype)
    return crossings * row_bytes / link.bytes_per_s + 2 * STAGES * link.one_way_s


def table(context_tokens: int) -> Iterator[str]:
    """As it stands in docs/performance.md."""
    heads = (*CAUSES, "token", "tokens/s")
    yield f"| computed at {context_tokens:,} tokens, ms: before > after | {' | '.join(heads)} |"
    yield f"|---|{'--:|' * len(heads)}"
    for place in PLACES:
        for each_case in CASES:
            case = replace(each_case, context_tokens=context_tokens)
            before, after = (token_time(place, case, after=each) for each in (False, True))
            cells = [_pair(before.seconds[each], after.seconds[each]) for each in CAUSES]
            cells += [_pair(before.total_s, after.total_s), _speeds(case, before, after)]
            yield f"| {place.name}, {case} | {' | '.join(cells)} |"


def _pair(before_s: float, after_s: float) -> str:
    before, after = f"{before_s * 1e3:.2f}", f"{after_s * 1e3:.2f}"
    return before if before == after else f"{before} > {after}"


def _speeds(case: Case, before: TokenTime, after: TokenTime) -> str:
    before_s, after_s = (f"{case.batch / each.total_s:.1f}" for each in (before, after))
    return f"{before_s} > {after_s}"


if __name__ == "__main__":
    print("\n\n".join("\n".join(table(each)) for each in CONTEXTS))
