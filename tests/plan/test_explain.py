"""The explanation says what the plan says, to people and to programs alike."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from edgeserve.errors import BadModel, BadRequest, DoesNotFit
from edgeserve.families.folder import open_model
from edgeserve.families.shapes import SHAPES
from edgeserve.families.spec import Dtype
from edgeserve.hugging_face.find import find_model
from edgeserve.plan.command import parse_dtype, parse_workers, run_plan
from edgeserve.plan.explain import explain, plan_lines, to_json, to_text
from edgeserve.plan.facts import Plan
from edgeserve.plan.planner import make_plan

THREE_BOXES = """\
llama-2-13b, fp16, weights: random: 40 layers over 3 workers as 13/14/13

stage  worker    holds                         slice  reserve     left   KV/token  tokens    reads
    0  worker 0  embedding + layers [0, 13)  8.57 GB  0.49 GB  2.94 GB  266,240 B  11,024  8.25 GB
    1  worker 1  layers [13, 27)             8.88 GB  0.49 GB  2.63 GB  286,720 B   9,168  8.88 GB
    2  worker 2  layers [27, 40) + head      8.58 GB  0.54 GB  2.89 GB  266,240 B  10,832  8.58 GB

keys and values of 9,168 tokens fit (573 pages of 16), 819,200 B each
the model reads at most 4,096 tokens of one sequence

sequences at once  longest prompt + output each
                1                  4,096 tokens
                2                  4,096 tokens
                4                  2,288 tokens
                8                  1,136 tokens
               16                    560 tokens
               24                    368 tokens
               32                    272 tokens
               48                    176 tokens
               64                    128 tokens
               96                     80 tokens
              128                     64 tokens

floor at 360 GB/s (RTX 3060): a step reads 25.7 GB of weights: 71.4 ms,
so one sequence gets at most 14.0 tokens per second. Information, not a promise"""


SHAPE = open_model("llama-2-13b")


def plan(memory: str = "12GB", pages_max: int = 10**6) -> Plan:
    facts = parse_workers(3, memory)
    return make_plan(SHAPES["llama-2-13b"], Dtype.FP16, facts, pages_max=pages_max)


def test_the_reference_cluster_is_explained() -> None:
    assert run_plan(SHAPE, 3, "12GB", "fp16", as_json=False) == THREE_BOXES


def test_the_document_holds_the_same_figures() -> None:
    document = json.loads(run_plan(SHAPE, 3, "12GB", "fp16", as_json=True))

    assert document["layer_counts"] == [13, 14, 13]
    assert document["kv_tokens"] == 9168
    assert document["weights"] == "random"
    assert [each["holds"] for each in document["stages"]] == [
        "embedding + layers [0, 13)",
        "layers [13, 27)",
        "layers [27, 40) + head",
    ]
    assert sum(each["slice_bytes"] for each in document["stages"]) == document["slice_bytes"]
    assert {"sequences": 8, "tokens_each": 1136} in document["contexts"]
    assert document["floor"]["label"] == "floor at 360 GB/s (RTX 3060)"
    assert document["floor"]["step_ms"] == 71.4
    assert document["floor"]["tok_s_at_batch_1"] == 14.01


def test_the_document_is_one_line() -> None:
    assert "\n" not in run_plan(SHAPE, 3, "12GB", "fp16", as_json=True)


def test_every_row_of_the_table_fits_the_pages_and_one_page_more_each_would_not() -> None:
    made = plan()
    told = explain(made, SHAPE)

    for row in told.contexts:
        pages_each = row.tokens_each // 16
        assert pages_each * row.sequences <= made.pages
        assert (pages_each + 1) * row.sequences > made.pages or row.tokens_each == 4096


def test_no_row_promises_a_sequence_less_than_a_page() -> None:
    told = explain(plan(pages_max=5), SHAPE)

    assert [(row.sequences, row.tokens_each) for row in told.contexts] == [
        (1, 80),
        (2, 32),
        (4, 16),
    ]


def test_real_weights_are_not_called_random() -> None:
    told = explain(plan(), replace(SHAPE, name="my-model", folder=Path("my-model")))

    assert (to_json(told)["weights"], to_json(told)["revision"]) == ("real", None)
    assert to_text(told).startswith("my-model, fp16: 40 layers")


def test_a_model_of_the_hub_is_shown_with_its_commit() -> None:
    source = replace(SHAPE, name="org/name", folder=Path("cache"), revision="c0ffee")
    told = explain(plan(), source)

    assert to_json(told)["revision"] == "c0ffee"
    assert to_text(told).startswith("org/name@c0ffee, fp16: 40 layers")


def test_what_is_ignored_of_a_models_files_is_noted() -> None:
    told = explain(plan(), replace(SHAPE, warnings=("one thing", "another")))

    assert to_json(told)["warnings"] == ("one thing", "another")
    assert to_text(told).endswith("\n\nnote: one thing\nnote: another")
    assert "note" not in to_text(explain(plan(), SHAPE))


def test_a_starting_gateway_shows_stages_and_room() -> None:
    lines = plan_lines(plan())

    assert len(lines) == 1 + 3 + 1
    assert lines[2] == "    1  worker 1  layers [13, 27)             8.88 GB"
    assert lines[-1] == "keys and values of 9,168 tokens fit (573 pages of 16)"


# -- the command


def test_boxes_may_differ_in_memory() -> None:
    document = json.loads(run_plan(SHAPE, 3, "8GB,24GB,12GB", "fp16", as_json=True))

    assert document["layer_counts"] == [11, 15, 14]


def test_auto_is_the_type_of_the_checkpoint() -> None:
    assert run_plan(SHAPE, 3, "12GB", "auto", as_json=False) == THREE_BOXES
    assert parse_dtype("auto", Dtype.BF16) is Dtype.BF16


@pytest.mark.parametrize(
    ("workers", "memory", "dtype", "says"),
    [
        (3, "12GB,24GB", "fp16", "--memory '12GB,24GB' has 2 amounts, but --workers is 3"),
        (3, "12 apples", "fp16", "--memory: '12 apples' is not an amount"),
        (3, "12GB", "int2", "--dtype 'int2' is none of auto, fp32, bf16, fp16, int8, int4"),
        (41, "12GB", "fp16", "41 workers, but the model has 40 layers"),
    ],
)
def test_bad_usage_says_which_flag_and_what(
    workers: int, memory: str, dtype: str, says: str
) -> None:
    with pytest.raises(BadRequest) as caught:
        run_plan(SHAPE, workers, memory, dtype, as_json=False)

    assert says in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_cluster_that_is_too_small_is_not_bad_usage() -> None:
    with pytest.raises(DoesNotFit) as caught:
        run_plan(SHAPE, 2, "12GB", "fp16", as_json=False)

    assert caught.value.exit_code == 3


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(BadModel, match="llama-2-13b"):
        find_model("llama-2-13")
