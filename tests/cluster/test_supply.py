"""One box has the model: workers without it get their slices from the gateway, once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from edgeserve.config import Address
from edgeserve.errors import StageUnavailable
from edgeserve.families.folder import open_model
from edgeserve.families.spec import Dtype
from edgeserve.frames.stage import LayerRange, Stage
from edgeserve.pipeline.engine import PipelineEngine
from tests.cluster.conftest import TinyModel
from tests.cluster.processes import (
    announced,
    ask,
    boxes,
    engine_settings,
    kill,
    order,
    running_engine,
    until,
    weights,
)
from tests.model.tiny import OWN_HEAD, save_tiny

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(90)]

PROMPT = (5, 17, 60, 3)
TOKENS = 12
READ_BYTES = 2**16


async def stored_bytes(engine: PipelineEngine, folder: str) -> list[int]:
    """Of each slice, as the checkpoint has it."""
    spec = open_model(folder).spec
    return [
        spec.stage_bytes(
            Stage(LayerRange(*each["layers"]), embedding=each["embedding"], head=each["head"]),
            Dtype.FP32,
        )
        for each in (await engine.cluster())["stages"]
    ]


def flip_a_bit(cache: Path) -> int:
    """In the middle of the largest blob, whose size it gives."""
    blob = max((cache / "blobs").iterdir(), key=lambda each: each.stat().st_size)
    content = bytearray(blob.read_bytes())
    content[len(content) // 2] ^= 1
    blob.write_bytes(content)
    return len(content)


@pytest.mark.parametrize("family", ["llama2", OWN_HEAD])
async def test_weights_cross_the_wire_once_and_damage_is_mended(
    family: str, tiny: Callable[[str], TinyModel], tmp_path: Path
) -> None:
    model = tiny(family)
    caches = [tmp_path / name for name in "abc"]
    greedy = model.greedy(PROMPT, TOKENS)
    with boxes(caches) as children:
        settings = engine_settings([announced(each) for each in children], model.folder)
        async with running_engine(settings) as engine:
            sizes = await stored_bytes(engine, model.folder)
            first = await weights(engine)
            assert await ask(engine, order(PROMPT, TOKENS)) == greedy
        async with running_engine(settings) as engine:
            kept = await weights(engine)
    assert [each["from"] for each in first] == ["stream"] * 3
    assert [each["streamed_bytes"] for each in first] == sizes
    assert [each["sent_bytes"] for each in first] == sizes
    assert [(each["from"], each["sent_bytes"]) for each in kept] == [("memory", 0)] * 3

    damaged_bytes = flip_a_bit(caches[1])
    with boxes(caches) as children:
        settings = engine_settings([announced(each) for each in children], model.folder)
        async with running_engine(settings) as engine:
            second = await weights(engine)
            assert await ask(engine, order(PROMPT, TOKENS)) == greedy
    assert [each["sent_bytes"] for each in second] == [0, damaged_bytes, 0]
    assert [each["streamed_bytes"] for each in second] == [0, damaged_bytes, 0]
    assert [each["from"] for each in second] == ["cache", "stream", "cache"]
    assert second[1]["cached_bytes"] == sizes[1] - damaged_bytes


@asynccontextmanager
async def cut_after(
    target: Address, sent_bytes: int, cut: Callable[[], None]
) -> AsyncIterator[Address]:
    """A way to `target` that lets so many bytes through, and then cuts."""
    gone = 0

    async def to_worker(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal gone
        while data := await reader.read(READ_BYTES):
            gone += len(data)
            if gone - len(data) < sent_bytes <= gone:
                await asyncio.to_thread(cut)
            writer.write(data)
            await writer.drain()

    async def back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(READ_BYTES):
            writer.write(data)
            await writer.drain()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, thither = await asyncio.open_connection(target.host, target.port)
        except OSError:
            writer.close()
            return
        with suppress(OSError):
            await asyncio.gather(to_worker(reader, thither), back(there, writer))
        thither.close()
        writer.close()

    server = await asyncio.start_server(connect, "127.0.0.1", 0)
    async with server:
        yield Address("127.0.0.1", server.sockets[0].getsockname()[1])


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """20 MB: enough to be interrupted in."""
    folder = tmp_path_factory.mktemp("large")
    sizes = {"vocab_size": 8192, "hidden_size": 256, "intermediate_size": 512}
    reference = save_tiny("llama2", folder, num_hidden_layers=2, **sizes)
    return TinyModel(folder=str(folder), reference=reference)


def _is_begun(part: Path) -> bool:
    return part.stat().st_size > 0


async def test_a_transfer_that_was_killed_goes_on_where_it_ended(
    large: TinyModel, tmp_path: Path
) -> None:

    def parts() -> list[Path]:
        return [*(tmp_path / "blobs").glob("*.part")]

    with boxes([tmp_path]) as (worker,):

        def cut() -> None:
            until("some of a tensor is there", lambda: any(map(_is_begun, parts())), within_s=30)
            kill(worker)

        async with cut_after(announced(worker), 5_000_000, cut) as way:
            started = running_engine(engine_settings([way], large.folder))
            with pytest.raises(StageUnavailable):
                await started.__aenter__()
    came_bytes = sum(path.stat().st_size for path in (tmp_path / "blobs").iterdir())
    assert 0 < came_bytes <= 5_000_000
    assert any(map(_is_begun, parts())), "killed within a tensor"

    with boxes([tmp_path]) as (worker,):
        async with running_engine(engine_settings([announced(worker)], large.folder)) as engine:
            (size,) = await stored_bytes(engine, large.folder)
            (resumed,) = await weights(engine)
            answer = await ask(engine, order(PROMPT, TOKENS))
    assert resumed["sent_bytes"] == resumed["streamed_bytes"] == size - came_bytes
    assert answer == large.greedy(PROMPT, TOKENS)
