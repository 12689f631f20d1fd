"""An environment of its own for each client, made when it is first needed and kept beside ours.

What a client shares with us, such as PyTorch, it finds in ours, behind its own: so nothing large is
there twice.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

LM_EVAL = ("lm-eval[api,hf]==0.4.13",)
"""Pinned: what a client sends changes with its version."""
FOLDER = Path(sys.prefix) / "clients"
INSTALL_S = 900.0


def python_with(name: str, requirements: tuple[str, ...]) -> Path:
    """The Python of the environment `name` that has them."""
    folder = FOLDER / name
    python, made = folder / "bin" / "python", folder / "requirements.txt"
    wanted = "\n".join(requirements)
    if made.is_file() and made.read_text() == wanted:
        return python
    venv.create(folder, with_pip=True, clear=True)
    at = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = subprocess.run([python, "-c", at], capture_output=True, text=True, check=True)
    ours = Path(packages.stdout.strip()) / "ours.pth"
    ours.write_text(sysconfig.get_path("purelib"))
    install = [str(python), "-m", "pip", "install", "--quiet", *requirements]
    subprocess.run(install, check=True, timeout=INSTALL_S)
    made.write_text(wanted)
    return python
