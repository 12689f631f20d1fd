"""Finding the model that a user named."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgeserve.errors import BadModel, UnsupportedModel
from edgeserve.families.folder import open_model, weight_files
from edgeserve.families.shapes import SHAPES
from tests.families.published import LLAMA_2_13B, LLAMA_3_1_8B

ROOT = Path(__file__).resolve().parents[2]


def folder_with(folder: Path, config: Any, generation: Any = None) -> Path:
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


def refusal(ref: Path | str) -> str:
    with pytest.raises(BadModel) as caught:
        open_model(str(ref))
    return str(caught.value)


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_has_random_weights(name: str) -> None:
    source = open_model(name)
    assert (source.name, source.spec, source.folder) == (name, SHAPES[name], None)
    assert source.random_weights
    assert source.eos_ids == frozenset()


def test_the_demo_is_packaged_with_its_weights() -> None:
    source = open_model("demo")
    assert (source.name, source.reference, source.random_weights) == ("demo", "demo", False)
    assert source.folder is not None
    assert "model.embed_tokens.weight" in weight_files(source.folder)
    assert source.eos_ids


def test_a_folder_needs_no_weights_to_be_described(tmp_path: Path) -> None:
    source = open_model(str(folder_with(tmp_path, LLAMA_2_13B)))
    assert (source.name, source.spec) == (tmp_path.name, SHAPES["llama-2-13b"])
    assert source.folder == tmp_path
    assert not source.random_weights


@pytest.mark.parametrize(
    ("in_config", "in_generation", "wanted"),
    [
        (2, None, {2}),
        ([1, 2], None, {1, 2}),
        (2, {"eos_token_id": [7, 8]}, {2, 7, 8}),
        ([2, 7], {"eos_token_id": 7}, {2, 7}),
        ([2, None], {"eos_token_id": []}, {2}),
        ([-1, 32000], {"eos_token_id": [31999, 10**12]}, {31999}),
        (2, {"eos_token_id": None}, {2}),
        (2, {}, {2}),
        (None, None, set()),
    ],
)
def test_what_either_file_calls_an_end_is_one(
    tmp_path: Path, in_config: Any, in_generation: Any, wanted: set[int]
) -> None:
    folder_with(tmp_path, {**LLAMA_2_13B, "eos_token_id": in_config}, in_generation)
    assert open_model(str(tmp_path)).eos_ids == wanted


@pytest.mark.parametrize("value", ["</s>", 2.5, [2, "x"], True])
def test_an_end_that_is_no_token_is_named(tmp_path: Path, value: Any) -> None:
    folder_with(tmp_path, LLAMA_3_1_8B, {"eos_token_id": value})
    assert "generation_config.json: eos_token_id is" in refusal(tmp_path)


def test_a_misspelt_shape_is_met_with_its_neighbours() -> None:
    said = refusal("llama-2-13B-hf")
    assert "neither a folder nor a built-in shape" in said
    assert "did you mean" in said
    assert "llama-2-13b" in said
    assert "shapes are llama-2-7b, " in refusal("/no/such/place")


def test_a_folder_without_a_config_is_no_model(tmp_path: Path) -> None:
    assert "has no config.json" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "config.json is not valid JSON"),
        ("[]", "config.json is not a JSON object"),
        ('{"a": "\\', "is not valid JSON"),
    ],
)
def test_a_broken_config_is_named(tmp_path: Path, text: str, says: str) -> None:
    folder_with(tmp_path, text)
    said = refusal(tmp_path)
    assert says in said
    assert str(tmp_path) in said


def test_a_config_that_is_not_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"\xff\xfe\x00")
    assert "config.json is not valid JSON" in refusal(tmp_path)


def test_a_refusal_names_the_folder(tmp_path: Path) -> None:
    folder_with(tmp_path, {**LLAMA_2_13B, "hidden_act": "gelu"})
    with pytest.raises(UnsupportedModel, match=f"{tmp_path}: config.json.*gelu"):
        open_model(str(tmp_path))


def test_runnable_weights_are_refused_at_the_gateway_too(tmp_path: Path) -> None:
    folder_with(tmp_path, LLAMA_2_13B)
    (tmp_path / "pytorch_model-00001-of-00003.bin").write_bytes(b"x")
    assert "convert them to safetensors" in refusal(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert open_model(str(tmp_path)).folder == tmp_path


def test_families_know_no_tensors_and_no_network() -> None:
    code = (
        "import sys, edgeserve.families.folder, edgeserve.families.rules\n"
        "print(sorted({'torch', 'numpy', 'grpc', 'fastapi', 'asyncio', 'socket', 'safetensors'}"
        " & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"
