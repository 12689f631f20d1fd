"""Finding the model that a user named."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgeserve.errors import BadModel, UnsupportedModel
from edgeserve.families.folder import open_model, told_model, weight_files
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


# -- names


HASH = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def model_in(tmp_path: Path) -> Path:
    folder = tmp_path / "models" / "real-name"
    folder.mkdir(parents=True)
    return folder_with(folder, LLAMA_2_13B)


def named(ref: Path | str) -> str:
    return open_model(str(ref)).name


def test_a_folder_is_named_as_it_was_given(model_in: Path, tmp_path: Path) -> None:
    link = tmp_path / "a-link"
    link.symlink_to(model_in)
    over = tmp_path / "over"
    over.symlink_to(link)
    assert named(model_in) == named(f"{model_in}/") == named(f"{model_in}//.") == "real-name"
    assert named(link) == named(f"{link}/") == named(f"{link}/.") == "a-link"
    assert named(over) == "over"


def test_a_link_further_up_changes_no_name(model_in: Path, tmp_path: Path) -> None:
    (tmp_path / "shelf").symlink_to(model_in.parent)
    assert named(tmp_path / "shelf" / "real-name") == "real-name"


def test_a_relative_path_is_named_as_well(
    model_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a-link").symlink_to(model_in)
    monkeypatch.chdir(tmp_path)
    assert named("models/real-name") == named("./models/real-name/") == "real-name"
    assert named("a-link") == named("./a-link/") == "a-link"
    assert named("a-link/../real-name") == "real-name", "a link's .. is where it points to"
    monkeypatch.chdir(model_in)
    assert named(".") == named("./") == named("../real-name") == "real-name"
    (model_in / "deeper").mkdir()
    monkeypatch.chdir(model_in / "deeper")
    assert named("..") == named("../") == "real-name"


def test_a_home_folder_is_named_too(model_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(model_in))
    assert named("~") == "real-name"


@pytest.mark.parametrize(
    ("cache", "name"),
    [
        ("models--HuggingFaceTB--SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M"),
        ("models--gpt2", "gpt2"),
        ("models--org--with-dash.and_dot", "org/with-dash.and_dot"),
        ("models--", HASH),
        ("datasets--org--name", HASH),
    ],
)
def test_a_snapshot_of_the_hub_is_named_as_the_hub_names_it(
    cache: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = tmp_path / "hub" / cache / "snapshots" / HASH
    snapshot.mkdir(parents=True)
    folder_with(snapshot, LLAMA_2_13B)
    assert named(snapshot) == named(f"{snapshot}/") == name
    monkeypatch.chdir(snapshot)
    assert named(".") == name
    (tmp_path / "shelf").symlink_to(snapshot.parent.parent)
    assert named(tmp_path / "shelf" / "snapshots" / HASH) == name
    (tmp_path / "mine").symlink_to(snapshot)
    assert named(tmp_path / "mine") == "mine", "a name that somebody chose goes first"


def test_the_folder_of_a_link_is_found_by_its_real_path(model_in: Path, tmp_path: Path) -> None:
    (tmp_path / "a-link").symlink_to(model_in)
    assert open_model(str(tmp_path / "a-link")).reference == str(model_in)


def test_a_worker_names_a_model_as_the_gateway_does(model_in: Path) -> None:
    config = json.dumps(LLAMA_2_13B).encode()
    assert told_model(f"/far/models--org--name/snapshots/{HASH}", config).name == "org/name"
    assert told_model(str(model_in), config).name == "real-name"
