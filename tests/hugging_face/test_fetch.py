"""Which files are fetched, how often, and what is said when they cannot be had."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import constants, file_download
from huggingface_hub.utils import _http
from safetensors.torch import save_file

from edgeserve.errors import BadModel, DoesNotFit, EdgeserveError, FetchFailed
from edgeserve.families.checkpoint import INDEX
from edgeserve.families.folder import ModelSource
from edgeserve.frames.stage import LayerRange, Stage
from edgeserve.hugging_face import fetch
from edgeserve.hugging_face.find import fetch_stage, files_folder, find_model, open_fetched
from edgeserve.hugging_face.progress import FetchProgress
from edgeserve.hugging_face.reference import HubModel
from tests.hugging_face.conftest import CONFIG, LAYERS
from tests.hugging_face.hub import Hub

NAME = "org/name"
FIRST = Stage(LayerRange(0, 1), embedding=True, head=False)
MIDDLE = Stage(LayerRange(1, 3), embedding=False, head=False)
LAST = Stage(LayerRange(3, 4), embedding=False, head=True)
WHOLE = Stage(LayerRange(0, LAYERS), embedding=True, head=True)
SECRET = "hf_thisIsASecret"


def weights(hub: Hub) -> set[str]:
    """The files of weights, of whatever kind, of which a byte was sent."""
    return {name for name in hub.sent if name.endswith((".safetensors", ".bin", ".py"))}


def fetched(commit: str, stage: Stage | None, progress: FetchProgress | None = None) -> ModelSource:
    model = HubModel(NAME, commit)
    fetch_stage(model, stage, progress or FetchProgress())
    return open_fetched(str(model))


# -- what a gateway fetches


def test_a_gateway_fetches_all_but_the_weights_and_pins_the_commit(hub: Hub, folder: Path) -> None:
    commit = hub.publish(NAME, folder)
    source = find_model(NAME)
    assert (source.name, source.revision) == (NAME, commit)
    assert source.reference == f"{NAME}@{commit}"
    assert source.spec.layers == LAYERS
    assert source.folder is not None
    names = {"config.json", "tokenizer.json", "chat_template.jinja", INDEX}
    assert {path.name for path in source.folder.iterdir()} == names
    assert set(hub.sent) == names


def test_all_that_says_what_texts_look_like_is_fetched(hub: Hub, folder: Path) -> None:
    texts = {
        "special_tokens_map.json", "added_tokens.json", "tokenizer_config.json",
        "chat_template.json", "additional_chat_templates/tool_use.jinja",
    }  # fmt: skip
    (folder / "additional_chat_templates").mkdir()
    for name in texts:
        (folder / name).write_text(json.dumps({"different": name}))
    (folder / "additional_chat_templates" / "README.md").write_text("not asked for")
    hub.publish(NAME, folder)
    source = find_model(NAME)
    assert source.folder is not None
    assert texts < set(hub.sent)
    assert all((source.folder / name).is_file() for name in texts)
    assert not any("README" in name for name in hub.sent)


def test_what_is_here_is_not_asked_for_again(hub: Hub, folder: Path) -> None:
    commit = hub.publish(NAME, folder)
    find_model(NAME)
    hub.requests.clear()
    find_model(NAME)
    assert hub.requests == [f"GET /api/models/{NAME}/revision/main"]
    find_model(f"{NAME}@{commit}")
    assert len(hub.requests) == 1


def test_a_branch_that_moved_is_another_commit_and_the_old_one_stays(
    hub: Hub, folder: Path
) -> None:
    old = hub.publish(NAME, folder)
    find_model(NAME)
    (folder / "tokenizer.json").write_text("[]")
    new = hub.publish(NAME, folder, branch="next")
    assert find_model(NAME).revision == old
    assert find_model(f"{NAME}@next").revision == new != old


@pytest.mark.parametrize("down", ["offline", "500"])
def test_a_hub_that_cannot_be_asked_is_not_needed_for_what_is_here(
    down: str, hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.publish(NAME, folder)
    find_model(NAME)
    fetched(commit, MIDDLE)
    if down == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    else:
        hub.status = 500
    hub.sent.clear()
    assert find_model(NAME).revision == commit
    assert fetched(commit, MIDDLE).revision == commit
    assert not hub.sent


def test_weights_of_other_kinds_are_refused_before_anything_starts(hub: Hub, folder: Path) -> None:
    for path in (*folder.glob("*.safetensors"), folder / INDEX):
        path.unlink()
    hub.publish(NAME, folder)
    with pytest.raises(BadModel, match=r"has no \*\.safetensors.*never fetched"):
        find_model(NAME)
    assert weights(hub) == set()


# -- what a worker fetches


@pytest.mark.parametrize(
    ("stage", "files"),
    [
        (FIRST, {"before", "layer0"}),
        (MIDDLE, {"layer1", "layer2"}),
        (LAST, {"layer3", "behind"}),
        (WHOLE, {"before", "layer0", "layer1", "layer2", "layer3", "behind"}),
        (None, set()),
    ],
    ids=["first", "middle", "last", "whole", "paced"],
)
def test_a_worker_fetches_the_files_of_its_stage(
    stage: Stage | None, files: set[str], hub: Hub, folder: Path
) -> None:
    progress = FetchProgress()
    source = fetched(hub.publish(NAME, folder), stage, progress)
    names = {f"{file}.safetensors" for file in files}
    assert weights(hub) == names
    assert source.folder is not None
    assert {path.name for path in source.folder.glob("*.safetensors")} == names
    sizes = [(folder / name).stat().st_size for name in names]
    assert progress.bytes_done == progress.bytes_total == sum(sizes)
    assert {name: hub.sent[name] for name in names} == dict(zip(names, sizes, strict=True))


def test_a_tied_head_needs_the_embedding(hub: Hub, folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({**CONFIG, "tie_word_embeddings": True}))
    fetched(hub.publish(NAME, folder), LAST)
    assert {"before.safetensors", "layer3.safetensors"} <= weights(hub)


def test_without_an_index_the_model_is_one_file_or_all(hub: Hub, folder: Path) -> None:
    (folder / INDEX).unlink()
    save_file({"a": torch.ones(2)}, folder / "model.safetensors")
    fetched(hub.publish(NAME, folder), MIDDLE)
    assert weights(hub) == {"model.safetensors"}
    hub.sent.clear()
    (folder / "model.safetensors").unlink()
    fetched(hub.publish(NAME, folder), MIDDLE)
    assert weights(hub) == {path.name for path in folder.glob("*.safetensors")}


def test_what_lies_in_folders_of_its_own_is_another_model(hub: Hub, folder: Path) -> None:
    (folder / INDEX).unlink()
    (folder / "original").mkdir()
    (folder / "behind.safetensors").rename(folder / "original" / "consolidated.safetensors")
    fetched(hub.publish(NAME, folder), LAST)
    assert weights(hub) == {path.name for path in folder.glob("*.safetensors")}


@pytest.mark.parametrize("file", ["pytorch_model.bin", "../x.safetensors"])
def test_an_index_cannot_ask_for_anything_else(file: str, hub: Hub, folder: Path) -> None:
    weight_map = {"model.layers.1.input_layernorm.weight": file}
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(BadModel, match="is no.*safetensors|outside"):
        fetched(hub.publish(NAME, folder), MIDDLE)
    assert weights(hub) == set()


def test_a_worker_is_told_a_commit_or_nothing(hub: Hub, folder: Path) -> None:
    hub.publish(NAME, folder)
    with pytest.raises(BadModel, match=r"org/name@COMMIT, or no --model"):
        fetched("main", MIDDLE)
    assert not hub.requests


# -- on the way


@pytest.fixture
def large(folder: Path) -> Path:
    """Its `layer1` has three pieces of what the stand-in sends at once."""
    save_file({"big": torch.zeros(3 * 2**14)}, folder / "layer1.safetensors")
    return folder


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's own waits, without the waiting."""
    monkeypatch.setattr(file_download, "time", SimpleNamespace(sleep=lambda _s: None))
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.05)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 2**14)


