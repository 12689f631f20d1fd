"""A paced stage: how long a card would take for a frame, and what comes back in its place."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from edgeserve.clock import ManualClock, MonotonicClock
from edgeserve.config import WorkerSettings
from edgeserve.errors import BadModel, BadSettings, WireError
from edgeserve.families.folder import open_model, told_model
from edgeserve.families.shapes import SHAPES
from edgeserve.families.spec import Dtype
from edgeserve.frames.micro_batch import Segment
from edgeserve.frames.sampling import Sampling
from edgeserve.frames.stage import LayerRange, Stage, cut
from edgeserve.plan.facts import WorkerFacts
from edgeserve.plan.planner import make_plan
from edgeserve.wire.codec import decode_result
from edgeserve.wire.frame import Frame, FrameResult, Score
from edgeserve.wire.messages import LoadOrder
from edgeserve.worker.cards import CARDS
from edgeserve.worker.device import Device, open_device
from edgeserve.worker.device_thread import DeviceThread, FrameJob, Session
from edgeserve.worker.pace import PacedStage, frame_work, load_paced, made_up_token
from edgeserve.worker.sequences import OpenSequence
from edgeserve.worker.stage import Taken

SPEC = SHAPES["llama-2-13b"]
FIRST, MIDDLE, LAST = cut((13, 14, 13))
CARD = CARDS["rtx-3060"]
WAIT_S = 5.0
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
    "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 96, "vocab_size": 100, "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5, "hidden_act": "silu", "torch_dtype": "float16",
}  # fmt: skip


def device(clock: ManualClock | MonotonicClock, **settings: int) -> Device:
    return open_device(WorkerSettings(pace="rtx-3060", **settings), clock)  # type: ignore[arg-type]


def order(stage: Stage = MIDDLE, model: str = "llama-2-13b") -> LoadOrder:
    return LoadOrder(
        epoch=1, model=model, spec_hash=open_model(model).spec.spec_hash, stage=stage,
        dtype=Dtype.FP16, pages=654, frame_tokens_max=320,
    )  # fmt: skip


def loaded(clock: ManualClock, stage: Stage = MIDDLE, model: str = "llama-2-13b") -> PacedStage:
    return load_paced(order(stage, model), model, device(clock), lambda _done, _total: None, clock)


def decode(position: int = 0, sequence: int = 1) -> Segment:
    return Segment(sequence=sequence, first_position=position, tokens=1, samples=1)


def frame(*segments: Segment, number: int = 1, payload: bytes = b"") -> Frame:
    return Frame(frame=number, segments=segments, payload=payload)


def opened(count: int, seed: int = 0) -> list[OpenSequence]:
    each = OpenSequence(pages=(0,), sampling=Sampling(seed=seed))
    return [each] * count


def run(stage: PacedStage, what: Frame, clock: ManualClock, seed: int = 0) -> FrameResult:
    """A frame that came in and had its turn at once."""
    taken = Taken(received_s=clock.now_s(), decode_s=0.0, started_s=clock.now_s())
    launched = stage.launch(what, opened(len(what.segments), seed), clock)
    return launched.finish(taken, clock)


def takes_s(stage: Stage, *segments: Segment, dtype: Dtype = Dtype.FP16) -> float:
    work = frame_work(SPEC, stage, dtype, segments)
    return CARD.takes_s(work.read_bytes, work.flop, dtype)


# -- how long


def test_a_token_of_three_cards_takes_what_reading_all_weights_once_takes() -> None:
    token_s = sum(takes_s(stage, decode()) for stage in (FIRST, MIDDLE, LAST))

    weights_bytes = 2 * (40 * 317_204_480 + 32_000 * 5120 + 5120)
    one_tokens_kv_bytes = 819_200
    assert token_s == pytest.approx((weights_bytes + one_tokens_kv_bytes) / (0.85 * 360e9))
    assert token_s == pytest.approx(0.0840, abs=1e-4)


def test_keys_and_values_of_every_sequence_of_a_frame_are_read() -> None:
    alone = takes_s(MIDDLE, decode(999))
    both = takes_s(MIDDLE, decode(999), decode(499, sequence=2))

    assert both - alone == pytest.approx(500 * 20_480 * 14 / (0.85 * 360e9))


def test_a_window_bounds_the_keys_that_are_read_and_seen() -> None:
    windowed = replace(SPEC, window_tokens=16)
    chunk = Segment(sequence=1, first_position=100, tokens=8, samples=0)

    read = frame_work(windowed, MIDDLE, Dtype.FP16, [chunk])
    near = frame_work(SPEC, MIDDLE, Dtype.FP16, [chunk._replace(first_position=15)])

    # Its first token sees 16 keys and its last one 16 too, so 23 are read: those of a chunk that
    # begins at position 15 without a window.
    assert read.read_bytes == near.read_bytes
    all_parameters_flop = 2 * 14 * SPEC.layer_parameters * 8
    assert read.flop == all_parameters_flop + 4 * 5120 * 14 * (8 * 16)


def test_a_long_chunk_is_bound_by_arithmetic_and_a_short_one_by_reading() -> None:
    def chunk_s(tokens: int) -> float:
        return takes_s(MIDDLE, Segment(sequence=1, first_position=0, tokens=tokens, samples=0))

    products_s = 2 * 14 * SPEC.layer_parameters * 512 / (0.75 * 25.5e12)
    assert chunk_s(512) == pytest.approx(products_s, rel=0.02)  # attention is the rest
    assert chunk_s(512) > products_s
    assert chunk_s(32) == pytest.approx(chunk_s(1), rel=0.01)


def test_attention_is_counted_for_each_token_and_what_it_sees() -> None:
    chunk = Segment(sequence=1, first_position=10, tokens=2, samples=0)

    work = frame_work(SPEC, MIDDLE, Dtype.FP16, [chunk])

    assert work.flop - 2 * 14 * SPEC.layer_parameters * 2 == 4 * 5120 * 14 * (11 + 12)


def test_what_is_scored_costs_the_heads_product_and_is_answered_token_by_token() -> None:
    chunk = Segment(sequence=1, first_position=0, tokens=8, samples=0)
    plain, scored = (frame_work(SPEC, LAST, Dtype.FP16, [chunk], count) for count in (0, 7))
    assert scored.flop - plain.flop == 2 * 7 * SPEC.head_parameters
    assert scored.read_bytes - plain.read_bytes == 2 * SPEC.head_parameters
    clock = ManualClock()
    what = replace(frame(chunk), scores={1: Score(first_position=1, tokens=(5, 6))})

    result = run(loaded(clock, LAST), what, clock)

    assert [(each.sequence, each.token) for each in result.scored] == [(1, 5), (1, 6)]
    assert result.sampled == ()


def test_the_head_is_read_only_where_it_is_and_when_a_row_is_sampled() -> None:
    silent = decode()._replace(samples=0)

    def read_bytes(stage: Stage, segment: Segment) -> int:
        return frame_work(SPEC, stage, Dtype.FP16, [segment]).read_bytes

    assert read_bytes(LAST, decode()) - read_bytes(LAST, silent) == 2 * SPEC.head_parameters
    assert read_bytes(FIRST, decode()) == read_bytes(FIRST, silent)


def test_fp32_reads_twice_as_much_and_multiplies_half_as_fast() -> None:
    chunk = Segment(sequence=1, first_position=0, tokens=512, samples=0)

    for segment in (decode(), chunk):
        twice = 2 * takes_s(MIDDLE, segment)
        assert takes_s(MIDDLE, segment, dtype=Dtype.FP32) == pytest.approx(twice)


# -- how it waits


def test_a_frame_ends_when_the_card_would_be_done_and_not_before() -> None:
    clock = ManualClock()
    result = run(loaded(clock), frame(decode()), clock)

    assert clock.now_s() == pytest.approx(takes_s(MIDDLE, decode()))
    assert result.time.compute_s == pytest.approx(clock.now_s())
    assert result.time.held_s == pytest.approx(clock.now_s())


def test_a_second_frame_waits_in_the_queue_for_the_first() -> None:
    clock = ManualClock()
    stage = loaded(clock)
    each_s = takes_s(MIDDLE, decode())
    taken = Taken(received_s=0.0, decode_s=0.0, started_s=0.0)
    first, second = (stage.launch(frame(decode()), opened(1), clock) for _ in range(2))

    first.finish(taken, clock)
    time = second.finish(taken, clock).time

    assert clock.now_s() == pytest.approx(2 * each_s)
    assert time.queue_s == pytest.approx(each_s)
    assert time.compute_s == pytest.approx(each_s)


def test_a_card_that_was_idle_does_not_catch_up() -> None:
    clock = ManualClock()
    stage = loaded(clock)
    run(stage, frame(decode()), clock)
    clock.advance(10.0)
    before_s = clock.now_s()

    time = run(stage, frame(decode()), clock).time

    assert clock.now_s() - before_s == pytest.approx(takes_s(MIDDLE, decode()))
    assert time.queue_s == 0.0


def test_a_late_wake_up_is_shown_and_not_called_compute() -> None:
    clock = ManualClock()
    stage = loaded(clock)
    taken = Taken(received_s=0.0, decode_s=0.0, started_s=0.0)
    launched = stage.launch(frame(decode()), opened(1), clock)
    clock.advance(takes_s(MIDDLE, decode()) + 0.003)

    time = launched.finish(taken, clock).time

    assert time.compute_s == pytest.approx(takes_s(MIDDLE, decode()))
    assert time.copy_out_s == pytest.approx(0.003)
    assert time.held_s == pytest.approx(clock.now_s())


class HeldClock(ManualClock):
    """Whoever sleeps is held back until the test lets go."""

    def __init__(self) -> None:
        super().__init__()
        self.released = threading.Event()

    def sleep_until(self, instant_s: float) -> None:
        assert self.released.wait(WAIT_S)
        super().sleep_until(instant_s)


def test_frames_pass_through_the_device_thread_in_order_without_holding_up_who_submits() -> None:
    clock = HeldClock()
    thread = DeviceThread(clock)
    results: list[FrameResult] = []
    came = threading.Semaphore(0)

    def reply(raw: bytes) -> None:
        results.append(decode_result(raw))
        came.release()

    session = Session(stage=loaded(clock), thread=thread, reply=reply, announce=lambda _in_s: None)
    session.table._open = {1: opened(1)[0]}
    for number in (1, 2, 3):
        ready = frame(decode(), number=number, payload=bytes(10_240))
        thread.submit(FrameJob(session=session, frame=ready, received_s=0.0, decode_s=0.0))
    all_launched = threading.Event()
    thread.call(all_launched.set)
    assert all_launched.wait(WAIT_S)
    assert results == []  # all three were taken, while the first one still "computes"
    clock.released.set()
    for _ in range(3):
        assert came.acquire(timeout=WAIT_S)
    thread.stop()

    each_s = takes_s(MIDDLE, decode())
    assert [result.frame for result in results] == [1, 2, 3]
    assert [result.time.queue_s for result in results] == pytest.approx([0, each_s, 2 * each_s])
    assert clock.now_s() == pytest.approx(3 * each_s)


# -- what comes back


def test_hidden_states_are_as_many_bytes_as_the_next_stage_needs() -> None:
    clock = ManualClock()
    chunk = Segment(sequence=1, first_position=0, tokens=7, samples=0)

    result = run(loaded(clock), frame(chunk), clock)

    assert len(result.payload) == 7 * 5120 * 2
    assert result.sampled == ()


def test_a_token_follows_from_seed_and_position_alone() -> None:
    def token(seed: int, position: int, beside: int) -> int:
        clock = ManualClock()
        segments = [decode(5 + i, sequence=2 + i) for i in range(beside)]
        what = frame(*segments, decode(position), number=beside + 1)
        result = run(loaded(clock, LAST), what, clock, seed=seed)
        assert result.payload == b""
        return result.sampled[-1].token

    assert token(seed=7, position=40, beside=0) == token(seed=7, position=40, beside=3)
    others = {token(7, 41, 0), token(8, 40, 0)}
    assert token(7, 40, 0) not in others


def test_only_segments_that_ask_for_a_token_get_one() -> None:
    clock = ManualClock()
    silent = decode()._replace(samples=0)

    result = run(loaded(clock, LAST), frame(silent, decode(sequence=2)), clock)

    assert [each.sequence for each in result.sampled] == [2]


def test_no_token_ends_a_text_or_lies_beyond_the_vocabulary(tmp_path: Path) -> None:
    source = open_model("llama-2-13b")
    ends = frozenset(made_up_token(source, 0, position) for position in range(0, 4000, 2))
    stopping = replace(source, eos_ids=ends)

    drawn = {made_up_token(stopping, 0, position) for position in range(4000)}

    assert not drawn & ends
    assert max(drawn) < source.spec.vocab
    assert len(drawn) > 1000


def test_a_guided_answer_gets_what_its_mask_allows(tmp_path: Path) -> None:
    source = open_model("llama-2-13b")
    allowed = ((1 << 5) | (1 << 300) | (1 << 31_999) | (1 << 32_007)).to_bytes(4001, "little")

    drawn = {made_up_token(source, 0, position, allowed) for position in range(200)}

    assert drawn == {5, 300, 31_999}


# -- what it is


def test_no_weights_are_needed_but_the_same_model_is(tmp_path: Path) -> None:
    clock = ManualClock()
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))

    stage = loaded(clock, cut((2, 2))[0], str(tmp_path))

    assert stage.loaded.slice_bytes == 2 * (2 * stage.source.spec.layer_parameters + 6400)
    other = replace(order(), spec_hash="another")
    with pytest.raises(WireError, match="give both the same folder"):
        load_paced(other, "llama-2-13b", device(clock), lambda _done, _total: None, clock)


def test_the_gateways_configuration_stands_for_its_folder_and_for_nothing_else(
    tmp_path: Path,
) -> None:
    clock, config = ManualClock(), json.dumps(CONFIG).encode()
    told = told_model("/gateway/only", config)
    asked = replace(
        order(cut((2, 2))[0]), model=told.reference, config=config, spec_hash=told.spec.spec_hash
    )

    def load(model: str) -> PacedStage:
        return load_paced(asked, model, device(clock), lambda _done, _total: None, clock)

    assert load(asked.model).source.spec == told.spec
    with pytest.raises(WireError, match="give both the same folder"):
        load("llama-2-13b")
    with pytest.raises(BadModel, match="neither a folder"):
        load(str(tmp_path / "typo"))


def test_layers_that_the_model_does_not_have_are_refused() -> None:
    with pytest.raises(WireError, match=r"\[0, 4000000000\) is none of a model of 40 layers"):
        loaded(ManualClock(), Stage(LayerRange(0, 4 * 10**9), embedding=True, head=False))


def test_its_slice_is_never_taken_for_one_that_computes() -> None:
    stage = loaded(ManualClock())

    assert stage.loaded.slice_hash.startswith("paced-rtx-3060-")


def test_the_same_order_is_held_and_another_is_not() -> None:
    stage = loaded(ManualClock())
    again = replace(stage.order, epoch=2)

    assert stage.holds(again, "llama-2-13b")
    assert not stage.holds(replace(again, pages=5), "llama-2-13b")
    assert not stage.holds(again, "llama-2-7b")


def test_three_paced_cards_get_the_plan_of_three_real_ones() -> None:
    paced = device(ManualClock())
    workers = [
        WorkerFacts(
            name=f"box{i}",
            memory_bytes=paced.memory_bytes,
            reserve_bytes=paced.reserve_bytes,
            read_bytes_per_s=paced.memory_bytes_per_s,
            is_gpu=True,
        )
        for i in range(3)
    ]

    plan = make_plan(SPEC, Dtype.FP16, workers, pages_max=10**6)

    assert plan.layer_counts == (13, 14, 13)
    # (11,906 MiB - 0.49 GB reserve - 14 layers of 634 MB) / (14 x 20,480 B x 16)
    assert plan.pages == 678


def test_a_paced_worker_says_so_and_computes_in_what_the_card_does() -> None:
    paced = device(ManualClock())

    assert (paced.kind, paced.name) == ("paced", "rtx-3060 (paced simulation)")
    assert paced.simulation == "paced simulation: rtx-3060"
    assert paced.dtypes == (Dtype.FP16, Dtype.BF16, Dtype.FP32)
    assert paced.memory_bytes == 11_906 * 2**20
    assert device(ManualClock(), memory=10**9).memory_bytes == 10**9
    computes = open_device(WorkerSettings(device="cpu", threads=1), ManualClock())
    assert (computes.kind, computes.simulation) == ("cpu", "")


def test_an_unknown_card_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(BadSettings, match=r"--pace 'rtx-9999'.*known are rtx-3060"):
        open_device(WorkerSettings(pace="rtx-9999"), ManualClock())
