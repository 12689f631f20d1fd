"""A file is hashed once, as long as it stays the same."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from edgeserve.cache import hashes
from edgeserve.cache.hashes import FileHashes
from edgeserve.families.checkpoint import StoredTensor


def tensor(path: Path, start: int, end: int) -> StoredTensor:
    return StoredTensor(
        name="t", path=path, dtype="F32", shape=(0,), start_byte=start, end_byte=end
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "x.safetensors"
    path.write_bytes(bytes(range(200)))
    return path


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[StoredTensor]:
    """Every tensor that is read."""
    seen, real = list[StoredTensor](), hashes._hash

    def hash_and_tell(stored: StoredTensor) -> str:
        seen.append(stored)
        return real(stored)

    monkeypatch.setattr(hashes, "_hash", hash_and_tell)
    return seen


@pytest.mark.parametrize("block_bytes", [1, 7, 4096])
def test_it_is_the_digest_of_the_tensors_bytes(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    monkeypatch.setattr(hashes, "BLOCK_BYTES", block_bytes)
    wanted = hashlib.sha256(bytes(range(10, 150))).hexdigest()

    assert FileHashes(tmp_path / "cache").sha256(tensor(file, 10, 150)) == wanted


def test_another_process_finds_it_without_reading(
    file: Path, tmp_path: Path, reads: list[StoredTensor]
) -> None:
    both = [tensor(file, 10, 150), tensor(file, 150, 200)]
    first, second = ([FileHashes(tmp_path).sha256(each) for each in both] for _ in range(2))
    found = list(first)

    assert list(second) == found
    assert reads == both


def test_a_file_that_changed_is_read_again(
    file: Path, tmp_path: Path, reads: list[StoredTensor]
) -> None:
    before = FileHashes(tmp_path).sha256(tensor(file, 0, 100))
    changed = file.stat().st_mtime_ns + 1
    file.write_bytes(bytes(200))
    os.utime(file, ns=(changed, changed))

    assert FileHashes(tmp_path).sha256(tensor(file, 0, 100)) != before
    assert len(reads) == 2


def test_what_changes_while_it_is_read_is_not_noted(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hash_and_change(_stored: StoredTensor) -> str:
        file.write_bytes(b"something else")
        return "f" * 64

    monkeypatch.setattr(hashes, "_hash", hash_and_change)
    FileHashes(tmp_path / "cache").sha256(tensor(file, 0, 100))

    assert not (tmp_path / "cache").exists()


def test_broken_notes_are_no_notes(file: Path, tmp_path: Path, reads: list[StoredTensor]) -> None:
    FileHashes(tmp_path).sha256(tensor(file, 0, 100))
    (notes,) = (tmp_path / "hashes").iterdir()
    notes.write_bytes(b"\xff\xfe 0 100 abc\n0 100 " + b"0" * 63)

    assert FileHashes(tmp_path).sha256(tensor(file, 0, 100)) != "0" * 64
    assert len(reads) == 2


def test_a_cache_that_cannot_be_written_costs_only_time(file: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"no folder")
    wanted = hashlib.sha256(bytes(range(100))).hexdigest()

    assert FileHashes(tmp_path / "cache").sha256(tensor(file, 0, 100)) == wanted


def test_a_cache_that_cannot_even_be_looked_at_costs_only_time(file: Path, tmp_path: Path) -> None:
    nowhere = tmp_path / ("x" * 300)  # no name that a disk takes; to root, all else is open
    wanted = hashlib.sha256(bytes(range(100))).hexdigest()

    assert FileHashes(nowhere).sha256(tensor(file, 0, 100)) == wanted
