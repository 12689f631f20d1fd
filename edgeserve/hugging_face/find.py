"""The model that a user named, wherever it is: what `families.folder` finds here, or on the hub."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from edgeserve.errors import BadModel
from edgeserve.families.folder import ModelSource, open_model
from edgeserve.frames.stage import Stage
from edgeserve.hugging_face.progress import FetchProgress
from edgeserve.hugging_face.reference import HubModel, hub_model


def find_model(ref: str) -> ModelSource:
    """For who plans and talks: of a model on the hub, the revision is pinned, and all but the
    weights is fetched.

    Raises BadModel, DoesNotFit for a full disk, and FetchFailed.
    """
    model = hub_model(ref)
    if model is None:
        return open_model(ref)
    described: ModelSource = _fetch(model).describe(model)
    return described


def open_fetched(ref: str) -> ModelSource:
    """For who computes: a model on the hub is one that was fetched before. Asks no network."""
    model = hub_model(ref)
    if model is None:
        return open_model(ref)
    cached: ModelSource = _fetch(model).open_cached(model)
    return cached


def fetch_stage(model: HubModel, stage: Stage | None, progress: FetchProgress) -> None:
    """Returns when all files of the stage are here; without a stage, those of the configuration.

    Raises BadModel, DoesNotFit for a full disk, and FetchFailed.
    """
    _fetch(model).fetch_stage(model, stage, progress)


def files_folder(ref: str) -> Path:
    """Where the model's files lie, or will lie."""
    model = hub_model(ref)
    if model is None:
        return Path(ref)
    cache: Path = _fetch(model).cache_folder()
    return cache


def _fetch(model: HubModel) -> ModuleType:
    # Here and not above: it takes a second, which only models of the hub are worth, and `plan` is
    # installed without the library.
    try:
        from edgeserve.hugging_face import fetch
    except ImportError as error:
        raise BadModel(
            f"{model} is no folder here, and models of the Hugging Face hub need the package "
            f"{error.name}: pip install 'edgeserve[gateway]', or '[worker]'"
        ) from None
    return fetch
