"""A cluster whose boxes have no model: each fetches its part from a stand-in for the hub."""

from __future__ import annotations

import json
import random
import shutil
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import sentencepiece

from edgeserve.config import Address
from edgeserve.launch.processes import Child
from tests.cluster.conftest import TinyModel
from tests.cluster.processes import (
    START_S,
    TOKEN,
    announced,
    kill,
    run_edgeserve,
    start_gateway,
    start_worker,
    until,
)
from tests.hugging_face.hub import Hub, running_hub

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(180)]

NAME = "org/talker"
PROMPT = "once upon a time"
STAGES = ((0, 1), (1, 3), (3, 4))
SECRET = "hf_thisIsASecret"
INDEX = "model.safetensors.index.json"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        yield hub


@pytest.fixture(scope="module")
def sharded(talker: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About a dozen files: layers end in the middle of some of them."""
    folder = tmp_path_factory.mktemp("sharded")
    talker.reference.save_pretrained(folder, max_shard_size="30KB")
    shutil.copy(Path(talker.folder) / "tokenizer.model", folder)
    (folder / "pytorch_model.bin").write_bytes(b"never to be fetched")
    return folder


def shards(folder: Path, stage: int) -> set[str]:
    """Of a stage, as the index has them."""
    start, end = STAGES[stage]
    prefixes = [f"model.layers.{layer}." for layer in range(start, end)]
    prefixes += ["model.embed_tokens."] if stage == 0 else []
    prefixes += ["model.norm.", "lm_head."] if stage == len(STAGES) - 1 else []
    weight_map: dict[str, str] = json.loads((folder / INDEX).read_text())["weight_map"]
    return {file for name, file in weight_map.items() if name.startswith(tuple(prefixes))}


def here(home: Path) -> set[str]:
    """Weights that a box has, by the name that the hub has for them."""
    return {path.name for path in home.glob("hub/models--*/snapshots/*/*") if "000" in path.name}


def generated(url: str) -> list[int]:
    body = {
        "inputs": PROMPT,
        "parameters": {"max_new_tokens": 12, "ignore_eos": True, "details": True},
    }
    answer = httpx.post(f"{url}/generate", json=body, timeout=30, trust_env=False).json()
    return [token["id"] for token in answer["details"]["tokens"]]


def expected(talker: TinyModel) -> list[int]:
    pieces = sentencepiece.SentencePieceProcessor(model_file=f"{talker.folder}/tokenizer.model")
    return talker.greedy((1, *pieces.encode(PROMPT)), 12)


def free_ports(count: int) -> tuple[Address, ...]:
    """So that a gateway can be told of workers that come later. Below those that Linux gives out by
    itself, so that nobody else gets one meanwhile.
    """
    found: set[int] = set()
    while len(found) < count:
        port = random.randrange(15_000, 32_000)
        with socket.socket() as trial, suppress(OSError):
            trial.bind(("127.0.0.1", port))
            found.add(port)
    return tuple(Address("127.0.0.1", port) for port in found)


@contextmanager
def boxes(hub: Hub, homes: Sequence[Path], addresses: Sequence[Address]) -> Iterator[list[Child]]:
    """A worker on each, with a cache of its own."""
    with ExitStack() as stack:
        children = []
        for home, where in zip(homes, addresses, strict=True):
            child = start_worker(str(where), environment=hub.environment(home))
            stack.callback(child.stop)
            children.append(child)
        for child in children:
            announced(child)
        yield children


@contextmanager
def gateway(hub: Hub, home: Path, model: str, addresses: Sequence[Address]) -> Iterator[Child]:
    child = start_gateway(addresses, model, "--layers", "1,2,1", environment=hub.environment(home))
    try:
        yield child
    finally:
        child.stop()


def cluster_document(url: str) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{url}/v1/cluster", timeout=10, trust_env=False).json()
    return found


def test_each_worker_fetches_the_files_of_its_stage_once_and_all_of_one_commit(
    hub: Hub, sharded: Path, talker: TinyModel, tmp_path: Path
) -> None:
    commit = hub.publish(NAME, sharded)
    newer = shutil.copytree(sharded, tmp_path / "newer")
    for path in newer.glob("*.safetensors"):
        path.write_bytes(b"not what the gateway saw")
    homes = [tmp_path / f"box{stage}" for stage in range(3)]
    addresses = free_ports(3)
    with gateway(hub, tmp_path / "gateway-box", NAME, addresses) as child:
        text = f"GET /{NAME}/resolve/{commit}/tokenizer.model"
        until("the gateway has the tokenizer", lambda: text in hub.requests, START_S)
        hub.publish(NAME, newer)
        with boxes(hub, homes, addresses):
            url = child.wait_until_announced(START_S)
            assert generated(url) == expected(talker)
            assert cluster_document(url)["revision"] == commit
            assert cluster_document(url)["model"] == NAME

    wanted = [shards(sharded, stage) for stage in range(3)]
    assert [here(home) for home in homes] == wanted
    assert len(wanted[0] & wanted[1]) <= 1 < len(wanted[1] - wanted[0] - wanted[2])
    #      the stages' files differ, so that to fetch all of them would be noticed
    assert here(tmp_path / "gateway-box") == set()
    in_all = [name for names in wanted for name in names]
    sent = {name: count for name, count in hub.sent.items() if name.endswith(".safetensors")}
    assert sent == {
        name: in_all.count(name) * (sharded / name).stat().st_size for name in set(in_all)
    }
    assert hub.sent["pytorch_model.bin"] == 0

    # the same boxes again, and the hub is down
    hub.status = 500
    hub.sent.clear()
    pinned = f"{NAME}@{commit}"
    with (
        boxes(hub, homes, addresses),
        gateway(hub, tmp_path / "gateway-box", pinned, addresses) as child,
    ):
        assert generated(child.wait_until_announced(START_S)) == expected(talker)
    assert not hub.sent


def test_a_download_that_was_cut_off_by_a_worker_s_end_is_made_again(
    hub: Hub, sharded: Path, talker: TinyModel, tmp_path: Path
) -> None:
    """Files that were whole stay; and a worker that is told to end does not wait for the hub."""
    hub.publish(NAME, sharded)
    whole, cut = "model-00001-of-00008.safetensors", "model-00002-of-00008.safetensors"
    hub.silent_after[cut] = 1000
    where, home = free_ports(1), tmp_path / "gateway-box"
    flags = (where, NAME, "--layers", "4")
    for ends in (kill, Child.stop):
        with boxes(hub, [tmp_path / "box"], where) as (worker,):
            lost = start_gateway(*flags, environment=hub.environment(home))
            until("a part has come", lambda: hub.sent[cut] > 0, START_S)
            start_s = time.monotonic()
            ends(worker)
            assert time.monotonic() - start_s < 14, "it is killed after 15"
            assert lost.process.wait(START_S) == 3
            lost.stop()
        hub.sent.pop(cut)

    assert hub.sent[whole] == (sharded / whole).stat().st_size
    hub.silent_after.clear()
    with boxes(hub, [tmp_path / "box"], where):
        child = start_gateway(*flags, environment=hub.environment(home))
        try:
            assert generated(child.wait_until_announced(START_S)) == expected(talker)
        finally:
            child.stop()
    sizes = {path.name: path.stat().st_size for path in sharded.glob("*.safetensors")}
    assert {name: hub.sent[name] for name in sizes} == sizes
    #      each once, but for the part that was cut off


def test_what_a_worker_cannot_fetch_is_said_at_the_gateway(
    hub: Hub, sharded: Path, workers: tuple[Address, ...], tmp_path: Path
) -> None:
    hub.publish(NAME, sharded)
    hub.repos[NAME].needs_token = SECRET
    refused = run_edgeserve(
        "gateway", "--workers", ",".join(map(str, workers)), "--model", NAME, "--listen",
        "127.0.0.1:0", environment={**hub.environment(tmp_path), "HF_TOKEN": SECRET,
                                    "EDGESERVE_TOKEN": TOKEN},
    )  # fmt: skip
    last = refused.stderr.splitlines()[-1]
    assert refused.returncode == 3
    assert any(last.startswith(f"edgeserve: worker {each}: {NAME}@") for each in workers)
    assert "HF_HUB_OFFLINE forbids to fetch it" in last
    #      as it does wherever tests run; the gateway alone is let out
    assert "Traceback" not in refused.stderr
    assert SECRET not in refused.stderr + refused.stdout
