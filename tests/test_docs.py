"""What the pages promise is what the code does, and the other way round.

Where a page holds a table of the code's own facts, the test builds the table and wants it word for
word: on failure it shows what to paste.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from benchmarks import schedule_effects, side_by_side, soak
from benchmarks.gpu_check import __main__ as gpu_check
from edgeserve import cli
from edgeserve.config import PREFIX, GatewaySettings, WorkerSettings
from edgeserve.doctor.report import TITLES
from edgeserve.errors import EdgeserveError, named_errors
from edgeserve.frames.stage_time import StageTime
from edgeserve.gpu import CAPABILITY_MIN, DRIVER_MIN, OLDER_BUILDS
from edgeserve.probe.report import NUMBERS
from edgeserve.timing.hop import Hop, Lap
from edgeserve.timing.ledger import Ledger, StageLabel
from edgeserve.wire.pb import worker_pb2
from tests.pages import ROOT, code_of, page_text, rows_of, section_of

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
SETTINGS = {"worker": WorkerSettings, "gateway": GatewaySettings}
FOREIGN_FLAGS = {
    "--target",
    "--tools",
    "--system-prompt",
    "--no-index",
    "--find-links",
    "--index-url",
    "--help",
    "--version",
    "--editable",
    "--strict",
    "--tasks",
    "--rpc",
    "--profile",
    "--write-clients-page",
}
"""Of other programs that the pages mention, the tests among them, or of every program."""


def _commands() -> dict[str, argparse.ArgumentParser]:
    actions = cli._parser()._actions
    (commands,) = [each for each in actions if isinstance(each, argparse._SubParsersAction)]
    return dict(commands.choices)


def _own_flags(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Without those of groups, which `up` passes on."""
    (options,) = [each for each in parser._action_groups if each.title == "options"]
    return (each for each in options._group_actions if "--help" not in each.option_strings)


# -- commands and settings


def test_every_command_is_documented_with_the_words_of_its_help() -> None:
    rows = rows_of(section_of(page_text("docs/operating.md"), "## Commands"))

    assert rows == [[f"`edgeserve {name}`", what] for name, what in cli.COMMANDS.items()]


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_is_documented(name: str) -> None:
    documented = rows_of(section_of(page_text("docs/operating.md"), f"### `edgeserve {name}`"))
    expected = [_setting_row(each) for each in fields(SETTINGS[name])]

    assert documented == expected, "\n".join(["paste this:", *map(_line, expected)])


def _setting_row(each: Any) -> list[str]:
    flag = "" if each.metadata.get("secret") else f"`--{each.name.replace('_', '-')}`"
    default = "" if each.default in ("", 0, ()) else f"`{each.default}`"
    if isinstance(each.default, bool):
        default = "no"
    return [flag, f"`{PREFIX}{each.name.upper()}`", default, each.metadata["help"]]


@pytest.mark.parametrize("name", sorted(cli.COMMANDS.keys() - SETTINGS.keys()))
def test_every_flag_of_a_command_is_documented(name: str) -> None:
    section = section_of(page_text("docs/operating.md"), f"### `edgeserve {name}`")
    documented = [row for row in rows_of(section) if row[0].startswith("`--")]
    expected = [
        [f"`{each.option_strings[0]}`", each.help or ""] for each in _own_flags(_commands()[name])
    ]

    assert documented == expected, "\n".join(["paste this:", *map(_line, expected)])


def test_every_key_of_a_row_of_the_probe_is_documented() -> None:
    section = section_of(page_text("docs/operating.md"), "### `edgeserve probe`")
    keys = [code_of(row[0]) for row in rows_of(section) if not row[0].startswith("`--")]

    assert keys == ["batch", "status", "reason", *NUMBERS]


def test_every_key_of_a_box_of_the_doctor_is_documented() -> None:
    section = section_of(page_text("docs/operating.md"), "### `edgeserve doctor`")
    keys = [code_of(row[0]) for row in rows_of(section) if not row[0].startswith("`--")]

    assert keys == list(TITLES)


def _line(row: list[str]) -> str:
    return f"| {' | '.join(row)} |"


def test_the_pages_name_no_flag_that_does_not_exist() -> None:
    benchmarks = [each.make_parser() for each in (side_by_side, schedule_effects, soak, gpu_check)]
    known = {
        flag
        for parser in (*_commands().values(), *benchmarks)
        for each in parser._actions
        for flag in each.option_strings
    }
    named = {
        (page.name, flag)
        for page in PAGES
        for flag in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", page.read_text(encoding="utf-8"))
    }

    assert {(page, flag) for page, flag in named if flag not in known | FOREIGN_FLAGS} == set()


