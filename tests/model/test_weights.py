"""Slices are filled with exactly their tensors, in little memory, and mistakes are named."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from edgeserve.errors import BadModel, UnsupportedModel
from edgeserve.families.folder import open_model
from edgeserve.families.rules import stage_tensors
from edgeserve.families.spec import ModelSpec
from edgeserve.families.stage_files import find_tensors
from edgeserve.frames.stage import LayerRange, Stage, cut
from edgeserve.model import weights
from edgeserve.model.staging import HostStaging
from edgeserve.model.weights import Filling, LoadedSlice, WeightForm, load_slice, random_slice
from tests.model.stages import GetTiny, Tiny
from tests.model.tiny import FAMILIES, LAYERS

ROOT = Path(__file__).resolve().parents[2]
WHOLE = cut((LAYERS,))[0]
MIDDLE = Stage(LayerRange(1, 3), embedding=False, head=False)
Q_PROJ = "model.layers.1.self_attn.q_proj.weight"


def quiet(_done_bytes: int, _total_bytes: int) -> None:
    pass


def load(
    folder: Path, spec: ModelSpec, stage: Stage = WHOLE, dtype: torch.dtype = torch.float32
) -> LoadedSlice:
    return load_slice(folder, spec, stage, WeightForm(dtype), quiet)


def changed(model: Tiny, folder: Path, changes: Mapping[str, Tensor | None]) -> Path:
    """A copy of the model in `folder`, with tensors replaced, added or (None) removed."""
    tensors = load_file(model.folder / "model.safetensors")
    for name, tensor in changes.items():
        tensors.pop(name, None)
        if tensor is not None:
            tensors[name] = tensor.contiguous()
    save_file(tensors, folder / "model.safetensors")
    return folder


def sharded(model: Tiny, folder: Path, shards: int = 3) -> Path:
    """A copy of the model in several files with an index."""
    tensors = load_file(model.folder / "model.safetensors")
    weight_map = {}
    for number, name in enumerate(sorted(tensors)):
        weight_map[name] = f"model-{number % shards + 1:05}-of-{shards:05}.safetensors"
    for file in sorted(set(weight_map.values())):
        save_file({n: tensors[n] for n, f in weight_map.items() if f == file}, folder / file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def parameters(loaded: LoadedSlice) -> dict[str, Tensor]:
    return dict(loaded.slice.named_parameters())


# -- what is loaded


def test_queries_keys_and_values_lie_below_each_other(tiny: GetTiny) -> None:
    model = tiny("llama3")
    theirs = model.reference.model.layers[2]
    ours = parameters(load(model.folder, model.spec, cut((2, 2))[1]))
    attn, mlp = theirs.self_attn, theirs.mlp
    qkv = torch.cat([attn.q_proj.weight, attn.k_proj.weight, attn.v_proj.weight])
    assert torch.equal(ours["layers.2.qkv.weight"], qkv)
    gate_up = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
    assert torch.equal(ours["layers.2.gate_up.weight"], gate_up)


@pytest.mark.parametrize("block_bytes", [1, 100, 4096, 2**20])
def test_blocks_of_any_size_give_the_same_slice(
    tiny: GetTiny, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    model = tiny("qwen2")
    wanted = {
        dtype: parameters(load(model.folder, model.spec, dtype=dtype))
        for dtype in (torch.float32, torch.bfloat16)
    }
    monkeypatch.setattr(weights, "BLOCK_BYTES", block_bytes)
    for dtype, want in wanted.items():
        got = parameters(load(model.folder, model.spec, dtype=dtype))
        assert got.keys() == want.keys()
        assert all(torch.equal(got[name], want[name]) for name in want), dtype


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_numbers_are_rounded_on_the_way(tiny: GetTiny, dtype: torch.dtype) -> None:
    model = tiny("qwen3")
    fp32 = parameters(load(model.folder, model.spec))
    rounded = parameters(load(model.folder, model.spec, dtype=dtype))
    assert all(torch.equal(rounded[name], fp32[name].to(dtype)) for name in fp32)


def test_a_sharded_checkpoint_is_the_same_slice(tiny: GetTiny, tmp_path: Path) -> None:
    model = tiny("llama2")
    one = load(model.folder, model.spec, MIDDLE)
    three = load(sharded(model, tmp_path), model.spec, MIDDLE)
    assert three.slice_hash == one.slice_hash
    mine, other = parameters(three), parameters(one)
    assert all(torch.equal(mine[name], other[name]) for name in other)


def test_a_tied_head_is_the_embedding(tiny: GetTiny) -> None:
    model = tiny("tied")
    whole = load(model.folder, model.spec)
    assert whole.slice.head is None, "a second copy would be read from nowhere"
    first, last = (load(model.folder, model.spec, stage) for stage in cut((2, 2)))
    assert torch.equal(parameters(last)["head.weight"], parameters(first)["embedding.weight"])


def test_progress_counts_every_byte_of_the_stage(tiny: GetTiny) -> None:
    model, told = tiny("llama2"), list[tuple[int, int]]()
    load_slice(
        model.folder, model.spec, MIDDLE, WeightForm(torch.bfloat16),
        lambda done, total: told.append((done, total)),
    )  # fmt: skip
    total_bytes = 4 * model.spec.stage_parameters(MIDDLE)  # the checkpoint is fp32
    assert told == sorted(told)
    assert told[-1] == (total_bytes, total_bytes)
    assert {total for _, total in told} == {total_bytes}


def test_a_stage_needs_no_tensors_but_its_own(tiny: GetTiny, tmp_path: Path) -> None:
    model = tiny("llama2")
    tensors = load_file(model.folder / "model.safetensors")
    mine = {name: each for name, each in tensors.items() if ".layers.1." in name}
    save_file(mine, tmp_path / "model.safetensors")
    stage = Stage(LayerRange(1, 2), embedding=False, head=False)
    assert load(tmp_path, model.spec, stage).slice_hash
    with pytest.raises(BadModel, match=r"model\.layers\.2\..* is missing"):
        load(tmp_path, model.spec, MIDDLE)


# -- the hash


def test_the_hash_tells_apart_what_differs(tiny: GetTiny, tmp_path: Path) -> None:
    model = tiny("llama2")
    norm = "model.layers.1.input_layernorm.weight"
    tensors = load_file(model.folder / "model.safetensors")
    other = changed(model, tmp_path, {norm: tensors[norm] + 1})
    hashes = {
        "this": load(model.folder, model.spec, MIDDLE).slice_hash,
        "dtype": load(model.folder, model.spec, MIDDLE, torch.bfloat16).slice_hash,
        "stage": load(model.folder, model.spec, cut((1, 3))[1]).slice_hash,
        "content": load(other, model.spec, MIDDLE).slice_hash,
        "random": random_slice(model.spec, MIDDLE, WeightForm(torch.float32), quiet).slice_hash,
    }
    assert len(set(hashes.values())) == len(hashes), hashes
    assert all(len(each) == 16 and int(each, 16) >= 0 for each in hashes.values())
    assert load(model.folder, model.spec, MIDDLE).slice_hash == hashes["this"]


# -- what is refused


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({Q_PROJ: None}, f"tensor {Q_PROJ} is missing in .*; layers \\[1, 3\\) needs it"),
        (
            {Q_PROJ: torch.zeros(32, 31)},
            f"{Q_PROJ} in .*model.safetensors has shape \\[32, 31\\].*\\[32, 32\\]",
        ),
        ({Q_PROJ: torch.zeros(32, 32, dtype=torch.float64)}, f"{Q_PROJ} in .* stored as F64"),
        ({Q_PROJ: torch.zeros(32, 32, dtype=torch.int8)}, f"{Q_PROJ} in .* stored as I8"),
        (
            {"model.layers.1.self_attn.q_proj.bias": torch.zeros(32)},
            r"model.safetensors has a tensor model\.layers\.1\.self_attn\.q_proj\.bias",
        ),
        ({"model.extra.weight": torch.zeros(3)}, "has a tensor model.extra.weight"),
        ({"model.layers.4.mlp.up_proj.weight": torch.zeros(3)}, "has a tensor model.layers.4"),
    ],
    ids=["missing", "shape", "fp64", "int8", "bias", "unknown", "layer too many"],
)
def test_wrong_tensors_are_named(
    tiny: GetTiny, tmp_path: Path, changes: dict[str, Tensor | None], says: str
) -> None:
    model = tiny("llama2")
    with pytest.raises(BadModel, match=says):
        load(changed(model, tmp_path, changes), model.spec, MIDDLE)


def test_what_another_stage_should_know_is_its_business(tiny: GetTiny, tmp_path: Path) -> None:
    model = tiny("llama2")
    strange = {"model.layers.3.self_attn.q_proj.bias": torch.zeros(32)}
    folder = changed(model, tmp_path, strange)
    assert load(folder, model.spec, MIDDLE).slice_hash
    with pytest.raises(UnsupportedModel, match="q_proj.bias"):
        load(folder, model.spec, cut((2, 2))[1])


def test_harmless_leftovers_are_ignored(tiny: GetTiny, tmp_path: Path) -> None:
    model = tiny("tied")
    frequencies = "model.layers.1.self_attn.rotary_emb.inv_freq"
    folder = changed(
        model, tmp_path, {frequencies: torch.zeros(4), "lm_head.weight": torch.zeros(99, 32)}
    )
    assert load(folder, model.spec).slice_hash == load(model.folder, model.spec).slice_hash


def test_a_truncated_file_is_named_before_anything_is_read(tiny: GetTiny, tmp_path: Path) -> None:
    model = tiny("llama2")
    whole = (model.folder / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:-100])
    with pytest.raises(BadModel, match=r"model\.safetensors is truncated.*: 100 are missing"):
        load(tmp_path, model.spec)


def test_a_file_that_shrinks_while_it_is_read_is_named(tiny: GetTiny, tmp_path: Path) -> None:
    model = tiny("llama2")
    shutil.copy(model.folder / "model.safetensors", tmp_path)
    path = tmp_path / "model.safetensors"
    found = find_tensors(tmp_path, model.spec, WHOLE)
    path.write_bytes(path.read_bytes()[:-100])
    filling = Filling(model.spec, WHOLE, WeightForm(torch.float32))
    with pytest.raises(BadModel, match=f"tensor .* is cut short: 100 bytes .* {path}"):
        weights.fill(filling, found, quiet, HostStaging(2**20))


def test_numbers_that_fp16_cannot_hold_are_refused(tiny: GetTiny, tmp_path: Path) -> None:
    model = tiny("llama2")
    large = torch.full((32, 32), 1e5)
    folder = changed(model, tmp_path, {Q_PROJ: large})
    with pytest.raises(BadModel, match=f"{Q_PROJ} in .* fp16 cannot hold.*--dtype bf16"):
        load(folder, model.spec, dtype=torch.float16)
    assert load(folder, model.spec, dtype=torch.bfloat16).slice_hash


# -- random weights


@pytest.mark.parametrize("family", FAMILIES)
def test_random_weights_are_the_same_for_every_cut(tiny: GetTiny, family: str) -> None:
    spec = tiny(family).spec
    whole = parameters(random_slice(spec, WHOLE, WeightForm(torch.float32), quiet))
    for layer_counts in ((1, 3), (2, 1, 1)):
        for stage in cut(layer_counts):
            part = parameters(random_slice(spec, stage, WeightForm(torch.float32), quiet))
            for name, tensor in part.items():
                twin = whole["embedding.weight" if spec.head_tied and "head" in name else name]
                assert torch.equal(tensor, twin), f"{name} of {stage}"


def test_random_weights_are_small_and_norms_are_one(tiny: GetTiny) -> None:
    made = random_slice(tiny("qwen3").spec, WHOLE, WeightForm(torch.float16), quiet)
    for name, tensor in parameters(made).items():
        if "norm" in name:
            assert bool((tensor == 1).all()), name
        else:
            assert 0.01 < float(tensor.float().std()) < 0.03, name
            assert abs(float(tensor.float().mean())) < 0.01, name
    assert not torch.equal(
        parameters(made)["layers.0.qkv.weight"], parameters(made)["layers.1.qkv.weight"]
    )


def test_random_weights_tell_their_progress(tiny: GetTiny) -> None:
    spec, told = tiny("llama2").spec, list[tuple[int, int]]()
    random_slice(
        spec, WHOLE, WeightForm(torch.bfloat16), lambda done, total: told.append((done, total))
    )
    assert told == sorted(told)
    assert told[-1] == (2 * spec.stage_parameters(WHOLE),) * 2


# -- memory

_LOADS = r"""
import re, sys, torch
from pathlib import Path
from edgeserve.families.folder import open_model
from edgeserve.frames.stage import cut
from edgeserve.model import weights
from edgeserve.model.staging import HostStaging
from edgeserve.model.weights import WeightForm, load_slice