@pytest.mark.usefixtures("hurried")
def test_a_file_that_was_cut_off_goes_on_where_it_was(hub: Hub, large: Path) -> None:
    hub.hang_up_after["layer1.safetensors"] = 2**16
    progress = FetchProgress()
    source = fetched(hub.publish(NAME, large), MIDDLE, progress)
    assert source.folder is not None
    whole = (large / "layer1.safetensors").read_bytes()
    assert (source.folder / "layer1.safetensors").read_bytes() == whole
    assert hub.sent["layer1.safetensors"] == len(whole)
    assert progress.bytes_done == progress.bytes_total


@pytest.mark.slow
@pytest.mark.usefixtures("hurried")
def test_a_hub_that_falls_silent_is_given_up_and_whole_files_stay(hub: Hub, large: Path) -> None:
    commit = hub.publish(NAME, large)
    hub.silent_after["layer2.safetensors"] = 10
    with pytest.raises(FetchFailed, match=r"127\.0\.0\.1.* stopped sending, or.*start again"):
        fetched(commit, MIDDLE)
    hub.silent_after.clear()
    hub.sent.clear()
    fetched(commit, MIDDLE)
    assert weights(hub) == {"layer2.safetensors"}
    left_over = Path(constants.HF_HUB_CACHE).glob("**/*.incomplete")
    assert not list(left_over)


