"""The pages that the tests of this folder compare with the code, and their tables."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def page_text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def section_of(page: str, heading: str) -> str:
    """From the heading to the next one of its level or above."""
    level = len(heading) - len(heading.lstrip("#"))
    _, found, rest = page.partition(f"\n{heading}\n")
    assert found, f"no heading {heading!r}"
    return re.split(rf"\n#{{1,{level}}} ", rest)[0]


def rows_of(section: str) -> list[list[str]]:
    """The cells of a section's tables, without heads."""
    lines = [line for line in section.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    heads = [i for i, row in enumerate(cells) if set("".join(row)) <= set("-:")]
    return [row for i, row in enumerate(cells) if i not in heads and i + 1 not in heads]


def code_of(cell: str) -> str:
    return cell.strip("`")
