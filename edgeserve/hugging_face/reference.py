"""`org/name@revision`: what counts as the name of a model on the hub. Asks nobody."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

NEWEST = "main"
"""The hub's default branch."""
NAME_CHARACTERS_MAX = 96  # the hub's own limit

_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_REVISION = r"[A-Za-z0-9](?:[A-Za-z0-9._/+-]{0,250}[A-Za-z0-9_+-])?"
_REFERENCE = re.compile(rf"({_PART}/{_PART})(?:@({_REVISION}))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubModel:
    repo: str
    """org/name."""
    revision: str
    """A branch, a tag or a commit."""

    @property
    def is_pinned(self) -> bool:
        """A commit never changes; the others move."""
        return _COMMIT.fullmatch(self.revision) is not None

    def __str__(self) -> str:
        return f"{self.repo}@{self.revision}"


def hub_model(ref: str) -> HubModel | None:
    """None if `ref` names something else; a folder that exists goes before the hub.

    What passes can neither leave a folder nor a URL's path: both are made of it.
    """
    found = _REFERENCE.fullmatch(ref)
    if found is None or Path(ref).is_dir():
        return None
    repo, revision = found[1], found[2] or NEWEST
    if len(repo) > NAME_CHARACTERS_MAX or repo.endswith(".git"):
        return None
    if any(mark in repo for mark in ("..", "--")) or any(mark in revision for mark in ("..", "//")):
        return None
    return HubModel(repo, revision)


def settled(own: str, ordered: str) -> str:
    """What a worker takes: its own model if it was given one, else the gateway's; and the gateway's
    commit of its own, if that is only a name.
    """
    mine, theirs = hub_model(own), hub_model(ordered)
    if mine and theirs and (mine.repo, mine.revision) == (theirs.repo, NEWEST):
        return ordered
    return own or ordered
