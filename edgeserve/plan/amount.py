"""Bytes as people buy them: in units of 10^9."""

from __future__ import annotations

SMALL_BYTES = 10**8  # below, a GB with one decimal says next to nothing


def amount(size_bytes: int, decimals: int = 1) -> str:
    """'8.57 GB', or '10.5 MB' where that would read 0.0 GB."""
    if size_bytes >= SMALL_BYTES or size_bytes == 0:
        return f"{size_bytes / 1e9:.{decimals}f} GB"
    return f"{size_bytes / 1e6:.{decimals}f} MB"
