"""Ranges as people write them, and what is said to somebody who slips."""

from __future__ import annotations

import pytest

from edgeserve.errors import BadRequest
from edgeserve.probe.ranges import parse_range


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("1-8", (1, 2, 3, 4, 5, 6, 7, 8)),
        ("1,4,16", (1, 4, 16)),
        ("1-3,8,16-17", (1, 2, 3, 8, 16, 17)),
        ("16,1,4", (1, 4, 16)),
        ("2-4,3,4", (2, 3, 4)),
        (" 1 - 2 , 4 ", (1, 2, 4)),
        ("5", (5,)),
        ("3-3", (3,)),
    ],
)
def test_numbers_and_ranges_are_mixed_at_will(text: str, numbers: tuple[int, ...]) -> None:
    assert parse_range("--batch", text) == numbers


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1-x", "--batch '1-x': '1-x' is neither N nor N-M"),
        ("1,x,3", "--batch '1,x,3': 'x' is neither N nor N-M"),
        ("", "--batch '': '' is neither N nor N-M"),
        ("1,,2", "--batch '1,,2': '' is neither N nor N-M"),
        ("1.5", "--batch '1.5': '1.5' is neither N nor N-M"),
        ("-3", "--batch '-3': '-3' is neither N nor N-M"),
        ("1-2-3", "--batch '1-2-3': '1-2-3' is neither N nor N-M"),
        ("\u0663", "--batch '\u0663': '\u0663' is neither N nor N-M"),
        ("0-4", "--batch '0-4': '0-4' begins below 1"),
        ("8-1", "--batch '8-1': '8-1' runs backwards; write 1-8"),
        ("1-1001", "--batch '1-1001': '1-1001' is more than 1000 numbers"),
    ],
)
def test_a_slip_is_named_with_the_flag_and_the_part(text: str, says: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_range("--batch", text)

    assert str(caught.value) == says
