"""Which tensors of a checkpoint make up a stage, and where each one goes.

Data: names, shapes and rows. All families here share Llama's names; biases and head norms are there
if the spec says so. Several tensors may fill one parameter of ours: queries, keys and values are
one product, and so are gate and up.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from dataclasses import dataclass

from edgeserve.families.spec import ModelSpec
from edgeserve.frames.stage import LayerRange, Stage

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"


@dataclass(frozen=True, kw_only=True)
class TensorSource:
    """A tensor of the checkpoint, and the rows [rows_start, rows_end) of ours that it fills."""

    name: str
    """In the checkpoint."""
    target: str
    """Our parameter, as `Slice.named_parameters` calls it."""
    rows_start: int
    rows_end: int
    shape: tuple[int, ...]
    """In the checkpoint. Its first number is rows_end - rows_start."""

    @property
    def is_norm(self) -> bool:
        return "norm" in self.target


def stage_tensors(spec: ModelSpec, stage: Stage) -> tuple[TensorSource, ...]:
    """Together they fill every row of every parameter of the stage, once."""
    found: list[TensorSource] = []
    if stage.embedding:
        found += _filled("embedding.weight", [(EMBEDDING, spec.vocab)], (spec.hidden,))
    for layer in range(stage.layers.start, stage.layers.end):
        found += _layer_tensors(spec, layer)
    if stage.head:
        found += _filled("final_norm.weight", [("model.norm.weight", spec.hidden)])
    if stage.head and not (spec.head_tied and stage.embedding):
        source = EMBEDDING if spec.head_tied else HEAD
        found += _filled("head.weight", [(source, spec.vocab)], (spec.hidden,))
    return tuple(found)


def name_in_files(spec: ModelSpec, name: str, names: Container[str]) -> str:
    """Under which of the `names` in the files a tensor lies: those of some tied models have the
    embedding as the head alone.
    """
    is_only_head = spec.head_tied and name == EMBEDDING and name not in names and HEAD in names
    return HEAD if is_only_head else name


def unknown_tensors(spec: ModelSpec, stage: Stage, names: Iterator[str]) -> list[str]:
    """Names that this stage should know and does not: a knob that the config did not mention.

    The layers of other stages are theirs to check; a layer that the spec does not have is
    everybody's.
    """
    whole = Stage(LayerRange(0, spec.layers), embedding=True, head=True)
    known = {each.name for each in stage_tensors(spec, whole)}
    return [
        name
        for name in names
        if name not in known and not _is_harmless(spec, name) and _concerns(spec, stage, name)
    ]


def _layer_tensors(spec: ModelSpec, layer: int) -> Iterator[TensorSource]:
    source, target = f"model.layers.{layer}", f"layers.{layer}"
    norms = [("input_layernorm", "attn_norm", spec.hidden)]
    norms += [("post_attention_layernorm", "ffn_norm", spec.hidden)]
    if spec.qk_norm:
        norms += [("self_attn.q_norm", "q_norm", spec.head_dim)]
        norms += [("self_attn.k_norm", "k_norm", spec.head_dim)]
    for theirs, ours, size in norms:
        yield from _filled(f"{target}.{ours}.weight", [(f"{source}.{theirs}.weight", size)])
    for ours, theirs_and_rows, columns, bias in _products(spec):
        for kind, shape in (("weight", (columns,)), ("bias", ()))[: 1 + bias]:
            parts = [(f"{source}.{theirs}.{kind}", rows) for theirs, rows in theirs_and_rows]
            yield from _filled(f"{target}.{ours}.{kind}", parts, shape)


def _products(spec: ModelSpec) -> list[tuple[str, list[tuple[str, int]], int, bool]]:
    """A layer's products: our name, the checkpoint's names with their rows, columns, and whether
    there is a bias.
    """
    qkv = [
        ("self_attn.q_proj", spec.q_rows),
        ("self_attn.k_proj", spec.kv_rows),
        ("self_attn.v_proj", spec.kv_rows),
    ]
    gate_up = [("mlp.gate_proj", spec.ffn_hidden), ("mlp.up_proj", spec.ffn_hidden)]
    return [
        ("qkv", qkv, spec.hidden, spec.qkv_bias),
        ("attn_out", [("self_attn.o_proj", spec.hidden)], spec.q_rows, spec.attn_out_bias),
        ("gate_up", gate_up, spec.hidden, spec.ffn_bias),
        ("down", [("mlp.down_proj", spec.hidden)], spec.ffn_hidden, spec.ffn_bias),
    ]


def _filled(
    target: str, parts: list[tuple[str, int]], columns: tuple[int, ...] = ()
) -> Iterator[TensorSource]:
    """`target`'s rows, filled from the top by `parts`, each a name and its rows."""
    start = 0
    for name, rows in parts:
        yield TensorSource(
            name=name,
            target=target,
            rows_start=start,
            rows_end=start + rows,
            shape=(rows, *columns),
        )
        start += rows


def _is_harmless(spec: ModelSpec, name: str) -> bool:
    """Old files carry the rotary frequencies, which are computed; tied ones may repeat the head."""
    return name.endswith("rotary_emb.inv_freq") or (spec.head_tied and name == HEAD)


def _concerns(spec: ModelSpec, stage: Stage, name: str) -> bool:
    match = re.match(r"model\.layers\.(\d+)\.", name)
    if match is None:
        return True
    layer = int(match[1])
    return layer >= spec.layers or stage.layers.start <= layer < stage.layers.end
