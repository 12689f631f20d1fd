"""What is asked of the hub, through `huggingface_hub`, and its troubles as errors of ours.

The library owns the cache, tokens, mirrors, redirects and retries; its variables (HF_HOME,
HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE, ...) are read by nobody else. Files are asked for by name, so
nothing that can run code is ever among them. What is there already is found without the network.

No message repeats what the library says: it may hold signed addresses.
"""

from __future__ import annotations

import errno
import json
import logging
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, cast
from urllib.parse import urlsplit

import httpx2
from huggingface_hub import (
    HfApi,
    constants,
    get_cached_repo_tree,
    get_session,
    hf_hub_download,
    hf_hub_url,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    build_hf_headers,
    hf_raise_for_status,
)
from huggingface_hub.utils.tqdm import disable_progress_bars

from edgeserve.errors import BadModel, DoesNotFit, EdgeserveError, FetchFailed
from edgeserve.families.checkpoint import INDEX, has_weights, indexed_files
from edgeserve.families.folder import ModelSource, open_folder, told_model, with_own_head
from edgeserve.families.head import has_both, said_of_names
from edgeserve.families.rules import name_in_files, stage_tensors
from edgeserve.frames.stage import Stage
from edgeserve.hugging_face.progress import FetchProgress
from edgeserve.hugging_face.reference import HubModel

log = logging.getLogger(__name__)
logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its warnings repeat addresses
disable_progress_bars()  # the gateway shows ours

SILENCE_S = 10.0
"""Of the hub, where the library sets no bound of its own; as it has it for files. It asks for lists
and files five times more, and waits 23 s between: a hub that never answers is given up in 90 s."""
CONFIG_FILES = ("config.json", "generation_config.json", INDEX)
TEXT_FILES = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "added_tokens.json",
    "special_tokens_map.json", "chat_template.jinja", "chat_template.json",
    "additional_chat_templates/*.jinja",
)  # fmt: skip
SINGLE_FILE = "model.safetensors"
HEADER_READ_BYTES = 2**21
"""Of a file's header, at most; one of 70B has 100 kB, and few tied models are large."""
DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT)


def describe(model: HubModel) -> ModelSource:
    """Pins the revision and fetches all but the weights."""
    with _our_errors(model):
        _bound_waits()
        pinned = HubModel(model.repo, _commit(model))
        folder = _small_files(pinned, (*CONFIG_FILES, *TEXT_FILES))
    if pinned != model:
        log.info("%s is commit %s", model, pinned.revision)
    listed = _listed(pinned)
    if listed and not _weights_among(listed):
        raise BadModel(
            f"{pinned} has no *.safetensors, and weights of other kinds are never fetched, since "
            "they can run code when opened; look for a conversion of it on the hub"
        )
    source = open_folder(folder, pinned.repo, pinned.revision)
    is_seen = not source.spec.head_tied or (folder / INDEX).is_file() or has_weights(folder)
    return source if is_seen else _with_head(source, pinned, _weights_among(listed))


def _with_head(source: ModelSource, pinned: HubModel, files: Collection[str]) -> ModelSource:
    """A tied model without an index: whether it has a head of its own, the headers of its files
    say. Who cannot read them takes its config.json at its word; a worker that then finds another
    head refuses to load.
    """
    try:
        with _our_errors(pinned):
            names = {name: file for file in files for name in _remote_names(pinned, file)}
    except EdgeserveError as error:
        log.info("the header of the weights cannot be read beforehand: %s", error)
        return source
    return with_own_head(source, said_of_names() if has_both(names) else "")


def _remote_names(pinned: HubModel, file: str) -> frozenset[str]:
    """The tensors of a file, by its first bytes; it stops reading there, whatever is sent."""
    url = hf_hub_url(pinned.repo, file, revision=pinned.revision)
    asked = {"range": f"bytes=0-{HEADER_READ_BYTES - 1}", "accept-encoding": "identity"}
    headers = {**build_hf_headers(), **asked}
    read, end = b"", 8
    with get_session().stream("GET", url, headers=headers, follow_redirects=True) as response:
        hf_raise_for_status(response)
        for piece in response.iter_bytes():
            read += piece
            end = 8 + int.from_bytes(read[:8], "little")
            if len(read) >= min(end, HEADER_READ_BYTES):
                break
    return frozenset(dict(json.loads(read[8:end])))


