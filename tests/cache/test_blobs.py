"""The cache keeps what was used last within its bound, and what is begun is gone on with."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import os
import shutil
import stat
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pytest

from edgeserve.cache import blobs
from edgeserve.cache.blobs import BlobCache, Part, Pin
from edgeserve.errors import BadSettings, DoesNotFit


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def put(cache: BlobCache, content: bytes, used_ns: int = 0) -> str:
    sha256 = digest(content)
    part = cache.begin(sha256)
    part.append(content)
    assert part.finish() == sha256
    os.utime(cache.path(sha256), ns=(used_ns, used_ns))
    return sha256


def names(cache: BlobCache) -> set[str]:
    return {path.name for path in (cache.folder / "blobs").iterdir()}


def test_what_is_put_is_found_by_its_content(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path / "cache", 1000)
    sha256 = put(cache, b"abc")

    assert cache.path(sha256).read_bytes() == b"abc"
    assert cache.has(sha256, 3)
    assert not cache.has(digest(b"other"), 3)


def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path / "cache", 1000)
    path = cache.path(put(cache, b"abc"))

    assert stat.S_IMODE(cache.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_blob_of_another_size_is_thrown_away(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path, 1000)
    sha256 = put(cache, b"abc")
    os.truncate(cache.path(sha256), 2)

    assert not cache.has(sha256, 3)
    assert names(cache) == set()


@pytest.mark.parametrize(
    "name", ["../../evil", "a" * 63, "A" * 64, "a" * 64 + "/x", "a" * 64 + "\n"]
)
def test_only_a_digest_is_a_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(AssertionError, match="digests"):
        BlobCache(tmp_path, 1000).path(name)


def test_a_folder_that_cannot_be_made_is_a_bad_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BadSettings, match=r"--cache .*file/cache: Not a directory"):
        BlobCache(tmp_path / "file" / "cache", 1000)


# -- parts


def test_a_part_that_was_left_is_gone_on_with(tmp_path: Path) -> None:
    cache, sha256 = BlobCache(tmp_path, 1000), digest(b"abcdef")
    part = cache.begin(sha256)
    part.append(b"abc")
    part.close()

    again = cache.begun(sha256)

    assert again is not None
    assert again.bytes == 3
    again.append(b"def")
    assert again.finish() == sha256
    assert cache.path(sha256).read_bytes() == b"abcdef"
    assert cache.begun(sha256) is None


def test_a_part_that_another_worker_writes_is_left_alone(tmp_path: Path) -> None:
    ours, theirs, sha256 = BlobCache(tmp_path, 9), BlobCache(tmp_path, 9), digest(b"abc")
    writing = theirs.begin(sha256)
    writing.append(b"ab")

    assert ours.begun(sha256) is None
    second = ours.begin(sha256)
    second.append(b"abc")
    assert second.finish() == sha256
    writing.append(b"c")
    assert writing.finish() == sha256
    assert names(ours) == {sha256}


def test_what_is_not_what_its_name_says_is_thrown_away(tmp_path: Path) -> None:
    cache, sha256 = BlobCache(tmp_path, 1000), digest(b"abc")
    part = cache.begin(sha256)
    part.append(b"abd")

    assert part.finish() == digest(b"abd")
    assert names(cache) == set()


def test_a_part_of_a_former_life_is_emptied_to_begin_anew(tmp_path: Path) -> None:
    cache, sha256 = BlobCache(tmp_path, 1000), digest(b"abc")
    part = cache.begin(sha256)
    part.append(b"xyz")
    part.close()

    part = cache.begin(sha256)

    assert part.bytes == 0
    part.append(b"abc")
    assert part.finish() == sha256


class _Full(io.BytesIO):
    """A file on a disk that is full."""

    def write(self, _data: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("buffer_bytes", [1, io.DEFAULT_BUFFER_SIZE], ids=["long", "short"])
def test_a_disk_that_fills_up_is_said(tmp_path: Path, buffer_bytes: int) -> None:
    """Also of a short one, which waits in a buffer and is tried again when that is closed."""
    file = io.BufferedRandom(_Full(b"begun"), buffer_bytes)  # type: ignore[arg-type]
    part = Part(file, tmp_path / "x.0.part", tmp_path / "x")

    says = f"cache {tmp_path} is full: No space left .* is kept"
    with pytest.raises(DoesNotFit, match=says), closing(part):
        part.append(b"more")

    assert part.bytes == 5


# -- room


def room(cache: BlobCache, wanted: Mapping[str, int]) -> set[str]:
    """What is left after room was made for `wanted`."""
    cache.reserve(wanted).release()
    return names(cache)


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path, 10)
    old, older, new = put(cache, b"aaa", 2), put(cache, b"bbb", 1), put(cache, b"ccc", 3)

    assert room(cache, {digest(b"x"): 1}) == {old, older, new}
    assert room(cache, {digest(b"x"): 2}) == {old, new}
    assert room(cache, {digest(b"x"): 7}) == {new}


def test_what_is_used_now_stays(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path, 10)
    used, other = put(cache, b"aaa", 1), put(cache, b"bbb", 2)
    assert cache.has(used, 3)

    assert room(cache, {digest(b"x"): 7}) == {used}
    assert other != used


def test_the_slice_itself_never_goes(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path, 10)
    mine, other = put(cache, b"aaa", 1), put(cache, b"bbb", 2)

    assert room(cache, {mine: 3, digest(b"x"): 5}) == {mine}
    assert other != mine


def test_what_another_worker_is_about_to_read_never_goes(tmp_path: Path) -> None:
    ours, theirs = BlobCache(tmp_path, 10), BlobCache(tmp_path, 10)
    read = put(theirs, b"aaa", 1)
    pin = theirs.reserve({read: 3, digest(b"to come"): 3})

    assert room(ours, {digest(b"x"): 4}) == {read}
    with pytest.raises(DoesNotFit, match="take 11 bytes .* bound is 10; raise --cache-bytes by 1"):
        ours.reserve({digest(b"x"): 5})
    pin.release()
    assert room(ours, {digest(b"x"): 8}) == set()


def test_the_pin_of_a_worker_that_died_holds_nothing(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path, 10)
    blob = put(cache, b"aaa", 1)
    pin = cache.reserve({blob: 3})
    pin.file.close()  # as the end of its process does

    assert room(cache, {digest(b"x"): 8}) == set()
    assert list((tmp_path / "pins").iterdir()) == []


def test_too_much_is_refused_before_anything_goes(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path, 10)
    blob = put(cache, b"aaa", 1)

    with pytest.raises(DoesNotFit) as refused:
        cache.reserve({digest(b"x"): 6, digest(b"y"): 6})

    assert refused.value.numbers == {"needed_bytes": 12, "bound_bytes": 10}
    assert names(cache) == {blob}


def test_a_disk_that_is_too_small_is_said_before_anything_goes(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path, 2**62)
    blob = put(cache, b"aaa", 1)

    with pytest.raises(
        DoesNotFit, match=r"bytes of weights are to come, .* has room for \d+; free"
    ):
        cache.reserve({digest(b"x"): 2**60})

    assert names(cache) == {blob}


def test_a_full_disk_makes_room_of_what_is_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = BlobCache(tmp_path, 1000)
    put(cache, b"aaa", 1)
    new = put(cache, b"bbb", 2)
    free = shutil.disk_usage(tmp_path).free
    monkeypatch.setattr(blobs, "SPARE_BYTES", free)  # nothing is left on this disk
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: _Disk(free))

    assert room(cache, {digest(b"x"): 3}) == {new}


class _Disk:
    def __init__(self, free: int) -> None:
        self.free = free


def test_parts_that_nobody_went_on_with_go_as_blobs_do(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path, 10)
    part = cache.begin(digest(b"left"))
    part.append(b"lef")
    part.close()

    assert room(cache, {digest(b"left"): 8}) == {f"{digest(b'left')}.0.part"}
    assert room(cache, {digest(b"x"): 8}) == set()


def test_a_pin_is_locked_as_long_as_it_is_held(tmp_path: Path) -> None:
    pin = Pin.write(tmp_path, {digest(b"x"): 1})
    with pin.path.open("rb") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    pin.release()
    assert not pin.path.exists()


def test_a_pin_that_is_released_while_another_worker_looks_is_none(tmp_path: Path) -> None:
    """It takes no lock for that. What is listed and gone when it is opened, is a dead link."""
    cache = BlobCache(tmp_path, 1000)
    (tmp_path / "pins" / "released").symlink_to("nowhere")

    assert room(cache, {digest(b"abc"): 3}) == set()
