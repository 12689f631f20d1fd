"""One box has the model: workers without it get their slices from the gateway, once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgeserve.config import Address
from tests.cluster.conftest import TinyModel
from tests.cluster.processes import (
    announced,
    ask,
    engine_settings,
    order,
    running_engine,
    start_worker,
)

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(90)]

PROMPT = (5, 17, 60, 3)
GREEDY_TOKENS = 12


@contextmanager
def boxes(caches: Sequence[Path]) -> Iterator[tuple[Address, ...]]:
    """Workers that look into no folder but their own cache."""
    children = [
        start_worker(flags=("--local-files", "off", "--cache", str(each))) for each in caches
    ]
    try:
        yield tuple(announced(child) for child in children)
    finally:
        for child in children:
            child.stop()


async def test_weights_cross_the_wire_once(
    tiny: Callable[[str], TinyModel], tmp_path: Path
) -> None:
    model = tiny("llama2")
    caches = [tmp_path / name for name in "abc"]
    with boxes(caches) as workers:
        settings = engine_settings(workers, model.folder)
        async with running_engine(settings) as engine:
            answer = await ask(engine, order(PROMPT, GREEDY_TOKENS))
            print(engine.cluster())
    assert answer == model.greedy(PROMPT, GREEDY_TOKENS)
