"""The kernels' tests run on a GPU where there is one, and in Triton's interpreter elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _inference_mode() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="session")
def device() -> torch.device:
    is_interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    return torch.device("cpu" if is_interpreted or not torch.cuda.is_available() else "cuda")
