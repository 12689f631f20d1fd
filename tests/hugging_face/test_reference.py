"""What counts as the name of a model on the hub."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeserve.hugging_face.reference import HubModel, hub_model, settled

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("ref", "repo", "revision", "pinned"),
    [
        ("meta-llama/Llama-2-13b-hf", "meta-llama/Llama-2-13b-hf", "main", False),
        ("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B", "main", False),
        ("a/b@v1.0", "a/b", "v1.0", False),
        ("a/b@refs/pr/3", "a/b", "refs/pr/3", False),
        (f"a/b@{COMMIT}", "a/b", COMMIT, True),
        (f"a/b@{COMMIT[:12]}", "a/b", COMMIT[:12], False),
        (f"a/b@{COMMIT.upper()}", "a/b", COMMIT.upper(), False),
    ],
)
def test_a_name_may_have_a_revision(ref: str, repo: str, revision: str, pinned: bool) -> None:
    found = hub_model(ref)
    assert found == HubModel(repo, revision)
    assert found.is_pinned == pinned


@pytest.mark.parametrize(
    "ref",
    [
        "", "demo", "llama-2-13b", "name", "a/b/c", "/a/b", "./a/b", "../a", "a/..", "~/models",
        "a/b@", "a/b@../x", "a/b@x/../y", "a/b@x//y", "a/b@x/", "a/b@-x", "a--b/c", "a..b/c",
        "a/b.", "a/-b",
        "a/b.git", "a b/c", "a/b\n", "a/b@main\n", "é/b", f"a/{'b' * 95}", "a/b@c@d", "hf://a/b",
        "a/b?x=1", "a/b#x", "a/%2e%2e",
    ],
)  # fmt: skip
def test_what_could_lead_elsewhere_is_no_name(ref: str) -> None:
    assert hub_model(ref) is None


def test_a_folder_that_exists_goes_before_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert hub_model("models/mine") is not None
    (tmp_path / "models" / "mine").mkdir(parents=True)
    assert hub_model("models/mine") is None


def test_a_model_is_written_as_it_is_read() -> None:
    model = HubModel("a/b", COMMIT)
    assert hub_model(str(model)) == model


@pytest.mark.parametrize(
    ("own", "ordered", "taken"),
    [
        ("", f"a/b@{COMMIT}", f"a/b@{COMMIT}"),
        ("", "/models/c", "/models/c"),
        ("/models/c", f"a/b@{COMMIT}", "/models/c"),
        ("a/b", f"a/b@{COMMIT}", f"a/b@{COMMIT}"),
        ("a/b@v1", f"a/b@{COMMIT}", "a/b@v1"),
        ("a/other", f"a/b@{COMMIT}", "a/other"),
        ("a/b", "/models/c", "a/b"),
    ],
)
def test_a_worker_takes_its_own_model_at_the_commit_of_the_gateway(
    own: str, ordered: str, taken: str
) -> None:
    assert settled(own, ordered) == taken
