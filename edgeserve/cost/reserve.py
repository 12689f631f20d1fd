"""How much of a worker's memory is neither weights nor pages.

Of a GPU it is a sum: what the runtime takes, which the worker says, and what its stage takes beside
weights and pages, which follows from the model, the stage's place and the length of frames. A test
holds the sum to a model of PyTorch's allocator in which the worker's own code is replayed.

    T tokens of a frame, D hidden, N rows whose next token is wanted, V vocabulary
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator
from dataclasses import astuple, dataclass

from edgeserve.cost.segments import MEDIUM_SEGMENT, MIB, SMALL, STEP, packed_bytes, segments_bytes
from edgeserve.families.spec import PAGE_TOKENS, Dtype, ModelSpec
from edgeserve.frames.stage import Stage

MB = 10**6

CPU_RESERVE_BYTES = 300 * MB
"""A process that has imported PyTorch and gRPC holds 240 MB; the frame's activations are 50 MB."""
CPU_MEMORY_SHARE = 0.8
"""Of what is free on a CPU box when its worker starts; the rest is for the other programs."""
CUDA_CONTEXT_BYTES = 350 * MB
"""The middle of the 250 to 450 MB that a CUDA context with PyTorch's kernels takes, by driver and
card. No allocator sees it."""
CUDA_LATE_BYTES = 150 * MB
"""The part of it that comes after the worker has looked how much is free: kernels are loaded when
they are first used, cuBLAS's among them, and each of a graph's few thousand nodes is kept by the
driver. An estimate: it has not been measured on a card."""
CUBLAS_BYTES = 8_519_680
"""PyTorch's workspace for cuBLAS on one stream (:4096:2:16:8)."""
CUBLAS_BYTES_SINCE_HOPPER = 32 * MIB
STREAMS = 2
"""Frames are computed on one, graphs are recorded on another; the thread is always the same."""
GRAPH_ROWS = (1, 2, 4, *range(8, 65, 8))
"""Rows of the graphs that a GPU's worker records. 64 is what a gateway runs at once unless told
otherwise. Steps of 8, since tensor cores compute 8 columns anyway; below, the copies to and from
the device are that much shorter."""
LOGITS_BYTES = 16 * 2**20
"""Of fp32 logits that are taken at a time where it is not all of a frame's: 32 rows of a vocabulary
of 128,000 tokens, for which the head is read once."""
ROUNDED_BYTES = 128 * MIB
"""Of four million numbers in fp32 and as whole ones, as they are rounded."""
TABLE_FIELDS = 8
"""Numbers of a row of a frame's table."""
SEGMENTS = 128
"""Of a frame: twice the sequences that a gateway runs at once unless told otherwise."""
GRID_PROGRAMS_MAX = 32 * 192
"""Attention of few rows is cut into parts, so that every multiprocessor has something to do: rows,
times parts, times key/value heads are no more than these, eight times the 4 programs each of 192
processors. A plan does not know how many a card has; 188 are the most of any that is sold (RTX PRO
6000), 132 are an H100's, 28 an RTX 3060's."""
DRAWN_NUMBERS = 2**19
"""Logits from which tokens are drawn at a time."""
DRAWN_BYTES = (4, 4, 4, 8, 8, 8, 4, 12)
"""For each of them while they are sorted, in which most memory is taken: logits, probabilities,
sorted ones and their places; and inside, rows and places twice, numbers, and all once more."""


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """What a stage takes on a GPU beside weights and pages, in bytes."""

    rounding: int
    """Weights, keys and values lie in segments of whole MiB."""
    inputs: int
    """Of each graph: token ids or hidden states, and the tables of the frame."""
    outputs: int
    """Which all frames leave in the same place: hidden states, and at the end logits."""
    graphs: int
    """Their pool: what the largest one needs while it computes, and the others in addition."""
    frame: int
    """The same of the longest frame, which is no graph; of sampling and scoring, or of a graph's
    work before it is recorded, if it is more."""
    cublas: int
    """Workspaces of the linear layers' library."""
    gaps: int
    """A segment that cannot be filled, since what lies in it came and goes at other times."""

    @property
    def bytes(self) -> int:
        return sum(astuple(self))


