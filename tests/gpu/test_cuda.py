"""What only a CUDA device can show: the same numbers as on the CPU, times from events, and a worker
that serves.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edgeserve.clock import MonotonicClock
from edgeserve.config import WorkerSettings
from edgeserve.families.spec import Dtype
from edgeserve.frames.micro_batch import Segment
from edgeserve.frames.sampling import Sampling
from edgeserve.wire.frame import Frame, Open
from edgeserve.worker.device import open_device
from edgeserve.worker.stage import Taken
from tests.gpu.steps import greedy, stage_on
from tests.model.tiny import save_tiny

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="NO GPU"),
]
FAMILIES = ("llama2", "llama3", "mistral", "qwen2", "qwen3")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_gpu_chooses_the_tokens_that_the_cpu_chooses(family: str, tmp_path: Path) -> None:
    save_tiny(family, tmp_path)

    on_cpu, _ = greedy(stage_on("cpu", tmp_path, Dtype.FP32), 20)
    on_gpu, _ = greedy(stage_on("cuda", tmp_path, Dtype.FP32), 20)

    assert on_gpu == on_cpu


def test_drawn_tokens_are_those_of_the_cpu(tmp_path: Path) -> None:
    save_tiny("qwen2", tmp_path)
    hot = Sampling(
        temperature=1.2, top_k=50, top_p=0.95, min_p=0.01, repetition_penalty=1.2, seed=3,
        presence_penalty=0.4, frequency_penalty=0.4, logit_bias=((7, 1.5),), top_logprobs=5,
    )  # fmt: skip

    on_cpu, wanted = greedy(stage_on("cpu", tmp_path, Dtype.FP32), 20, hot)
    on_gpu, got = greedy(stage_on("cuda", tmp_path, Dtype.FP32), 20, hot)

    assert on_gpu == on_cpu
    for ours, theirs in zip(got, wanted, strict=True):
        tops = [dict(each.sampled[0].top) for each in (ours, theirs)]
        assert tops[0] == pytest.approx(tops[1], abs=1e-3)


@torch.inference_mode()
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=1.0, top_p=0.9, seed=1),
        Sampling(repetition_penalty=1.1, logit_bias=((3, 1.0),), top_logprobs=5),
    ],
    ids=["greedy", "drawn", "biased and told"],
)
@pytest.mark.parametrize("tokens", [5, 70], ids=["graph", "no graph"])
def test_a_launch_does_not_wait_for_the_device(
    tokens: int, sampling: Sampling, tmp_path: Path
) -> None:
    save_tiny("llama2", tmp_path)
    stage, clock = stage_on("cuda", tmp_path, Dtype.FP16, tokens_max=80), MonotonicClock()
    segment = Segment(sequence=1, first_position=0, tokens=tokens, samples=1)
    opened = Open(sequence=1, pages=(3, 4, 5, 6, 7), sampling=sampling)
    frame = Frame(frame=1, open=(opened,), segments=(segment,), payload=bytes(4 * tokens))
    sequences = stage.new_table().take(frame)
    stage.launch(frame, sequences, clock).watch.wait()  # what is done once is done
    busy = torch.cuda.Event()  # type: ignore[no-untyped-call]
    torch.cuda._sleep(2 * 10**9)  # type: ignore[no-untyped-call]  # a second of its clock
    busy.record()

    launched = stage.launch(frame, sequences, clock)

    assert not busy.query()  # type: ignore[no-untyped-call]
    launched.watch.wait()
    assert launched.results.out[0].isfinite().all()


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [Dtype.FP16, Dtype.BF16], ids=str)
@pytest.mark.parametrize("others", [1, 3, 7, 15, 63])
def test_what_a_sequence_gets_depends_on_its_batch_by_rounding_alone(
    others: int, dtype: Dtype, tmp_path: Path
) -> None:
    save_tiny("llama2", tmp_path)
    stage, clock = stage_on("cuda", tmp_path, dtype), MonotonicClock()

    def logprob(sequences: int) -> float:
        """Of the token that follows one and the same first token."""
        opened = tuple(
            Open(sequence=number, pages=(number % 8,), sampling=Sampling())
            for number in range(sequences)
        )
        # All write the same token at the same place, so that they may share pages.
        segments = tuple(
            Segment(sequence=number, first_position=0, tokens=1, samples=1)
            for number in range(sequences)
        )
        payload = torch.full((sequences,), 9, dtype=torch.int32).numpy().tobytes()
        frame = Frame(frame=1, open=opened, segments=segments, payload=payload)
        launched = stage.launch(frame, stage.new_table().take(frame), clock)
        result = launched.finish(Taken(received_s=0.0, decode_s=0.0, started_s=0.0), clock)
        return result.sampled[0].logprob

    # Half precision has 10 bits, bf16 has 7: some roundings of the last of them.
    tolerance = {Dtype.FP16: 0.01, Dtype.BF16: 0.08}[dtype]
    assert logprob(1 + others) == pytest.approx(logprob(1), abs=tolerance)


def test_half_precision_keeps_the_log_probabilities(tmp_path: Path) -> None:
    save_tiny("llama2", tmp_path)

    _, exact = greedy(stage_on("cpu", tmp_path, Dtype.FP32), 1)
    _, half = greedy(stage_on("cuda", tmp_path, Dtype.FP16), 1)

    assert half[0].sampled[0].logprob == pytest.approx(exact[0].sampled[0].logprob, abs=0.05)


def test_a_receipts_device_time_comes_from_events_and_fits_the_wall(tmp_path: Path) -> None:
    save_tiny("llama2", tmp_path)
    stage = stage_on("cuda", tmp_path, Dtype.FP16)
    clock = MonotonicClock()
    greedy(stage, 4)

    start_s = clock.now_s()
    _, results = greedy(stage, 16)
    wall_s = clock.now_s() - start_s

    assert all(result.time.compute_s > 0 for result in results)
    assert sum(result.time.held_s for result in results) <= wall_s


def test_a_worker_says_what_card_it_has_and_how_fast_its_memory_is() -> None:
    device = open_device(WorkerSettings(device="cuda"), MonotonicClock())

    assert device.kind == "cuda"
    assert device.name == torch.cuda.get_device_name(0)
    assert device.uuid == str(torch.cuda.get_device_properties(0).uuid) != ""
    assert device.memory_bytes_per_s > 50e9  # the slowest card that PyTorch still supports
    assert Dtype.FP16 in device.dtypes
