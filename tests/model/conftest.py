"""The tiny models, made once, and no gradients anywhere: the worker holds inference mode too."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from edgeserve.families.folder import open_model
from tests.model.stages import GetTiny, Tiny
from tests.model.tiny import save_tiny


@pytest.fixture(autouse=True)
def _inference_mode() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> GetTiny:
    made: dict[str, Tiny] = {}

    def make(family: str) -> Tiny:
        if family not in made:
            folder = tmp_path_factory.mktemp(family)
            with torch.inference_mode(mode=False):
                reference = save_tiny(family, folder)
            spec = open_model(str(folder)).spec
            made[family] = Tiny(folder=folder, spec=spec, reference=reference)
        return made[family]

    torch.set_num_threads(1)
    return make
