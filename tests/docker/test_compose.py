"""The containers, on a real Docker engine: one machine, and three projects that stand for three
nodes.

`prepare.sh` makes a machine ready for them; without an engine they are skipped, and say so. The
nodes' addresses are extra addresses of this machine, so that one engine can publish the same port
three times.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import triton

from edgeserve.clock import MonotonicClock

ROOT = Path(__file__).parents[2]
COMPOSE = "docker-compose" if shutil.which("docker-compose") else "docker compose"
BUILD = {
    "EDGESERVE_BASE": "edgeserve-base",
    "EDGESERVE_PIP_ARGS": "--no-index --find-links /wheels",
    "EDGESERVE_TORCH": "torch",
}
NODE_ADDRESSES = ("10.83.0.11", "10.83.0.12", "10.83.0.13")
START_S = 180.0

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]


def run(command: str | list[str], **environment: str) -> str:
    """Its output. Fails with all of it if the command does."""
    words = command.split() if isinstance(command, str) else command
    done = subprocess.run(
        words, cwd=ROOT, env={**os.environ, **BUILD, **environment},
        capture_output=True, text=True, timeout=540,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def images() -> None:
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "info"], capture_output=True).returncode
    ):
        pytest.skip(
            "NO DOCKER ENGINE: tests/docker/prepare.sh makes one, and says why if it cannot"
        )
    if not list((ROOT / "wheels").glob("torch-*")):
        pytest.skip("NO WHEELS: tests/docker/prepare.sh collects them")
    run(f"{COMPOSE} build gateway worker")  # the other workers run the same image


def wait_until_healthy(url: str) -> None:
    clock = MonotonicClock()
    deadline_s = clock.now_s() + START_S
    said = ""
    while clock.now_s() < deadline_s:
        try:
            response = httpx.get(f"{url}/health", timeout=10)
        except httpx.TransportError as error:
            said = repr(error)
            continue
        if response.status_code == httpx.codes.OK:
            return
        said = response.text
    pytest.fail(f"not healthy within {START_S:.0f} s: {said}")


def generate(url: str, **headers: str) -> dict[str, Any]:
    response = httpx.post(
        f"{url}/generate",
        json={"inputs": "Once upon a time", "parameters": {"max_new_tokens": 12, "details": True}},
        headers=headers,
        timeout=60,
    )
    assert response.status_code == httpx.codes.OK, response.text
    answer: dict[str, Any] = response.json()
    return answer


@pytest.fixture(scope="module")
def one_machine(images: None) -> Iterator[str]:
    project = {"COMPOSE_PROJECT_NAME": "edgeserve-one", "EDGESERVE_HTTP": "127.0.0.1:18100"}
    try:
        run(f"{COMPOSE} up -d", **project)
        wait_until_healthy("http://127.0.0.1:18100")
        yield "http://127.0.0.1:18100"
    finally:
        run(f"{COMPOSE} down -v -t 5", **project)


def test_plain_up_answers_through_three_workers(one_machine: str) -> None:
    answer = generate(one_machine)

    assert answer["generated_text"]
    assert [stage["stage"] for stage in answer["timing"]["stages"]] == [0, 1, 2]
    assert answer["timing"]["decode"]["compute_ms"] > 0


def test_no_container_runs_as_root_and_all_become_healthy(one_machine: str) -> None:
    names = run("docker ps --filter name=edgeserve-one --format {{.Names}}").split()
    users = {run(f"docker exec {name} id -u").strip() for name in names}
    clock = MonotonicClock()
    deadline_s = clock.now_s() + START_S
    health: set[str] = set()
    while health != {"healthy"} and clock.now_s() < deadline_s:
        health = {
            run(f"docker inspect -f {{{{.State.Health.Status}}}} {name}").strip() for name in names
        }

    assert len(names) == 4
    assert users == {"10001"}
    assert health == {"healthy"}


def test_the_gateway_image_has_no_torch(images: None) -> None:
    look = "import importlib.util as i; print(i.find_spec('torch'))"
    found = run(
        ["docker", "run", "--rm", "--entrypoint", "python3", "edgeserve-gateway", "-c", look]
    )

    assert found.strip() == "None"


def test_only_the_worker_s_image_has_a_compiler(images: None) -> None:
    found = {
        role: run(
            ["docker", "run", "--rm", "--entrypoint", "sh", f"edgeserve-{role}", "-c",
             "command -v gcc || echo none"]
        ).strip()
        for role in ("gateway", "worker")
    }  # fmt: skip

    assert found == {"gateway": "none", "worker": "/usr/bin/gcc"}


TRITON = Path(triton.__file__).parent
BUILD_DRIVER = """
import os, sys
from pathlib import Path
from edgeserve.config import gpu_environment
from edgeserve.toolchain import why_no_kernels
import triton
from triton.runtime.build import compile_module_from_src

environment = gpu_environment()
why_not = why_no_kernels(environment.compiler, environment.kernel_cache)
sys.setdlopenflags(os.RTLD_LAZY)  # the driver's library is not here
nvidia = Path(triton.__file__).parent / "backends" / "nvidia"
module = compile_module_from_src(
    src=(nvidia / "driver.c").read_text(), name="cuda_utils", include_dirs=[str(nvidia / "include")]
)
print(os.getuid(), module.__file__, why_not or "has a compiler")
"""
"""What Triton does at its first use on a GPU, but for linking to the driver's library."""


