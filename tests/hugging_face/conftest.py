"""The library pointed at a stand-in hub and at a cache of the test's own, within this process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from edgeserve.families.checkpoint import INDEX
from tests.families.published import LLAMA_2_13B
from tests.hugging_face.hub import Hub, running_hub

LAYERS = 4
CONFIG = {
    **LLAMA_2_13B, "num_hidden_layers": LAYERS, "hidden_size": 8, "intermediate_size": 8,
    "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 16,
}  # fmt: skip


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running_hub() as hub:
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield hub


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's files as they are published: a file for each layer, one for what is before the
    layers, and one for what is behind.
    """
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "pytorch_model.bin").write_bytes(b"never")
    (folder / "modeling_own.py").write_text("raise SystemExit")
    before, behind = "model.embed_tokens.weight", ("model.norm.weight", "lm_head.weight")
    parts = {"before": [before], "behind": list(behind)}
    for layer in range(LAYERS):
        parts[f"layer{layer}"] = [
            f"model.layers.{layer}.{name}.weight"
            for name in ("self_attn.q_proj", "mlp.down_proj", "input_layernorm")
        ]
    for file, names in parts.items():
        save_file({name: torch.ones(2, 2) for name in names}, folder / f"{file}.safetensors")
    weight_map = {name: f"{file}.safetensors" for file, names in parts.items() for name in names}
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    return folder
