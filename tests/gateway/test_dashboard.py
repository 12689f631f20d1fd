"""The dashboard's files: with which headers they come, and what they may not hold. What the page
does is in tests/browser.
"""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path

import httpx
import numpy as np
import numpy.typing as npt
import pytest

from edgeserve.gateway.app import create_app
from edgeserve.gateway.app_state import AppState
from edgeserve.gateway.dashboard.routes import FILES, OPEN_PATHS
from tests.gateway.conftest import key_ring

FOLDER = Path(__file__).parents[2] / "edgeserve" / "gateway" / "dashboard"
SOURCES = sorted(each for each in FOLDER.iterdir() if each.suffix != ".py" and each.is_file())
Vector = npt.NDArray[np.float64]
MARKUP_FROM_STRINGS = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\b|new Function"
    r"|setHTML|createContextualFragment|\.on[a-z]+ ="
)
FILE_BYTES_MAX = 100_000
SCRIPTS = [each for each in SOURCES if each.suffix == ".js"]


class Elements(HTMLParser):
    """What a document is made of, and all that its attributes refer to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.attributes: list[tuple[str, str]] = []
        self.inline: list[str] = []
        """Text within scripts and styles."""
        self._within = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._within = tag
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, _tag: str) -> None:
        self._within = ""

    def handle_data(self, data: str) -> None:
        if self._within in ("script", "style"):
            self.inline.append(data)


def locked(state: AppState) -> httpx.AsyncClient:
    """A client that has no key, of a gateway that wants one."""
    app = create_app(replace(state, keys=key_ring(state.clock, {"me": "open sesame"})))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway")


@pytest.mark.parametrize("path", sorted(OPEN_PATHS))
async def test_every_file_comes_with_a_strict_policy_and_without_a_key(
    path: str, state: AppState
) -> None:
    async with locked(state) as client:
        answer = await client.get(path)
    assert answer.status_code == 200
    policy = dict(
        each.split(" ", 1) for each in answer.headers["content-security-policy"].split("; ")
    )
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "connect-src": "'self'",
        "img-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["content-type"] == {**FILES, "/favicon.ico": "image/svg+xml"}.get(
        path, "text/html; charset=utf-8"
    )
    assert 0 < len(answer.content) < FILE_BYTES_MAX


# -- colours


# What is left of linear red, green and blue to somebody who lacks one kind of cones: Machado,
# Oliveira and Fernandes, 2009.
FEWER_COLOURS = {
    "all": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "no red": ((0.152, 1.053, -0.205), (0.115, 0.786, 0.099), (-0.004, -0.048, 1.052)),
    "no green": ((0.367, 0.861, -0.228), (0.280, 0.673, 0.047), (-0.012, 0.043, 0.969)),
    "no blue": ((1.256, -0.077, -0.179), (-0.078, 0.931, 0.148), (0.005, 0.691, 0.304)),
}
DISTANCE_MIN = 20  # of CIELAB, in which 2.3 can just be told apart side by side


@pytest.mark.parametrize("seen", FEWER_COLOURS)
@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_kinds_of_time_can_be_told_apart_by_who_sees_fewer_colours(scheme: int, seen: str) -> None:
    css = (FOLDER / "dashboard.css").read_text(encoding="utf-8")
    shown = {
        kind: _lab(np.array(FEWER_COLOURS[seen]) @ _linear(found[scheme]))
        for kind in ("compute", "transfer", "waiting", "other")
        if (found := re.findall(rf"--{kind}: #([0-9a-f]{{6}});", css))
    }
    distances = {
        (one, other): float(np.linalg.norm(shown[one] - shown[other]))
        for one, other in combinations(shown, 2)
    }
    assert len(distances) == 6
    assert {pair: each for pair, each in distances.items() if each < DISTANCE_MIN} == {}


def _linear(colour: str) -> Vector:
    part = np.array([*bytes.fromhex(colour)]) / 255
    linear: Vector = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    return linear


def _lab(linear: Vector) -> Vector:
    """CIELAB, of daylight."""
    to_xyz = ((0.4339, 0.3762, 0.1899), (0.2127, 0.7152, 0.0722), (0.0178, 0.1095, 0.8727))
    x, y, z = (
        np.cbrt(each) if each > 0.008856 else 7.787 * each + 16 / 116
        for each in np.array(to_xyz) @ np.clip(linear, 0, 1)
    )
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


# -- files


async def test_the_data_is_not_open(state: AppState) -> None:
    async with locked(state) as client:
        for path in ("/v1/cluster", "/dashboard", "/dashboard/", "/dashboard/routes.py"):
            assert (await client.get(path)).status_code == 401
        assert (await client.post("/generate_stream", json={"inputs": "x"})).status_code == 401


async def test_nothing_else_of_the_folder_is_served(client: httpx.AsyncClient) -> None:
    for name in ("routes.py", "__init__.py", "../app.py", "%2e%2e/app.py", "..%2fapp.py", "index"):
        assert (await client.get(f"/dashboard/{name}")).status_code == 404


def test_every_file_is_part_of_the_package() -> None:
    served = {f"/dashboard/{each.name}" for each in SOURCES}
    assert served == set(FILES)
    assert {"/dashboard/index.html", "/dashboard/main.js", "/dashboard/dashboard.css"} <= served


@pytest.mark.parametrize(
    ("page", "others"),
    [
        ("index.html", {"v1/cluster", "metrics", "trace", "docs", "openapi.json"}),
        ("docs.html", {"./", "openapi.json"}),
    ],
)
def test_a_document_holds_no_script_and_no_style_and_names_its_own_files(
    page: str, others: set[str]
) -> None:
    elements = Elements((FOLDER / page).read_text(encoding="utf-8"))
    names = {name for name, _ in elements.attributes}
    assert "".join(elements.inline).strip() == ""
    assert "style" not in names
    assert [name for name in names if name.startswith("on")] == []
    links = [value for name, value in elements.attributes if name in ("src", "href")]
    files = [each for each in links if each.startswith("dashboard/")]
    assert {f"/{each}" for each in files} <= set(FILES)
    assert set(links) - set(files) == others


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_file_refers_to_another_origin(path: Path) -> None:
    text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert re.findall(r"https?:|(?:src|href)=\"//|@import|url\(", text) == []


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_make_no_markup_of_strings_and_say_why_they_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert MARKUP_FROM_STRINGS.findall(text) == []
    assert ('"./' in text) == ("import {" in text), "modules of this folder alone"
    assert text.startswith("// ")
    assert max(map(len, text.splitlines())) <= 100
    assert len(text.splitlines()) <= 300


def test_every_element_that_a_script_asks_for_is_in_the_document() -> None:
    pages = [path.read_text(encoding="utf-8") for path in SOURCES if path.suffix == ".html"]
    elements = Elements("".join(pages))
    there = {value for name, value in elements.attributes if name == "id"}
    scripts = "".join(path.read_text(encoding="utf-8") for path in SCRIPTS)
    asked = set(re.findall(r'byId\("([\w-]+)"\)', scripts))
    assert len(asked) > 20
    assert asked - there == set()