@pytest.mark.skipif(
    sys.version_info[:2] != (3, 11), reason="the image's Python is another than this Triton's"
)
def test_triton_s_driver_is_built_once_by_the_unprivileged_user_and_kept_on_the_volume(
    one_machine: str,
) -> None:
    """In new containers on the volume of the project that runs: the second has no compiler."""
    container = [
        "docker", "run", "--rm", "--volume", "edgeserve-one_cache:/var/cache/edgeserve",
        "--volume", f"{TRITON}:/opt/triton/triton:ro", "--env", "PYTHONPATH=/opt/triton",
        "--entrypoint", "python3",
    ]  # fmt: skip
    built = run([*container, "edgeserve-worker", "-c", BUILD_DRIVER])
    kept = run([*container, "--env", "CC=/bin/false", "edgeserve-worker", "-c", BUILD_DRIVER])
    neighbour = run("docker ps --quiet --filter name=edgeserve-one.worker-2").strip()
    seen = run(["docker", "exec", neighbour, "find", "/var/cache/edgeserve", "-name", "cuda_*"])

    user, library, compiler = built.strip().split(" ", 2)
    assert (user, compiler) == ("10001", "has a compiler")
    assert library.startswith("/var/cache/edgeserve/triton/")
    assert kept.startswith(f"10001 {library} ")
    assert "/bin/false cannot compile" in kept
    assert seen.split() == [library]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_node_s_file_gives_its_worker_the_card_the_secret_and_the_cache(number: int) -> None:
    """As it is shipped, without an engine."""
    if shutil.which(COMPOSE.split(maxsplit=1)[0]) is None:
        pytest.skip("NO DOCKER COMPOSE: tests/docker/prepare.sh installs it")
    config = run(f"{COMPOSE} config", **example(number))
    _, _, after = config.partition("\n  worker:\n")
    worker = after.partition("\n  worker-2:\n")[0]

    assert "EDGESERVE_DEVICE: cuda\n" in worker
    assert "EDGESERVE_TOKEN: the-same-secret-on-every-node\n" in worker
    assert re.search(r"EDGESERVE_MEMORY: (''|\"\")\n", worker), "the card is asked for its memory"
    assert re.search(r"device_ids:\s+- ['\"]?0['\"]?\s", worker)
    assert "cache:/var/cache/edgeserve" in worker or "target: /var/cache/edgeserve" in worker


@pytest.fixture(scope="module")
def addresses() -> Iterator[tuple[str, ...]]:
    for each in NODE_ADDRESSES:
        subprocess.run(
            ["ip", "address", "add", f"{each}/32", "dev", "lo"], check=False, capture_output=True
        )
    yield NODE_ADDRESSES
    for each in NODE_ADDRESSES:
        subprocess.run(
            ["ip", "address", "del", f"{each}/32", "dev", "lo"], check=False, capture_output=True
        )


def example(number: int) -> dict[str, str]:
    """The node's .env as it is shipped."""
    lines = (ROOT / f"deploy/three-nodes/node-{number}.env").read_text().splitlines()
    return dict(line.split("=", maxsplit=1) for line in lines)


def node(number: int, addresses: tuple[str, ...], model: Path) -> Mapping[str, str]:
    """The node's example .env with this test's addresses and model, and without the card that is
    not here.
    """
    settings = example(number)
    assert len(settings) == 4
    settings["COMPOSE_FILE"] = settings["COMPOSE_FILE"].replace(":deploy/nvidia.yml", "")
    settings["EDGESERVE_MODEL"] = str(model)
    settings["COMPOSE_PROJECT_NAME"] = f"edgeserve-node-{number}"
    settings["EDGESERVE_HTTP"] = "127.0.0.1:18101"
    if "EDGESERVE_ADDRESS" in settings:
        settings["EDGESERVE_ADDRESS"] = addresses[number - 1]
    else:
        settings["EDGESERVE_WORKERS"] = ",".join(
            ["worker:50051", *(f"{a}:50051" for a in addresses[1:])]
        )
    return settings


def test_three_projects_stand_for_three_nodes(
    images: None, addresses: tuple[str, ...], tmp_path: Path
) -> None:
    model = tmp_path / "llama-demo"
    shutil.copytree(ROOT / "edgeserve/demo", model)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)  # pytest's folders are this user's alone
    nodes = [node(number, addresses, model) for number in (1, 2, 3)]
    try:
        for each in nodes:
            run(f"{COMPOSE} up -d", **each)
        wait_until_healthy("http://127.0.0.1:18101")
        answer = generate("http://127.0.0.1:18101")
        cluster = httpx.get("http://127.0.0.1:18101/v1/cluster", timeout=60).json()
        logs = run(f"{COMPOSE} logs --no-color worker", **nodes[1])
    finally:
        for each in nodes:
            run(f"{COMPOSE} down -v -t 5", **each)

    assert answer["generated_text"]
    assert cluster["model"] == "llama-demo"
    assert [stage["worker"] for stage in cluster["stages"]] == nodes[0]["EDGESERVE_WORKERS"].split(
        ","
    )
    assert json.dumps(cluster).count('"slice_hash"') == 3
    assert "Traceback" not in logs
