"""SHA-256 of tensors in files, computed once for as long as the file stays the same.

A file's notes have the name of its path, size, time of change and inode, so those of a file that
changed are never found again. Two processes may note at the same time: a line is one short write at
the end.
"""

from __future__ import annotations

import hashlib
import logging
import re
from pathlib import Path

from edgeserve.families.checkpoint import StoredTensor

log = logging.getLogger(__name__)

BLOCK_BYTES = 4 * 2**20
"""Hashing it takes 4 ms, and other threads run meanwhile."""
_LINE = re.compile(r"^(\d+) (\d+) ([0-9a-f]{64})$", re.MULTILINE)


class FileHashes:
    """For one thread, and for as long as one loading takes: notes are read once."""

    def __init__(self, cache: Path) -> None:
        self._folder = cache / "hashes"
        self._notes: dict[Path, dict[tuple[int, int], str]] = {}

    def sha256(self, stored: StoredTensor) -> str:
        """Of the tensor's bytes. Reads them unless that was noted already."""
        notes = self._notes_of(stored.path)
        where = (stored.start_byte, stored.end_byte)
        known = self._read(notes).get(where)
        if known is None:
            known = _hash(stored)
            if self._notes_of(stored.path) == notes:  # it did not change meanwhile
                self._note(notes, where, known)
        return known

    def _notes_of(self, path: Path) -> Path:
        path = path.resolve()
        now = path.stat()
        identity = f"{path} {now.st_size} {now.st_mtime_ns} {now.st_ino}"
        return self._folder / hashlib.sha256(identity.encode()).hexdigest()

    def _read(self, notes: Path) -> dict[tuple[int, int], str]:
        if notes not in self._notes:
            try:
                text = notes.read_text(encoding="ascii", errors="replace")
            except OSError:  # none yet; and a folder that cannot be used is told of in `_note`
                text = ""
            self._notes[notes] = {(int(a), int(b)): sha for a, b, sha in _LINE.findall(text)}
        return self._notes[notes]

    def _note(self, notes: Path, where: tuple[int, int], sha256: str) -> None:
        self._notes[notes][where] = sha256
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with notes.open("ab") as file:
                file.write(f"{where[0]} {where[1]} {sha256}\n".encode())
        except OSError as error:
            log.warning("%s: hashes cannot be kept there, %s", self._folder, error.strerror)


def _hash(stored: StoredTensor) -> str:
    digest, left = hashlib.sha256(), stored.bytes
    block = memoryview(bytearray(min(left, BLOCK_BYTES)))
    with stored.path.open("rb", buffering=0) as file:
        file.seek(stored.start_byte)
        while left and (count := file.readinto(block[:left])):
            digest.update(block[:count])
            left -= count
    return digest.hexdigest()