def rows_at_a_time(vocab: int) -> int:
    """Whose logits, or what is as large, may be there beside all others."""
    return max(1, LOGITS_BYTES // (4 * vocab))


def cuda_runtime_bytes(*, context_counts: bool, capability: tuple[int, int] = (8, 6)) -> int:
    """What a worker has to reserve whatever it holds. The context counts if its memory is a share
    of the card; what was free with the context alive is without most of it.
    """
    workspace = CUBLAS_BYTES_SINCE_HOPPER if capability >= (9, 0) else CUBLAS_BYTES
    more = STREAMS * (packed_bytes([workspace]) - packed_bytes([CUBLAS_BYTES]))
    return (CUDA_CONTEXT_BYTES if context_counts else CUDA_LATE_BYTES) + more


@functools.cache
def workspace(spec: ModelSpec, stage: Stage, dtype: Dtype, frame_tokens_max: int) -> Workspace:
    """Where the stage starts does not matter, only what it holds."""
    graphs = _graphs_bytes(spec, stage, dtype)
    longest = _computing(spec, dtype, frame_tokens_max)
    if stage.head:
        left = frame_tokens_max * spec.hidden_bytes_per_token(dtype)
        choosing = (_head(spec, dtype, GRAPH_ROWS[-1]), _drawing(spec), _scoring(spec, dtype))
        longest += [[left, left, *each] for each in choosing]
    longest = [[*each, _input(spec, stage, dtype, frame_tokens_max)] for each in longest]
    return Workspace(
        rounding=_rounding_bytes(spec, stage, dtype),
        inputs=packed_bytes(_input(spec, stage, dtype, rows) for rows in GRAPH_ROWS),
        outputs=packed_bytes(_outputs(spec, stage, dtype)),
        graphs=graphs,
        frame=max(graphs, *map(packed_bytes, longest)),
        cublas=STREAMS * packed_bytes([CUBLAS_BYTES]),
        gaps=MEDIUM_SEGMENT,
    )


def loading_bytes(spec: ModelSpec, stage: Stage, dtype: Dtype) -> int:
    """What loading takes beside weights, until there are pages: quantised layers come from one in
    full precision, the largest, and are rounded a block at a time.
    """
    if not dtype.is_quantised:
        return 0
    numbers = max(2 * spec.ffn_hidden, spec.q_rows, spec.vocab if stage.head else 0) * spec.hidden
    return numbers * dtype.size_bytes + ROUNDED_BYTES


def _rounding_bytes(spec: ModelSpec, stage: Stage, dtype: Dtype) -> int:
    """By how much segments are larger than the weights, and than keys and values, of which each has
    one.
    """
    weights = Counter(_weights(spec, stage, dtype))
    exact = sum(size * count for size, count in weights.items())
    return segments_bytes(weights) - exact + 2 * STEP


def _weights(spec: ModelSpec, stage: Stage, dtype: Dtype) -> Iterator[int]:
    """Bytes of each matrix, and of its scales; norms and biases are too small to matter."""
    layer = [(spec.q_rows + 2 * spec.kv_rows, spec.hidden), (spec.hidden, spec.q_rows)]
    layer += [(2 * spec.ffn_hidden, spec.hidden), (spec.hidden, spec.ffn_hidden)]
    for rows, columns in layer * len(stage.layers):
        yield from _matrix(dtype, rows, columns)
    if stage.embedding:
        yield from _matrix(dtype.activation, spec.vocab, spec.hidden)
    if stage.head and not (spec.head_tied and stage.embedding):
        yield from _matrix(dtype.of_head, spec.vocab, spec.hidden)


def _matrix(dtype: Dtype, rows: int, columns: int) -> tuple[int, ...]:
    size = rows * columns * dtype.size_bytes
    if not dtype.is_quantised:
        return (size,)
    numbers = size // dtype.size_bytes // (1 if dtype is Dtype.INT8 else 2)
    return (numbers, dtype.matrix_bytes(rows, columns) - numbers)


def _input(spec: ModelSpec, stage: Stage, dtype: Dtype, tokens: int) -> int:
    """What one frame brings: a row of the table and a page table for each token at most, and token
    ids or hidden states.
    """
    pages = spec.context_tokens // PAGE_TOKENS + 2
    row = 4 if stage.embedding else spec.hidden_bytes_per_token(dtype)
    return tokens * (4 * TABLE_FIELDS + row) + 4 * min(tokens, SEGMENTS) * pages


def _outputs(spec: ModelSpec, stage: Stage, dtype: Dtype) -> Iterator[int]:
    rows = GRAPH_ROWS[-1]
    yield rows * spec.hidden_bytes_per_token(dtype)
    if stage.head:
        yield rows * spec.vocab * 4


def _graphs_bytes(spec: ModelSpec, stage: Stage, dtype: Dtype) -> int:
    """Tensors that are medium ones in the largest graph are small ones in others, for which the
    pool has segments of their own.
    """
    smalls, others = [0], [0]
    for rows in GRAPH_ROWS:
        held = _computing(spec, dtype, rows, GRID_PROGRAMS_MAX // spec.kv_heads)
        for sizes in [*held, _head(spec, dtype, rows)] if stage.head else held:
            smalls.append(packed_bytes(size for size in sizes if size <= SMALL))
            others.append(packed_bytes(size for size in sizes if size > SMALL))
    return max(smalls) + max(others)


def _computing(spec: ModelSpec, dtype: Dtype, tokens: int, parts: int = 0) -> list[list[int]]:
    """Tensors that are there while a layer attends, and while its feed-forward part is computed:
    four hidden states, sines and cosines, and what is between two of the four products. `parts` are
    those of all tokens together, if that is more than one each.
    """
    row = tokens * dtype.size_bytes
    held = [spec.hidden * row] * 4 + [4 * tokens * spec.head_dim] * 2
    attention = [(spec.q_rows + 2 * spec.kv_rows) * row, spec.q_rows * row]
    attention += [4 * max(tokens, parts) * each for each in (spec.q_rows, 2 * spec.heads)]
    return [held + attention, [*held, 2 * spec.ffn_hidden * row, spec.ffn_hidden * row]]


def _head(spec: ModelSpec, dtype: Dtype, rows: int) -> list[int]:
    """While tokens are chosen: hidden states, logits before they are fp32, and the exponentials of
    some of them.
    """
    some = min(rows, rows_at_a_time(spec.vocab))
    hidden = [rows * spec.hidden_bytes_per_token(dtype)] * 3
    return [*hidden, rows * spec.vocab * dtype.size_bytes, 4 * some * spec.vocab]


def _drawing(spec: ModelSpec) -> list[int]:
    """While tokens of some rows are drawn, which is no part of a graph."""
    return [each * max(DRAWN_NUMBERS, spec.vocab) for each in DRAWN_BYTES]


def _scoring(spec: ModelSpec, dtype: Dtype) -> list[int]:
    """While tokens of a prompt are scored: logits of some rows, before and after they are fp32,
    their exponentials, and which are likelier.
    """
    logits = rows_at_a_time(spec.vocab) * spec.vocab
    return [4 * logits, 4 * logits, dtype.size_bytes * logits, logits]