@pytest.mark.usefixtures("hurried")
def test_fetching_ends_when_nobody_waits(hub: Hub, large: Path) -> None:
    commit = hub.publish(NAME, large)
    with pytest.raises(FetchFailed, match="nobody waits"):
        fetched(commit, MIDDLE, FetchProgress(cancelled=True))
    assert hub.sent["layer2.safetensors"] == 0
    fetched(commit, MIDDLE)


def test_progress_is_seen_whoever_fetches(tmp_path: Path) -> None:
    progress = FetchProgress(folder=tmp_path)
    assert not progress.moved()
    (tmp_path / "other.incomplete").write_bytes(b"12345")
    assert progress.moved()
    assert not progress.moved()
    assert not FetchProgress(folder=tmp_path / "not there").moved()


# -- what goes wrong


def _private(hub: Hub, _commit: str) -> str:
    hub.repos[NAME].needs_token = "another"
    return NAME


def _gated(hub: Hub, _commit: str) -> str:
    hub.repos[NAME].gated = True
    return NAME


def _forbidden(hub: Hub, _commit: str) -> str:
    hub.status = 403
    return NAME


def _broken(hub: Hub, _commit: str) -> str:
    hub.status = 503
    return NAME


REFUSALS: dict[str, tuple[Callable[[Hub, str], str], type[EdgeserveError], str]] = {
    "missing": (lambda _hub, _commit: "org/none", BadModel, "neither a folder here nor a model"),
    "private": (_private, BadModel, "if it is private, set HF_TOKEN"),
    "gated": (_gated, BadModel, "is gated: accept its terms on 127.0.0.1"),
    "forbidden": (_forbidden, BadModel, "does not let this box's token read org/name"),
    "branch": (lambda *_: f"{NAME}@nope", BadModel, "no branch, tag or commit 'nope'"),
    "commit": (lambda *_: f"{NAME}@{'0' * 40}", BadModel, "no branch, tag or commit '000"),
    "broken": (_broken, FetchFailed, "could not be fetched"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_the_hub_refuses_is_a_sentence(
    case: str,
    hub: Hub,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ask, kind, words = REFUSALS[case]
    monkeypatch.setenv("HF_TOKEN", SECRET)
    ref = ask(hub, hub.publish(NAME, folder))
    with pytest.raises(kind) as caught:
        find_model(ref)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value) + caplog.text
    assert caught.value.__suppress_context__
    #      nothing of the library's is shown beside it


def test_no_network_is_a_sentence(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://user:password@127.0.0.1:1")
    with pytest.raises(FetchFailed, match=r"127\.0\.0\.1 cannot be reached") as caught:
        find_model(NAME)
    assert "password" not in str(caught.value)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("known", [False, True], ids=["name", "list"])
def test_a_hub_that_never_answers_is_given_up(
    known: bool, hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the library would wait for ever."""
    commit = hub.publish(NAME, folder)
    monkeypatch.setattr(fetch, "SILENCE_S", 0.02)
    monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=lambda _s: None))
    hub.mute = True
    with pytest.raises(FetchFailed, match=r"127\.0\.0\.1 cannot be reached"):
        find_model(f"{NAME}@{commit}" if known else NAME)


@pytest.mark.parametrize("says", ["tokenizer.json", "pytorch_model.bin"])
def test_another_server_is_not_taken_for_the_hub(
    says: str, hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.publish(NAME, folder)
    monkeypatch.setattr(constants, "ENDPOINT", f"{hub.url}/{NAME}/resolve/main/{says}?")
    with pytest.raises(FetchFailed, match=r"127\.0\.0\.1.* is no hub"):
        find_model(NAME)


@pytest.mark.parametrize("ref", [NAME, f"{NAME}@{'a' * 40}"])
def test_offline_with_nothing_here_is_a_sentence(
    ref: str, hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.publish(NAME, folder)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FetchFailed, match="HF_HUB_OFFLINE forbids"):
        find_model(ref)
    assert not hub.requests


def test_offline_with_a_part_here_is_a_sentence(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.publish(NAME, folder)
    fetched(commit, FIRST)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FetchFailed, match=r"is not whole in .*HF_HUB_OFFLINE forbids"):
        fetched(commit, LAST)


def test_a_full_disk_is_told_before_anything_is_fetched(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = SimpleNamespace(disk_usage=lambda _path: SimpleNamespace(free=100))
    monkeypatch.setattr(fetch, "shutil", full)
    with pytest.raises(DoesNotFit, match="0.00 GB free; free some, or set HF_HOME") as caught:
        fetched(hub.publish(NAME, folder), MIDDLE)
    wanted = sum((folder / f"layer{i}.safetensors").stat().st_size for i in (1, 2))
    assert caught.value.numbers == {"missing_bytes": wanted - 100}
    assert weights(hub) == set()


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (OSError(errno.ENOSPC, "-"), DoesNotFit, "could not be fetched whole: the disk of"),
        (
            OSError(errno.EROFS, "it is read-only"),
            FetchFailed,
            "cannot be written: it is read-only",
        ),
        (RuntimeError(SECRET), FetchFailed, "could not be fetched"),
    ],
    ids=["full", "read-only", "xet"],
)
def test_a_download_that_breaks_off_is_a_sentence(
    error: Exception, kind: type[EdgeserveError], words: str, hub: Hub, folder: Path
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise error

    commit = hub.publish(NAME, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetch, "hf_hub_download", fails)
        with pytest.raises(kind, match=words) as caught:
            fetched(commit, MIDDLE)
    assert SECRET not in str(caught.value)


def test_what_was_deleted_meanwhile_is_named(hub: Hub, folder: Path) -> None:
    model = HubModel(NAME, hub.publish(NAME, folder))
    with pytest.raises(BadModel, match="is not in .*cache any more"):
        open_fetched(str(model))


def test_a_disk_is_looked_at_where_the_files_will_lie(hub: Hub, tmp_path: Path) -> None:
    assert files_folder(NAME) == tmp_path / "cache"
    assert files_folder("some/where/else") == Path("some/where/else")
