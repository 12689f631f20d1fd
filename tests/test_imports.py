"""Who may load what: a fast `--help`, a gateway without torch, layers that point down."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from edgeserve.cli import COMMANDS, PACKAGES

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {
    "torch", "numpy", "grpc", "google.protobuf", "fastapi", "pydantic", "uvicorn", "httpx", "rich",
    "matplotlib", "sentencepiece", "tokenizers", "safetensors", "transformers", "psutil",
    "structlog", "opentelemetry",
    "huggingface_hub",
}  # fmt: skip
HELP_S = 0.3
TRIES = 5


def _modules_after(code: str) -> set[str]:
    """What a fresh interpreter has loaded once it has run `code`."""
    report = "import json, sys; sys.stderr.write(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return set(json.loads(done.stderr))


@pytest.mark.parametrize("words", [[], *([name] for name in COMMANDS)], ids=" ".join)
def test_help_loads_nothing_heavy(words: list[str]) -> None:
    code = (
        "from edgeserve.cli import main\n"
        f"try:\n    main({[*words, '--help']})\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
    )

    assert _modules_after(code) & HEAVY == set()


@pytest.mark.slow
def test_help_answers_at_once() -> None:
    """In seconds of the processor, the best of some tries: what else runs here is not ours."""
    assert min(_help_cpu_s() for _ in range(TRIES)) < HELP_S


def _help_cpu_s() -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "edgeserve", "--help"],
        cwd=ROOT, capture_output=True, check=True, timeout=60,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "foreign"),
    [
        ("edgeserve.gateway.serve", {"torch", "transformers", "matplotlib", "opentelemetry.sdk"}),
        ("edgeserve.worker.serve", {"fastapi", "uvicorn", "transformers", "matplotlib"}),
        ("edgeserve.probe.command", {"torch", "grpc", "fastapi", "matplotlib"}),
        ("edgeserve.doctor.command", {"torch", "fastapi", "uvicorn", "matplotlib"}),
        ("edgeserve.plan.command", {"torch", "grpc", "fastapi", "structlog"}),
        ("edgeserve.launch.up", {"torch", "grpc", "fastapi"}),
    ],
)
def test_a_command_loads_nothing_of_the_others(module: str, foreign: set[str]) -> None:
    assert _modules_after(f"import {module}") & foreign == set()


def test_every_command_has_a_package_of_its_name() -> None:
    packages = {name: ROOT / "edgeserve" / PACKAGES.get(name, name) for name in COMMANDS}

    assert [name for name, path in packages.items() if not (path / "__init__.py").exists()] == []


@pytest.mark.slow
def test_imports_point_down() -> None:
    """The contracts of pyproject.toml, as `make check` runs them.

    In a process of its own: import-linter silences every logger of the one that it runs in.
    """
    code = (
        "from importlinter.cli import lint_imports\n"
        "raise SystemExit(lint_imports(config_filename='pyproject.toml', no_cache=True))"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 0, done.stdout + done.stderr
