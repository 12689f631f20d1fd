"""safetensors files: what lies where, and every way in which a file can be wrong."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from edgeserve.errors import BadModel
from edgeserve.families.checkpoint import INDEX, read_header, weight_files

GOOD = {"a": {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]}}


def write(path: Path, header: Any, data_bytes: int = 12) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(data_bytes))
    return path


def refusal(path: Path) -> str:
    with pytest.raises(BadModel) as caught:
        read_header(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_header_says_where_each_tensor_lies(tmp_path: Path) -> None:
    header = {"__metadata__": {"format": "pt"}, **GOOD}
    path = write(tmp_path / "x.safetensors", header)
    found = read_header(path)
    assert list(found) == ["a"]
    start = 8 + len(json.dumps(header))
    a = found["a"]
    assert (a.dtype, a.shape, a.start_byte, a.end_byte) == ("F16", (2, 3), start, start + 12)
    assert (a.bytes, a.path) == (12, path)


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (b"{nonsense", "its header is not JSON"),
        (b"\xff\xfe", "its header is not JSON"),
        ([1], "its header is not an object"),
        ({"a": {"dtype": "F16", "shape": [2, 3]}}, "tensor a is incomplete"),
        ({"a": 7}, "tensor a is incomplete"),
        ({"a": {**GOOD["a"], "data_offsets": [0]}}, "tensor a is incomplete"),
        ({"a": {**GOOD["a"], "shape": [2, -3]}}, "tensor a has impossible numbers"),
        ({"a": {**GOOD["a"], "data_offsets": [12, 0]}}, "tensor a has impossible numbers"),
        ({"a": {**GOOD["a"], "shape": [2, "3"]}}, "tensor a has impossible numbers"),
        ({"a": {**GOOD["a"], "shape": [2, 4]}}, "has 12 bytes instead of 16"),
        ({"a": {**GOOD["a"], "dtype": "F32"}}, "has 12 bytes instead of 24"),
    ],
)
def test_a_corrupt_header_is_named(tmp_path: Path, header: Any, says: str) -> None:
    assert says in refusal(write(tmp_path / "x.safetensors", header))


def test_a_truncated_file_says_how_much_is_missing(tmp_path: Path) -> None:
    said = refusal(write(tmp_path / "x.safetensors", GOOD, data_bytes=7))
    assert "5 are missing" in said
    assert "download it again" in said


@pytest.mark.parametrize("content", [b"", b"abc", struct.pack("<Q", 50) + b"{}", b"\xff" * 64])
def test_a_file_too_small_for_its_header_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    assert "cannot hold its header" in refusal(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "x.safetensors")


def test_a_single_file_needs_no_index(tmp_path: Path) -> None:
    path = write(tmp_path / "model.safetensors", GOOD)
    write(tmp_path / "adapter.safetensors", {"b": GOOD["a"]})  # beside it: not the model's
    assert weight_files(tmp_path) == {"a": path}


def test_files_of_other_names_are_taken_together(tmp_path: Path) -> None:
    one, two = tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    write(one, GOOD)
    write(two, {"b": GOOD["a"]})
    assert weight_files(tmp_path) == {"a": one, "b": two}
    write(two, GOOD)
    with pytest.raises(BadModel, match=r"tensor a is in both .*1\.safetensors and .*2\.saf"):
        weight_files(tmp_path)


def test_a_missing_shard_is_named_with_its_index(tmp_path: Path) -> None:
    write(tmp_path / "m-1.safetensors", GOOD)
    weight_map = {"a": "m-1.safetensors", "b": "m-2.safetensors"}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(BadModel, match=rf"m-2\.safetensors is missing: .*{INDEX} names it among 2"):
        weight_files(tmp_path)
    write(tmp_path / "m-2.safetensors", {"b": GOOD["a"]})
    assert weight_files(tmp_path) == {
        "a": tmp_path / "m-1.safetensors",
        "b": tmp_path / "m-2.safetensors",
    }


def test_a_shard_may_be_missing_that_nobody_needs(tmp_path: Path) -> None:
    write(tmp_path / "m-1.safetensors", GOOD)
    weight_map = {"a": "m-1.safetensors", "b": "m-2.safetensors"}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    assert weight_files(tmp_path, {"a", "not in it"}).keys() == {"a", "b"}
    with pytest.raises(BadModel, match=r"m-2\.safetensors is missing"):
        weight_files(tmp_path, {"b"})


def test_an_index_names_safetensors_alone(tmp_path: Path) -> None:
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": "pytorch_model.bin"}}))
    with pytest.raises(BadModel, match=r"names pytorch_model\.bin, which is no \*\.safetensors"):
        weight_files(tmp_path)


@pytest.mark.parametrize("shard", ["../x.safetensors", "/etc/passwd", "sub/x.safetensors"])
def test_an_index_cannot_lead_out_of_the_folder(tmp_path: Path, shard: str) -> None:
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(BadModel, match="outside of the model's folder"):
        weight_files(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": [1]}'])
def test_a_broken_index_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(BadModel, match=rf"{INDEX} is not an index"):
        weight_files(tmp_path)


def test_weights_that_can_run_code_are_never_opened(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"anything")
    (tmp_path / "training_args.bin").write_bytes(b"not weights")
    with pytest.raises(BadModel, match=r"only as pytorch_model\.bin.*convert them to safetensors"):
        weight_files(tmp_path)


def test_a_folder_without_weights_says_so(tmp_path: Path) -> None:
    (tmp_path / "training_args.bin").write_bytes(b"not weights")
    with pytest.raises(BadModel, match=r"has no weights: no \*\.safetensors"):
        weight_files(tmp_path)