def peak_bytes():
    # Not ru_maxrss: it starts with the parent's peak.
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])

torch.set_num_threads(1)
torch.ones(8, 8) @ torch.ones(8, 8)
spec = open_model(sys.argv[1]).spec
weights.BLOCK_BYTES = int(sys.argv[3])
before = peak_bytes()
stage = cut((spec.layers,))[0]
form = WeightForm(getattr(torch, sys.argv[2]))
load_slice(Path(sys.argv[1]), spec, stage, form, lambda a, b: None)
print(peak_bytes() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_loading_needs_little_memory_beside_the_slice(tmp_path: Path, dtype: str) -> None:
    """A quarter of the real blocks, and 400 MB: with 64 MiB blocks the bound is under 200 MB."""
    block_bytes = weights.BLOCK_BYTES // 4
    spec = _save_large(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", _LOADS, str(tmp_path), dtype, str(block_bytes)],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    slice_bytes = spec.stage_parameters(cut((spec.layers,))[0]) * getattr(torch, dtype).itemsize
    beside_bytes = int(done.stdout) - slice_bytes
    assert -block_bytes < beside_bytes < 3 * block_bytes, (
        f"{beside_bytes} bytes beside {slice_bytes}"
    )


def _save_large(folder: Path) -> ModelSpec:
    """A fp32 checkpoint of some 400 MB whose embedding alone is several blocks."""
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 32000,
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "num_hidden_layers": 3,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config))
    spec = open_model(str(folder)).spec
    stage = cut((spec.layers,))[0]
    sources = stage_tensors(spec, stage)
    save_file(
        {each.name: torch.zeros(each.shape) for each in sources}, folder / "model.safetensors"
    )
    return spec
