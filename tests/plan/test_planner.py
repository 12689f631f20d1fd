"""A plan for a cluster, and what is said to somebody whose cluster is too small."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgeserve.cost.reserve import workspace
from edgeserve.errors import BadRequest, DoesNotFit
from edgeserve.families.spec import Dtype, ModelSpec, Rotary
from edgeserve.plan.facts import Plan, WorkerFacts
from edgeserve.plan.planner import default_pages_max, make_plan

GB = 10**9
RESERVE_BYTES = 6 * 10**8
SPEC = ModelSpec(  # Llama-2 13B
    family="llama",
    layers=40,
    hidden=5120,
    heads=40,
    kv_heads=40,
    head_dim=128,
    ffn_hidden=13824,
    vocab=32000,
    context_tokens=4096,
    norm_eps=1e-5,
    positions=Rotary(dims=128, theta=10000.0),
)


def plan(*memory_gb: float, dtype: Dtype = Dtype.FP16, pages_max: int = 10**6) -> Plan:
    return make_plan(SPEC, dtype, boxes(*memory_gb), pages_max=pages_max)


def boxes(*memory_gb: float) -> list[WorkerFacts]:
    return [
        WorkerFacts(
            name=f"box{i}:50051",
            memory_bytes=int(memory * GB),
            reserve_bytes=RESERVE_BYTES,
        )
        for i, memory in enumerate(memory_gb)
    ]


def refusal(*memory_gb: float, dtype: Dtype = Dtype.FP16) -> DoesNotFit:
    with pytest.raises(DoesNotFit) as caught:
        plan(*memory_gb, dtype=dtype)
    return caught.value


# -- what fits


def test_the_reference_cluster_has_room_for_thousands_of_tokens() -> None:
    made = plan(12, 12, 12)

    assert made.layer_counts == (13, 14, 13)
    assert [each.worker for each in made.stages] == ["box0:50051", "box1:50051", "box2:50051"]
    # (12 GB - 0.6 GB reserve - 14 layers of 634 MB) / (14 x 20,480 B x 16) = 548 pages
    assert [each.pages_fit for each in made.stages] == [663, 548, 663]
    assert made.pages == 548
    assert made.kv_tokens == 8768


def test_stages_cover_the_layers_with_embedding_first_and_head_last() -> None:
    stages = [each.stage for each in plan(12, 12, 12).stages]

    assert [(s.layers.start, s.layers.end) for s in stages] == [(0, 13), (13, 27), (27, 40)]
    assert [s.embedding for s in stages] == [True, False, False]
    assert [s.head for s in stages] == [False, False, True]


def test_slices_and_what_is_left_fill_the_box() -> None:
    for each in plan(12, 16, 12).stages:
        memory = 16 * GB if each.worker.startswith("box1") else 12 * GB

        assert each.slice_bytes + each.free_bytes + 600_000_000 == memory


def test_no_more_pages_than_can_be_used() -> None:
    assert plan(80, 80, 80, pages_max=256).pages == 256
    assert plan(80, 80, 80).pages > 5000


def test_the_most_pages_are_those_of_sequences_as_long_as_the_context() -> None:
    assert default_pages_max(SPEC, 64) == 64 * 256
    assert default_pages_max(replace(SPEC, context_tokens=100), 2) == 2 * 7


TIGHT = boxes(9.30, 9.52, 9.30)  # weights, reserve, and pages for 128 tokens


def test_room_for_a_short_question_and_its_answer_is_asked_for() -> None:
    with pytest.raises(DoesNotFit, match="512 tokens of keys and values"):
        make_plan(SPEC, Dtype.FP16, TIGHT, pages_max=10**6)


def test_a_model_with_a_short_context_needs_room_for_no_more_than_that() -> None:
    short = replace(SPEC, context_tokens=32)

    assert make_plan(short, Dtype.FP16, TIGHT, pages_max=10**6).pages == 8


def test_no_room_is_asked_for_that_could_not_be_used() -> None:
    assert make_plan(SPEC, Dtype.FP16, TIGHT, pages_max=4).pages == 4


# -- a cut that was asked for


def test_layers_that_are_given_are_the_cut() -> None:
    made = make_plan(SPEC, Dtype.FP16, boxes(24, 24, 24), pages_max=9, layers=(10, 10, 20))

    assert made.layer_counts == (10, 10, 20)


def test_given_layers_that_do_not_fit_are_answered_with_a_cut_that_does() -> None:
    with pytest.raises(DoesNotFit) as caught:
        make_plan(SPEC, Dtype.FP16, boxes(12, 12, 12), pages_max=9, layers=(20, 10, 10))

    assert "Cut as 20/10/10, stage 0 on box0:50051" in str(caught.value)
    assert str(caught.value).endswith("What would help: the cut 13/14/13, which fits")


@pytest.mark.parametrize("layers", [(20, 20), (13, 13, 13), (20, 20, 0), (-1, 21, 20)])
def test_given_layers_that_are_not_the_models_are_refused(layers: tuple[int, ...]) -> None:
    with pytest.raises(BadRequest, match="has 40 layers and there are 3 workers"):
        make_plan(SPEC, Dtype.FP16, boxes(24, 24, 24), pages_max=9, layers=layers)


# -- what does not


def test_a_refusal_says_how_much_is_missing_where_and_what_would_help() -> None:
    error = refusal(12, 12)

    # 26.03 GB of weights, 2 x 0.6 GB reserve, 0.42 GB for 512 tokens; two boxes have 24 GB.
    assert error.numbers["missing_bytes"] == 3_651_159_040
    assert str(error) == (
        "the model in fp16 does not fit: the workers lack 3.7 GB in all. Cut as 20/20, stage 1 on "
        "box1:50051 (layers [20, 40) + head) needs 13.8 GB (weights 13.0 GB, reserve 0.6 GB, 512 "
        "tokens of keys and values 0.2 GB), and has 12.0 GB. What would help: 1 more worker of "
        "12.0 GB"
    )


def test_where_loading_takes_more_than_the_fewest_tokens_it_is_what_a_refusal_names() -> None:
    cards = [replace(each, is_gpu=True) for each in boxes(7.5, 7.5)]
    with pytest.raises(DoesNotFit) as caught:
        make_plan(SPEC, Dtype.INT8, cards, pages_max=10**6)

    # 20 layers take 0.2 GB for 512 tokens; the largest matrix in bf16 and its rounding 0.4 GB.
    assert "rounding the weights to int8 while they are loaded 0.4 GB)" in str(caught.value)
    assert "keys and values" not in str(caught.value)


def test_the_stages_that_lack_memory_travel_as_numbers() -> None:
    stages = refusal(12, 12).numbers["stages"]

    assert [each["layers"] for each in stages] == [[0, 20], [20, 40]]
    assert all(each["needed_bytes"] > each["memory_bytes"] == 12 * GB for each in stages)


def test_a_smaller_type_is_offered_only_if_it_would_fit() -> None:
    assert "2 more workers of 12.0 GB, or fp16 or bf16 in place of fp32" in str(
        refusal(12, 12, 12, dtype=Dtype.FP32)
    )
    assert "in place of" not in str(refusal(12, 12, dtype=Dtype.FP32))


@pytest.mark.parametrize("memory_gb", [4, 6, 8, 10, 12, 14.5])
def test_as_many_more_workers_as_are_offered_fit_and_no_fewer(memory_gb: float) -> None:
    more = refusal(memory_gb, memory_gb / 2, dtype=Dtype.FP16).numbers["more_workers"]
    names = boxes(memory_gb, memory_gb / 2, *[memory_gb] * more)

    assert make_plan(SPEC, Dtype.FP16, names, pages_max=10**6).pages >= 32
    with pytest.raises(DoesNotFit):
        make_plan(SPEC, Dtype.FP16, names[:-1], pages_max=10**6)


def test_a_box_without_room_for_a_layer_is_named() -> None:
    assert str(refusal(24, 1, 12)).endswith("Leave out box1:50051 (no room for one layer)")
    assert str(refusal(12, 1, 12)).endswith(
        "Leave out box1:50051 (no room for one layer), and add: 1 more worker of 12.0 GB"
    )


def test_where_boxes_hold_no_layer_more_of_them_are_not_offered() -> None:
    error = refusal(1, 1)

    assert error.numbers["more_workers"] is None
    assert "More such workers would not help: 1.0 GB is too little" in str(error)


def test_more_workers_than_layers_are_a_bad_request() -> None:
    with pytest.raises(BadRequest, match=r"41 workers, but the model has 40 layers"):
        plan(*[12] * 41)


def test_no_workers_are_a_bad_request() -> None:
    with pytest.raises(BadRequest, match="at least one worker"):
        plan()


def test_what_a_gpu_computes_with_is_reserved_beside_its_runtime() -> None:
    facts = WorkerFacts(name="gpu", memory_bytes=40 * GB, reserve_bytes=GB // 2, is_gpu=True)

    one = make_plan(SPEC, Dtype.FP16, [facts], pages_max=10**6, frame_tokens_max=128)
    longer = make_plan(SPEC, Dtype.FP16, [facts], pages_max=10**6, frame_tokens_max=1024)
    first, last = make_plan(SPEC, Dtype.FP16, [facts] * 2, pages_max=10**6).stages

    for plan_ in (one, longer):
        [stage] = plan_.stages
        taken = workspace(SPEC, stage.stage, Dtype.FP16, plan_.frame_tokens_max)
        assert stage.reserve_bytes == GB // 2 + taken.bytes
        assert stage.free_bytes == 40 * GB - stage.slice_bytes - stage.reserve_bytes
    assert longer.stages[0].reserve_bytes > one.stages[0].reserve_bytes
    assert last.reserve_bytes > first.reserve_bytes, "the head has logits"