def test_the_pages_name_no_command_that_does_not_exist() -> None:
    named = {
        word
        for page in PAGES
        for word in re.findall(
            r"(?:`|\bbin/|^\s+)edgeserve ([a-z]+)", page.read_text(encoding="utf-8"), re.MULTILINE
        )
    }

    assert named <= cli.COMMANDS.keys()
    assert named >= cli.COMMANDS.keys()


def test_the_pages_name_no_variable_that_does_not_exist() -> None:
    """Settings are the program's; a few more are what the containers are started with."""
    known = {PREFIX + each.name.upper() for kind in SETTINGS.values() for each in fields(kind)}
    for path in [ROOT / "docker-compose.yml", *ROOT.glob("deploy/**/*.yml")]:
        known |= set(re.findall(r"\$\{(EDGESERVE_\w+?)[:}?-]", path.read_text(encoding="utf-8")))
    named = {
        word
        for page in PAGES
        for word in re.findall(r"\bEDGESERVE_[A-Z_]+\b", page.read_text(encoding="utf-8"))
    }

    assert named - known == set()


@pytest.mark.parametrize("role", SETTINGS)
def test_a_units_cache_is_the_folder_that_it_may_write_to(role: str) -> None:
    unit = (ROOT / f"deploy/systemd/edgeserve-{role}.service").read_text(encoding="utf-8")
    lines = dict(line.split("=", 1) for line in unit.splitlines() if re.match(r"[A-Z]\w+=", line))
    assert (lines["ProtectSystem"], lines["ProtectHome"]) == ("strict", "yes")
    writable = f"%C/{lines['CacheDirectory']}"
    variables = dict(each.split("=", 1) for each in lines["Environment"].split())
    assert variables[f"{PREFIX}CACHE"] == writable
    assert variables["HF_HOME"].startswith(f"{writable}/")
    assert (variables.get("TRITON_CACHE_DIR") == f"{writable}/triton") == (role == "worker")


def test_the_drivers_that_the_page_asks_for_are_those_that_are_checked() -> None:
    section = section_of(page_text("docs/operating.md"), "## On a GPU")

    assert f"**{DRIVER_MIN[13]} or newer**" in section
    assert f"{DRIVER_MIN[12]} or newer for a build for CUDA 12" in section
    assert f"capability {CAPABILITY_MIN[0]}.{CAPABILITY_MIN[1]} or higher" in section
    assert set(OLDER_BUILDS.values()) == {"cu126"}
    assert "`cu126`" in section


# -- HTTP


def test_every_error_is_documented_with_its_status_and_exit_code() -> None:
    rows = rows_of(section_of(page_text("docs/http.md"), "## Errors"))
    documented = {code_of(row[0]): (int(row[1]), int(row[2])) for row in rows}

    assert documented == {
        name: (kind.http_status, kind.exit_code) for name, kind in named_errors().items()
    }


def test_no_two_errors_share_a_name() -> None:
    """Or one of them would come off the wire as the other."""
    kinds, pending = [], [EdgeserveError]
    while pending:
        kinds.append(pending.pop())
        pending += kinds[-1].__subclasses__()

    assert len(kinds) == len(named_errors())


# -- the protocol


MESSAGES = {
    name: [field.name for field in message.fields]
    for name, message in worker_pb2.DESCRIPTOR.message_types_by_name.items()
}


def test_every_message_and_field_of_the_protocol_is_documented() -> None:
    page = page_text("docs/protocol.md")
    names = re.findall(r"^### `(\w+)`$", page, re.MULTILINE)
    documented = {
        name: [code_of(row[0]) for row in rows_of(section_of(page, f"### `{name}`"))]
        for name in names
    }

    assert documented == MESSAGES


def test_every_call_of_the_protocol_is_documented() -> None:
    rows = rows_of(section_of(page_text("docs/protocol.md"), "## Calls"))
    documented = [
        tuple(code_of(cell.removeprefix("stream of ")) for cell in row[:3]) for row in rows
    ]
    service = worker_pb2.DESCRIPTOR.services_by_name["Worker"]

    assert documented == [
        (each.name, each.input_type.name, each.output_type.name) for each in service.methods
    ]


def test_every_message_has_a_word_in_the_glossary() -> None:
    page = page_text("docs/glossary.md")

    assert [name for name in MESSAGES if f"`{name}`" not in page] == []


def test_what_the_glossary_points_to_exists() -> None:
    code = "\n".join(path.read_text(encoding="utf-8") for path in ROOT.glob("edgeserve/**/*.py"))
    pointed = {
        name
        for row in rows_of(page_text("docs/glossary.md"))
        for name in re.findall(r"`(\w+)`", row[2])
    }
    defined = set(re.findall(r"^(?:class (\w+)|(\w+)(?: =|:))", code, re.MULTILINE))
    names = {first or second for first, second in defined}

    assert pointed - names - MESSAGES.keys() == set()


