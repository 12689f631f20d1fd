"""A stage fed frame by frame, as a worker does it: a prompt, and then decodes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from edgeserve.clock import MonotonicClock
from edgeserve.config import WorkerSettings
from edgeserve.families.folder import open_model
from edgeserve.families.spec import Dtype
from edgeserve.frames.micro_batch import Segment
from edgeserve.frames.sampling import Sampling
from edgeserve.frames.stage import cut
from edgeserve.wire.frame import Frame, FrameResult, Open
from edgeserve.wire.messages import LoadOrder
from edgeserve.worker.device import Device, open_device
from edgeserve.worker.stage import ResidentStage, Taken, load_stage

PROMPT = tuple(range(5, 25))
PAGES = (3, 4, 5)
"""Room for 48 tokens."""


def stage_on(kind: str, folder: Path, dtype: Dtype, tokens_max: int = 64) -> ResidentStage:
    """The whole model of `folder`, on 'cpu' or 'cuda'."""
    clock = MonotonicClock()
    device: Device = open_device(WorkerSettings(device=kind, memory=2**31), clock)
    source = open_model(str(folder))
    order = LoadOrder(
        epoch=1, model=str(folder), spec_hash=source.spec.spec_hash,
        stage=cut((source.spec.layers,))[0], dtype=dtype, pages=8, frame_tokens_max=tokens_max,
    )  # fmt: skip
    return load_stage(order, str(folder), device, lambda _done, _total: None, clock)


def halve_weights(folder: Path) -> None:
    """Rounds what lies there to fp16, so that a stage in fp16 has the weights of one in fp32."""
    file = folder / "model.safetensors"
    halves = {name: tensor.half() for name, tensor in load_file(file).items()}
    save_file(halves, file, metadata={"format": "pt"})


@torch.inference_mode()
def greedy(
    stage: ResidentStage,
    new_tokens: int,
    sampling: Sampling | None = None,
    fed: Sequence[int] = (),
) -> tuple[list[int], list[FrameResult]]:
    """A prompt and decodes, frame by frame, as a worker runs them. Where tokens are `fed`, they go
    on with those instead of their own.
    """
    clock, table = MonotonicClock(), stage.new_table()
    opened = Open(sequence=1, pages=PAGES, sampling=sampling or Sampling(), history=PROMPT)
    tokens, found, results = list(PROMPT), list[int](), list[FrameResult]()
    for step in range(new_tokens):
        fresh = tokens if step == 0 else tokens[-1:]
        segment = Segment(
            sequence=1, first_position=len(tokens) - len(fresh), tokens=len(fresh), samples=1
        )
        payload = torch.tensor(fresh, dtype=torch.int32).numpy().tobytes()
        frame = Frame(
            frame=step, open=(opened,) if step == 0 else (), segments=(segment,), payload=payload
        )
        received_s = clock.now_s()
        taken = Taken(received_s=received_s, decode_s=0.0, started_s=received_s)
        launched = stage.launch(frame, table.take(frame), clock)
        results.append(launched.finish(taken, clock))
        found.append(results[-1].sampled[0].token)
        tokens.append(fed[step] if fed else found[-1])
    return found, results
