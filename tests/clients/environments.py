"""An environment of its own for each client of `versions.toml`, made when first needed and kept
beside ours: clients want versions of their own of what we use, too.

    python -m tests.clients.environments    # makes those that are not there, several at once
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FOLDER = Path(sys.prefix) / "clients"
INSTALL_S = 600.0
AT_ONCE = 4
"""Most of an installation is waiting for others."""
RUN_S = 180.0
QUIET = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
"""Else it asks the Internet for prices, again and again."""


@dataclass(frozen=True, kw_only=True)
class Client:
    name: str
    title: str
    registry: str
    """'pypi' or 'npm'."""
    packages: tuple[str, ...]
    """Pinned."""
    torch: bool = False
    """It finds PyTorch in our environment, behind its own: nothing large is there twice."""

    @property
    def version(self) -> str:
        """Of its first package."""
        return self.packages[0].replace("==", "@").rpartition("@")[2]

    @property
    def folder(self) -> Path:
        return FOLDER / self.name


def read_clients() -> dict[str, Client]:
    document = tomllib.loads((HERE / "versions.toml").read_text(encoding="utf-8"))
    return {
        name: Client(name=name, **{**told, "packages": tuple(told["packages"])})
        for name, told in document.items()
    }


def installed(client: Client) -> Path:
    """Its folder, with everything in it. Skips the test where the packages cannot be had."""
    mark = client.folder / "installed"
    wanted = "\n".join(client.packages)
    if mark.is_file() and mark.read_text() == wanted:
        return client.folder
    shutil.rmtree(client.folder, ignore_errors=True)
    client.folder.mkdir(parents=True)
    install = _install_python if client.registry == "pypi" else _install_node
    install(client)
    mark.write_text(wanted)
    return client.folder


def execute(client: Client, command: list[str], cwd: Path | None = None) -> str:
    """Its standard output, once it has ended well. It runs in its own folder, unless told
    otherwise.
    """
    folder = installed(client)
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    done = subprocess.run(
        command, cwd=cwd or folder, env={**kept, **QUIET},
        capture_output=True, text=True, timeout=RUN_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done.stderr or done.stdout)[-4000:]
    return done.stdout


def _install_python(client: Client) -> None:
    uv = str(Path(sys.executable).with_name("uv"))
    python = str(client.folder / "bin" / "python")
    _run(client, [uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable,
                  str(client.folder)])  # fmt: skip
    without = []
    if client.torch:
        ours = Path(sysconfig.get_path("purelib", vars={"base": str(client.folder)})) / "ours.pth"
        ours.write_text(sysconfig.get_path("purelib"))
        override = client.folder / "without.txt"
        override.write_text("torch; sys_platform == 'never'\n")
        without = ["--override", str(override)]
    _run(client, [uv, "pip", "install", "--quiet", "--python", python, *without, *client.packages])


def _install_node(client: Client) -> None:
    if shutil.which("npm") is None:
        pytest.skip("there is no node here")
    (client.folder / "package.json").write_text("{}")
    _run(client, ["npm", "install", "--silent", "--no-audit", "--no-fund", *client.packages])


def _run(client: Client, command: list[str]) -> None:
    done = subprocess.run(
        command, cwd=client.folder, capture_output=True, text=True, timeout=INSTALL_S, check=False
    )
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        pytest.skip(f"{client.title} cannot be had here: {said[-1] if said else command}")


def _try_to_install(client: Client) -> None:
    """Where one cannot be had, its test says so."""
    with suppress(pytest.skip.Exception):
        installed(client)


if __name__ == "__main__":
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(_try_to_install, read_clients().values()))