# -- timing


def test_the_example_receipt_is_what_the_ledger_makes() -> None:
    (text,) = re.findall(r"```json\n(.*?)```", page_text("docs/timing.md"), re.DOTALL)

    assert json.loads(text) == _example_receipt()


def _example_receipt() -> dict[str, Any]:
    """The story above the example, in milliseconds since the request came in."""
    labels = (
        StageLabel(stage=0, worker="10.0.0.1:50051", layers=(0, 2)),
        StageLabel(stage=1, worker="10.0.0.2:50051", layers=(2, 4)),
    )
    ledger = Ledger(labels=labels, received_s=0.0, prompt_tokens=5, queued_s=0.002)
    for ready_ms, ordered_ms in ((3.0, 3.0), (12.0, 12.5)):
        ledger.lap(_lap(ready_ms, ordered_ms))
        ledger.token((ordered_ms + 9) / 1e3)
    return ledger.receipt(21.625e-3)


def _lap(ready_ms: float, ordered_ms: float) -> Lap:
    back_ms = ordered_ms + 5
    first = StageTime(decode_s=0.125e-3, compute_s=4e-3, encode_s=0.125e-3)
    second = StageTime(queue_s=0.5e-3, decode_s=0.125e-3, compute_s=3e-3, encode_s=0.125e-3)
    return Lap(
        ready_s=ready_ms / 1e3,
        ordered_s=ordered_ms / 1e3,
        hops=(
            Hop(stage=0, sent_s=ordered_ms / 1e3, returned_s=back_ms / 1e3, inside=first),
            Hop(stage=1, sent_s=back_ms / 1e3, returned_s=(back_ms + 4) / 1e3, inside=second),
        ),
        done_s=(back_ms + 4) / 1e3,
    )


def test_every_key_of_a_receipt_is_defined() -> None:
    rows = rows_of(section_of(page_text("docs/timing.md"), "## The receipt"))

    assert [code_of(row[0]) for row in rows] == list(_example_receipt())


# -- the log, links, names of files


def test_every_table_of_the_log_has_its_command_above_it() -> None:
    sections = re.split(r"^## ", page_text("docs/LOG.md"), flags=re.MULTILINE)[1:]
    bare = [
        section.partition("\n")[0]
        for section in sections
        if "\n|" in section and "```sh" not in section.partition("\n|")[0]
    ]

    assert bare == []
    assert all(re.match(r"\d{4}-\d\d-\d\d  ", section) for section in sections)


def _links() -> list[tuple[Path, str]]:
    pattern = re.compile(r"\[[^\]]+\]\((?!https?:)([^)\s]+)\)")
    return [(page, link) for page in PAGES for link in pattern.findall(_bare(page))]


def _bare(page: Path) -> str:
    """Without blocks of code."""
    return re.sub(
        r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )


def test_links_between_pages_lead_somewhere() -> None:
    broken = []
    for page, link in _links():
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            broken.append(f"{page.relative_to(ROOT)}: {link}")

    assert len(_links()) > 10
    assert broken == []


def _anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", _bare(page), re.MULTILINE)
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in kept}


def test_files_that_the_pages_name_exist() -> None:
    pattern = re.compile(r"`((?:edgeserve|protos|tests|scripts|docs|deploy|docker)/[\w./-]+)`")
    named = {
        (page.name, name) for page in PAGES for name in pattern.findall(page.read_text("utf-8"))
    }

    assert {(page, name) for page, name in named if not (ROOT / name).exists()} == set()


def test_the_code_map_names_every_package() -> None:
    packages = {path.parent.name for path in ROOT.glob("edgeserve/*/__init__.py")}
    section = section_of(page_text("ARCHITECTURE.md"), "## Code map")

    assert {name for name in packages if f"`edgeserve/{name}/`" not in section} == set()


def test_files_of_the_code_map_are_where_it_says() -> None:
    section = section_of(page_text("ARCHITECTURE.md"), "## Code map")
    packages = re.findall(r"^`(edgeserve/\w+/)` (.*?)(?=^$)", section, re.DOTALL | re.MULTILINE)
    named = [
        folder + name for folder, text in packages for name in re.findall(r"`(\w+\.py)`", text)
    ]

    assert len(named) > 30
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_plan_on_the_page_is_what_the_command_prints(
    capsys: pytest.CaptureFixture[str],
) -> None:
    command, printed = re.findall(
        r"\$ edgeserve (plan [^\n]*)\n(.*?)```", page_text("docs/operating.md"), re.DOTALL
    )[0]

    assert cli.main(command.split()) == 0
    assert capsys.readouterr().out.strip() == printed.strip()
