"""What the command line says of itself, and of what it does not understand."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from edgeserve import cli
from edgeserve.cli import COMMANDS, EXAMPLES, _parser, main

ROOT = Path(__file__).parents[1]


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, and what was written."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    found = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, found.out, found.err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, command, "--help")
    assert code == 0
    assert f"usage: edgeserve {command} [FLAGS]" in out
    assert all(example in out for example in EXAMPLES[command])
    assert max(map(len, out.splitlines())) <= 100


def commands_in(command: str) -> list[list[str]]:
    """The examples' arguments; what stands behind two blanks is told of them."""
    joined = "\n".join(EXAMPLES[command]).replace("\\\n", " ")
    lines = [line.split("   ")[0] if "\\" not in line else line for line in joined.splitlines()]
    return [shlex.split(line[line.index("edgeserve ") :])[1:] for line in lines]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_example_is_understood(command: str) -> None:
    for arguments in commands_in(command):
        assert arguments[0] == command
        assert _parser().parse_args(arguments).run


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_help_leads_to_every_command(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = said(capsys, *arguments)
    assert code == 0
    assert all(f"{name} " in out and what in out for name, what in COMMANDS.items())
    assert "examples:" in out


@pytest.mark.parametrize(
    ("line", "usage", "words"),
    [
        ("upp", "COMMAND", "there is no command 'upp'; did you mean 'up'?"),
        ("wroker --listen x:1", "COMMAND", "did you mean 'worker'?"),
        ("zzz", "COMMAND", "there is no command 'zzz'"),
        ("--model x up", "COMMAND", "--model stands before the command"),
        ("up --modle x", "up", "edgeserve up: there is no flag --modle; did you mean '--model'?"),
        ("gateway --worker a:1", "gateway", "--worker; did you mean '--workers'?"),
        ("probe --batches=1-8", "probe", "there is no flag --batches; did you mean '--batch'?"),
        ("plan --model demo --zzz", "plan", "there is no flag --zzz"),
        ("plan --model demo 5", "plan", "'5' is one argument too many"),
        ("plan", "plan", "--model"),
        ("doctor --json=yes", "doctor", "--json"),
        ("up --port 65536", "up", "'65536' is not a port from 0 (a free one) to 65535"),
        ("up --port x", "up", "'x' is not a port"),
        ("probe --url ftp://x", "probe", "'ftp://x' is not a URL such as"),
    ],
)
def test_what_is_not_understood_is_told_by_its_command(
    line: str, usage: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = said(capsys, *line.split())
    assert (code, out) == (2, "")
    assert f"usage: edgeserve {usage} [FLAGS]" in err
    assert words in err
    assert "--help tells what there is" in err


def test_an_address_is_taken_for_a_url() -> None:
    options = _parser().parse_args(["probe", "--url", "10.0.0.2:8000"])
    assert options.url == "http://10.0.0.2:8000"


# -- completion


def offered(line: str, cwd: Path) -> list[str]:
    """What the shell's hook is told could come next."""
    told = cwd / "told"
    environment = {
        **os.environ, "_ARGCOMPLETE": "1", "_ARGCOMPLETE_SHELL": "bash", "COMP_LINE": line,
        "COMP_POINT": str(len(line)), "_ARGCOMPLETE_STDOUT_FILENAME": str(told),
        "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    subprocess.run([sys.executable, "-m", "edgeserve"], env=environment, check=True, timeout=30,
                   cwd=cwd)  # fmt: skip
    return [word.strip() for word in told.read_text().split("\v")]


@pytest.mark.slow
def test_a_shell_completes_commands_flags_and_values(tmp_path: Path) -> None:
    assert {*COMMANDS} <= {*offered("edgeserve ", tmp_path)}
    assert offered("edgeserve up --dev", tmp_path) == ["--device"]
    assert offered("edgeserve up --device ", tmp_path) == ["auto", "cpu", "cuda"]
    assert offered("edgeserve gateway --dtype b", tmp_path) == ["bf16"]
    assert offered("edgeserve up --pace ", tmp_path) == [*cli._cards()]
    (tmp_path / "llama-mine").mkdir()
    models = offered("edgeserve plan --model llama-", tmp_path)
    assert "llama-2-13b" in models
    assert "llama-mine/" in models


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_the_line_of_the_page_completes_in_a_shell(shell: str) -> None:
    """The hook is what the library writes; whether a shell takes it, a shell says."""
    if subprocess.run(["which", shell], capture_output=True, check=False).returncode:
        pytest.skip(f"there is no {shell} here")
    hook = Path(sys.executable).with_name("register-python-argcomplete")
    page = (ROOT / "docs/operating.md").read_text()
    line = 'eval "$(register-python-argcomplete edgeserve)"'
    assert line in page
    before = "autoload -U compinit && compinit -u\n" if shell == "zsh" else ""
    after = "complete -p edgeserve" if shell == "bash" else "print ${_comps[edgeserve]}"
    script = f"{before}{line.replace('register-python-argcomplete', str(hook))}\n{after}"
    found = subprocess.run([shell, "-c", script], capture_output=True, text=True, check=True,
                           timeout=30)  # fmt: skip
    assert "_python_argcomplete" in found.stdout
