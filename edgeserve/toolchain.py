"""Whether this box can build what Triton needs before a GPU runs its first kernel.

Triton compiles a small C program against Python's headers, at first use, and keeps it beside the
kernels. Here a program with the same needs is compiled, so that what is missing is known before
gigabytes are loaded and not after. Nothing is left behind.

Not covered: the GPU's compiler, which comes with Triton, and the driver's library, to which Triton
links its program.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path
from tempfile import TemporaryDirectory

COMPILE_S = 60.0
"""It takes less than a second; a box that reads its compiler from a slow disk takes seconds."""
PROGRAM = "#include <stdlib.h>\n#include <Python.h>\n"
PACKAGES = "on Debian and Ubuntu: apt install gcc libc6-dev python3-dev"


def why_no_kernels(compiler: str, cache: Path) -> str:
    """Why Triton could compile nothing here, and the cure; empty if it could.

    `compiler` is what `CC` says, empty for none; `cache` is Triton's, and need not be there yet.
    """
    found = compiler or shutil.which("gcc") or shutil.which("clang")
    if not found:
        return (
            "Triton needs a C compiler to launch kernels on a GPU, and there is none here (neither "
            "gcc nor clang); install one with the headers of the C library and of Python "
            f"({PACKAGES})"
        )
    return _why_not_compiled(found) or _why_not_kept(cache)


def _why_not_compiled(compiler: str) -> str:
    try:
        said = _compiled(compiler)
    except (OSError, subprocess.TimeoutExpired) as error:
        said = str(error)
    if not said:
        return ""
    return (
        f"Triton needs a C compiler to launch kernels on a GPU, and {compiler} cannot compile a "
        f"small program ({said}); install the headers of the C library and of Python ({PACKAGES}), "
        "or name another compiler in CC"
    )


def _compiled(compiler: str) -> str:
    """Its first complaint; empty without one."""
    headers = sysconfig.get_path("include", "posix_prefix")
    with TemporaryDirectory(prefix="edgeserve-") as folder:
        source, library = Path(folder, "small.c"), Path(folder, "small.so")
        source.write_text(PROGRAM)
        done = subprocess.run(
            [compiler, str(source), "-shared", "-fPIC", f"-I{headers}", "-o", str(library)],
            capture_output=True, text=True, errors="replace", timeout=COMPILE_S, check=False,
        )  # fmt: skip
        if done.returncode == 0 and library.exists():
            return ""
    lines = done.stderr.splitlines()
    complaints = [line for line in lines if "error" in line] or lines[-1:]
    return next(iter(complaints), f"exit code {done.returncode}").replace(f"{folder}/", "")


def _why_not_kept(cache: Path) -> str:
    there = cache.absolute()
    while not os.access(there, os.F_OK):
        there = there.parent
    cure = "name a folder of this user's in TRITON_CACHE_DIR"
    if not os.access(there, os.W_OK | os.X_OK):
        return f"Triton cannot keep its kernels in {cache}: {there} is not writable; {cure}"
    if os.statvfs(there).f_flag & os.ST_NOEXEC:
        return (
            f"Triton cannot load what it compiles from {cache}: programs may not run from that "
            f"file system (it is mounted with noexec); {cure}"
        )
    return ""