def _commit(model: HubModel) -> str:
    """As the hub has it now, or had when it could last be asked."""
    return HfApi().resolve_revision(model.repo, revision=model.revision).resolved


def open_cached(model: HubModel) -> ModelSource:
    found = try_to_load_from_cache(model.repo, "config.json", revision=model.revision)
    if not isinstance(found, str):
        raise BadModel(f"{model} is not in {cache_folder()} any more; load it again")
    return open_folder(Path(found).parent, model.repo, model.revision)


def cache_folder() -> Path:
    return Path(constants.HF_HUB_CACHE)


def fetch_stage(model: HubModel, stage: Stage | None, progress: FetchProgress) -> None:
    if not model.is_pinned:
        raise BadModel(
            f"{model.repo} is no folder here, and {model} on the Hugging Face hub may be another "
            "model tomorrow; give this worker org/name@COMMIT, or no --model: the gateway says "
            "which one it serves"
        )
    with _our_errors(model):
        _bound_waits()
        folder = _small_files(model, CONFIG_FILES)
        if stage is None:
            return
        sizes = _listed(model)
        wanted = _stage_files(open_folder(folder, *_parts(model)), stage, sizes)
        missing = [name for name in sorted(wanted) if not (folder / name).is_file()]
        progress.folder = folder.parent.parent / "blobs"  # beside snapshots/COMMIT, by the hub's
        progress.bytes_total = sum(sizes.get(name, 0) for name in missing)
        _refuse_small_disk(model, progress.bytes_total)
        for name in missing:
            hf_hub_download(
                model.repo, name, revision=model.revision, tqdm_class=cast(Any, _bar(progress))
            )


def _bar(progress: FetchProgress) -> type:
    class Bar:
        """As much of a tqdm as the library wants to tell a file's progress to."""

        def __init__(self, total: int | None = None, **_more: Any) -> None:
            self.total = total

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_why: object) -> None:
            """Nothing to clear away."""

        def update(self, n: float | None = 1) -> None:
            """Bytes that are on the disk; fewer than none where an attempt is thrown away."""
            progress.bytes_done += int(n or 0)
            if progress.cancelled:
                raise FetchFailed("nobody waits for these files any more")

        def update_transfer(self, n: float | None = 1) -> None:
            """Bytes in the network: the same ones, counted once."""

        def set_postfix_str(self, *_args: Any, **_more: Any) -> None:
            """A rate; whoever looks at our progress makes one."""

        set_transfer_postfix_str = set_postfix_str

    return Bar


def _parts(model: HubModel) -> tuple[str, str]:
    return model.repo, model.revision


def _small_files(pinned: HubModel, names: Collection[str]) -> Path:
    """The folder that holds them, as far as the model has them."""
    repo, commit = _parts(pinned)
    return Path(snapshot_download(repo, revision=commit, allow_patterns=list(names)))


def _listed(pinned: HubModel) -> Mapping[str, int]:
    """The bytes of each file, as the hub listed them when the first was fetched. Empty if that was
    by an older library, which kept no list.
    """
    repo, commit = _parts(pinned)
    try:
        return {each.path: each.size for each in get_cached_repo_tree(repo, revision=commit)}
    except CachedRepoTreeNotFoundError:
        return {}


def _weights_among(names: Collection[str]) -> frozenset[str]:
    """Files of weights, by the rule of `checkpoint.weight_files`."""
    if SINGLE_FILE in names:
        return frozenset({SINGLE_FILE})
    return frozenset(name for name in names if name.endswith(".safetensors") and "/" not in name)


def _stage_files(source: ModelSource, stage: Stage, listed: Collection[str]) -> frozenset[str]:
    """Those that hold tensors of the stage; all, where no index says which."""
    assert source.folder is not None
    index = source.folder / INDEX
    if index.is_file():
        files = indexed_files(index)
        # A gateway that could not look for a head of its own orders what config.json says.
        told = told_model(source.name, (source.folder / "config.json").read_bytes())
        needed = {
            name_in_files(spec, each.name, files)
            for spec in (source.spec, told.spec)
            for each in stage_tensors(spec, stage)
        }
        return frozenset(files[name].name for name in needed if name in files)
    return _weights_among(listed or {each.name for each in source.folder.iterdir()})


