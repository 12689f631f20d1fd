"""Tensors on disk under the SHA-256 of their content, within a bound; those used last stay.

    blobs/SHA256            a whole tensor; its time of change says when it was used last
    blobs/SHA256.N.part     the beginning of one; whoever writes has it locked
    pins/NAME               the tensors of a slice that some worker is about to read; locked by it
    lock                    held while room is made

Several workers of a box may share a folder. A lock ends with its process, so one that was killed
leaves nothing behind but a part, which is gone on with. A blob's content is not checked here: that
costs a read, and whoever loads it reads it anyway.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import itertools
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from edgeserve.errors import BadSettings, DoesNotFit

BLOCK_BYTES = 4 * 2**20
BYTES_MAX = 100 * 10**9
"""Unless told otherwise: four models of 13B in 16 bits."""
SPARE_BYTES = 2**28
"""Of the disk, which stays free: a box whose disk is full has other troubles than ours."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PIN = re.compile(r"^([0-9a-f]{64}) (\d+)$", re.MULTILINE)


class BlobCache:
    """Raises BadSettings if the folder cannot be used."""

    def __init__(self, folder: Path, bytes_max: int) -> None:
        self.folder = folder
        self._bytes_max = bytes_max
        self._blobs, self._pins = folder / "blobs", folder / "pins"
        try:
            for each in (folder, self._blobs, self._pins):
                each.mkdir(parents=True, exist_ok=True, mode=0o700)
            (folder / "lock").touch(0o600)
        except OSError as error:
            raise BadSettings(
                f"--cache {folder}: {error.strerror}; name a folder that can be written"
            ) from None

    def path(self, sha256: str) -> Path:
        assert _SHA256.fullmatch(sha256), "names are digests, never what came over a wire"
        return self._blobs / sha256

    def has(self, sha256: str, size_bytes: int) -> bool:
        """From now on it is the one used last."""
        path = self.path(sha256)
        try:
            if path.stat().st_size != size_bytes:
                path.unlink()
                return False
            os.utime(path)
        except FileNotFoundError:
            return False
        return True

    def reserve(self, blobs: Mapping[str, int]) -> Pin:
        """Room for these, by hash with their bytes; until the pin is released, nobody deletes them.

        Raises DoesNotFit, before anything is deleted, if they and what other workers are about to
        read are more than the bound or the disk.
        """
        with self._locked():
            self._make_room({**self._pinned(), **blobs})
            return Pin.write(self._pins, blobs)

    def begun(self, sha256: str) -> Part | None:
        """A part that was left, with what it has; None if there is none."""
        for number in itertools.count():
            path = self._part(sha256, number)
            if not path.exists():
                return None
            if (part := Part.take(path, self.path(sha256))) is not None:
                return part
        raise AssertionError

    def begin(self, sha256: str) -> Part:
        """An empty part."""
        for number in itertools.count():
            part = Part.take(self._part(sha256, number), self.path(sha256))
            if part is not None:
                part.clear()
                return part
        raise AssertionError

    def _part(self, sha256: str, number: int) -> Path:
        return self.path(sha256).with_suffix(f".{number}.part")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.folder / "lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _pinned(self) -> dict[str, int]:
        """What others hold; pins of processes that are gone are removed."""
        found: dict[str, int] = {}
        for path in self._pins.iterdir():
            with suppress(FileNotFoundError), path.open("rb") as file:  # it is released unlocked
                if _lock(file):
                    path.unlink()
                else:
                    text = file.read().decode("ascii", errors="replace")
                    found |= {sha256: int(size) for sha256, size in _PIN.findall(text)}
        return found

    def _make_room(self, pinned: Mapping[str, int]) -> None:
        files = list(_files(self._blobs))
        here = sum(stat.st_size for path, stat in files if path.name[:64] in pinned)
        loose = [(path, stat) for path, stat in files if path.name[:64] not in pinned]
        loose.sort(key=lambda each: each[1].st_mtime_ns)
        loose_bytes = sum(stat.st_size for _, stat in loose)
        needed = sum(pinned.values())
        to_come = max(0, needed - here)
        free = shutil.disk_usage(self._blobs).free - SPARE_BYTES
        self._check_room(needed, to_come, free + loose_bytes)
        for path, stat in loose:
            if needed + loose_bytes <= self._bytes_max and to_come <= free:
                return
            path.unlink(missing_ok=True)
            loose_bytes, free = loose_bytes - stat.st_size, free + stat.st_size

    def _check_room(self, needed: int, to_come: int, available: int) -> None:
        if needed > self._bytes_max:
            raise DoesNotFit(
                f"the weights take {needed} bytes in the cache {self.folder}, whose bound is "
                f"{self._bytes_max}; raise --cache-bytes by {needed - self._bytes_max}",
                needed_bytes=needed, bound_bytes=self._bytes_max,
            )  # fmt: skip
        if to_come > available:
            raise DoesNotFit(
                f"{to_come} bytes of weights are to come, and the disk of the cache {self.folder} "
                f"has room for {max(0, available)}; free {to_come - available} bytes, or name a "
                "folder on another disk with --cache",
                needed_bytes=to_come, available_bytes=available,
            )  # fmt: skip


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Those that are still there: another worker may finish a part, which renames it."""
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            yield path, path.stat()


@dataclass(frozen=True)
class Pin:
    """Blobs that nobody may delete while it is held."""

    path: Path
    file: BinaryIO

    @classmethod
    def write(cls, folder: Path, blobs: Mapping[str, int]) -> Self:
        number, name = tempfile.mkstemp(dir=folder)
        file = os.fdopen(number, "wb")
        assert _lock(file), "it is new"
        file.write("".join(f"{sha256} {size}\n" for sha256, size in blobs.items()).encode())
        file.flush()
        return cls(Path(name), file)

    def release(self) -> None:
        self.path.unlink(missing_ok=True)
        self.file.close()


class Part:
    """A blob on its way to disk, from its first byte on."""

    def __init__(self, file: BinaryIO, path: Path, blob: Path) -> None:
        self.bytes = 0
        self._file, self._path, self._blob = file, path, blob
        self._digest = hashlib.sha256()
        while block := file.read(BLOCK_BYTES):
            self._digest.update(block)
            self.bytes += len(block)

    @classmethod
    def take(cls, path: Path, blob: Path) -> Self | None:
        """None if another process writes it."""
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b")
        if _lock(file) and _is_at(path, file):
            return cls(file, path, blob)
        file.close()
        return None

    def clear(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self.bytes, self._digest = 0, hashlib.sha256()

    def append(self, data: bytes) -> None:
        """Raises DoesNotFit if the disk is full."""
        try:
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise DoesNotFit(
                f"the disk of the cache {self._path.parent} is full: {error.strerror}; free some, "
                "and start again: what has arrived is kept"
            ) from None
        self._digest.update(data)
        self.bytes += len(data)

    def finish(self) -> str:
        """The SHA-256 of what came. It is a blob now if that is its name, and gone otherwise."""
        sha256 = self._digest.hexdigest()
        if sha256 == self._blob.name:
            self._path.replace(self._blob)
        else:
            self._path.unlink()
        self.close()
        return sha256

    def close(self) -> None:
        """What has come is kept. On a full disk, closing tries once more what `append` told of."""
        with suppress(OSError):
            self._file.close()


def _lock(file: BinaryIO) -> bool:
    """False if another process has it. Ends when the file is closed, or its process."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(path: Path, file: BinaryIO) -> bool:
    """Not if it was finished and renamed between opening and locking."""
    try:
        return path.stat().st_ino == os.fstat(file.fileno()).st_ino
    except FileNotFoundError:
        return False