def _refuse_small_disk(model: HubModel, wanted_bytes: int) -> None:
    free_bytes = shutil.disk_usage(cache_folder()).free
    if wanted_bytes > free_bytes:
        raise DoesNotFit(
            f"{model}: {wanted_bytes / 1e9:.2f} GB are to be fetched, and {_room(free_bytes)}",
            missing_bytes=wanted_bytes - free_bytes,
        )


def _room(free_bytes: int) -> str:
    return (
        f"the disk of {cache_folder()} has {free_bytes / 1e9:.2f} GB free; free some, or set "
        "HF_HOME to a folder on a larger disk"
    )


# -- bounds, and what went wrong

_TROUBLES = (
    httpx2.HTTPError,
    httpx2.InvalidURL,  # of HF_ENDPOINT
    ValueError,  # an answer that is no JSON, or
    KeyError,  # is some other server's
    OSError,  # of the disk, and most of the library's own
    RevisionResolutionError,
    RuntimeError,  # hf_xet's
)


def _bound_waits() -> None:
    session = get_session()
    hooks = session.event_hooks
    if _bound not in hooks["request"]:
        session.event_hooks = {**hooks, "request": [*hooks["request"], _bound]}


def _bound(request: httpx2.Request) -> None:
    """The library asks for names and lists without any timeout."""
    timeouts = request.extensions["timeout"]
    request.extensions["timeout"] = {key: timeouts[key] or SILENCE_S for key in timeouts}


@contextmanager
def _our_errors(model: HubModel) -> Iterator[None]:
    try:
        yield
    except GatedRepoError:
        raise BadModel(
            f"{model.repo} is gated: accept its terms on {_host()}, and set HF_TOKEN on every box "
            "to a token of the account that did"
        ) from None
    except RepositoryNotFoundError:
        raise BadModel(
            f"{model.repo!r} is neither a folder here nor a model that {_host()} shows; check the "
            "name, or, if it is private, set HF_TOKEN on every box to a token that may read it"
        ) from None
    except RevisionNotFoundError:
        raise BadModel(
            f"{model.repo} on {_host()} has no branch, tag or commit {model.revision!r}; without "
            "@REVISION its main branch is taken"
        ) from None
    except _TROUBLES as error:
        raise _trouble(model, error) from None


def _trouble(model: HubModel, error: Exception) -> EdgeserveError:
    number = error.errno if isinstance(error, OSError) else None
    if number in DISK_IS_FULL:
        free_bytes = shutil.disk_usage(cache_folder()).free
        return DoesNotFit(f"{model} could not be fetched whole: {_room(free_bytes)}")
    if isinstance(error, HfHubHTTPError):
        return _refused(model, error.response.status_code)
    if isinstance(error, OSError) and number is not None:
        return FetchFailed(f"{model}: {cache_folder()} cannot be written: {error.strerror}")
    if constants.is_offline_mode():
        return FetchFailed(
            f"{model} is not whole in {cache_folder()}, and HF_HUB_OFFLINE forbids to fetch it; "
            "unset it, or fetch the model elsewhere and copy that folder"
        )
    return FetchFailed(
        f"{model} could not be fetched: {_host()} cannot be reached, stopped sending, or is no "
        "hub; check this box's way there (HF_ENDPOINT names a mirror), and start again: files that "
        "are whole stay"
    )


def _refused(model: HubModel, status: int) -> EdgeserveError:
    if status in (httpx2.codes.UNAUTHORIZED, httpx2.codes.FORBIDDEN):
        return BadModel(
            f"{_host()} does not let this box's token read {model.repo} (status {status}); set "
            "HF_TOKEN to one that may, or unset it for a public model"
        )
    return FetchFailed(f"{model}: {_host()} answers with status {status}; try again later")


def _host() -> str:
    """Without what else an address can hold, such as a password."""
    return urlsplit(constants.ENDPOINT).hostname or constants.ENDPOINT
