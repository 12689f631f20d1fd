"""lm-eval's log-likelihoods through a gateway, beside those of its own `hf` backend.

Run by the Python of an environment with `lm-eval[api]`, transformers and PyTorch, and without
edgeserve. CHECKS is a list in JSON, so that what takes seconds to import is imported once:

    python lm_eval_check.py '[{"folder": ..., "url": ..., "arguments": {NAME: VALUE, ...}}, ...]'

`folder` is the model, which the gateway at `url` serves in fp32; `arguments` are those of lm-eval's
`local-completions`. The last line is a list in JSON of what was found by each check: how many
numbers were compared, the largest difference, and whether they agree.
"""

from __future__ import annotations

import functools
import json
import os
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

import lm_eval  # type: ignore[import-not-found]  # reads the environment
import torch
from lm_eval.tasks import TaskManager  # type: ignore[import-not-found]

ITEMS, TEXTS = 50, 8
TOLERANCE = 1e-4
"""Of a choice's log-likelihood, in fp32. That of a whole text, a thousand and more, has no such
digits: there it is a tenth of this, relative to it.
"""
OPENINGS = ("Once upon a time, there was a little", "The cat saw a", "They played in the")
"""Behind which some choices are the likeliest of all, as the demo model has it."""
WORDS = (
    "the a little big red old dog cat girl boy bird tree park house ball day happy sad went saw "
    "liked wanted played found said with and to in of was very sun water friend mother 7 12 ."
).split()
CHOICES = """
task: made_up_choices
output_type: multiple_choice
doc_to_text: question
doc_to_choice: choices
doc_to_target: label
target_delimiter: ""
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
ROLLING = """
task: made_up_texts
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: text
metric_list: [{metric: word_perplexity}]
"""
DATA = """
test_split: test
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
"""


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as tasks:
        os.environ["HF_DATASETS_CACHE"] = tasks
        write_tasks(Path(tasks))
        found = [check(each, tasks) for each in json.loads(sys.argv[1])]
    print(json.dumps(found))


def check(told: dict[str, Any], tasks: str) -> dict[str, Any]:
    folder, served = told["folder"], told["arguments"]
    theirs = evaluated_by_themselves(folder, served.get("add_bos_token"), tasks)
    at_gateway = {"model": "dummy", "max_length": "1024"}
    at_gateway["base_url"] = f"{told['url']}/v1/completions"
    if served.setdefault("tokenizer_backend", "huggingface") == "huggingface":
        at_gateway["tokenizer"] = folder
    ours = evaluated("local-completions", at_gateway | served, tasks)
    # A window of a long text that is written out need not be read back as the same tokens.
    sends_tokens = served.get("tokenized_requests") != "False"
    return report(theirs, ours, with_texts=sends_tokens)


def write_tasks(folder: Path) -> None:
    """The same ones each time."""
    draw = random.Random(5)
    items = [
        {
            "question": _words(draw, draw.randrange(1, 40)) + ". " + draw.choice(OPENINGS),
            "choices": [" " + _words(draw, draw.randrange(1, 6)) for _ in range(4)]
            + [" girl", " dog", " park"],
            "label": draw.randrange(4),
        }
        for _ in range(ITEMS)
    ]
    texts = [{"text": _words(draw, draw.randrange(1, 120))} for _ in range(TEXTS)]
    for name, rows, task in (("choices", items, CHOICES), ("texts", texts, ROLLING)):
        data = folder / f"{name}.jsonl"
        data.write_text("\n".join(json.dumps(row) for row in rows))
        (folder / f"{name}.yaml").write_text(task + DATA % data)


@functools.cache
def evaluated_by_themselves(
    folder: str, add_bos_token: str | None, tasks: str
) -> dict[str, list[Any]]:
    own = {"pretrained": folder, "dtype": "float32"}
    if add_bos_token is not None:
        own["add_bos_token"] = add_bos_token
    return evaluated("hf", own, tasks)


def evaluated(model: str, arguments: dict[str, str], tasks: str) -> dict[str, list[Any]]:
    """By task, what the model was found to say of each sample: a log-likelihood for each choice,
    and whether it would be chosen greedily.
    """
    # A command line's way, so that "true" and "16" become what they say.
    told = ",".join(f"{name}={value}" for name, value in arguments.items())
    results = lm_eval.simple_evaluate(
        model=model, model_args=told, tasks=["made_up_choices", "made_up_texts"], device="cpu",
        task_manager=TaskManager(include_path=tasks, include_defaults=False), log_samples=True,
    )  # fmt: skip
    return {
        task: [each["filtered_resps"] for each in sorted(found, key=lambda it: it["doc_id"])]
        for task, found in results["samples"].items()
    }


def report(
    theirs: dict[str, list[Any]], ours: dict[str, list[Any]], *, with_texts: bool
) -> dict[str, Any]:
    choices = [
        (own, other)
        for item, same in zip(theirs["made_up_choices"], ours["made_up_choices"], strict=True)
        for own, other in zip(item, same, strict=True)
    ]
    texts = list(zip(theirs["made_up_texts"], ours["made_up_texts"], strict=True))
    told: dict[str, Any] = {
        "items": len(theirs["made_up_choices"]),
        "choices": len(choices),
        "largest_difference": max(_difference(*each) for each in choices),
        "greedy": sum(_is_greedy(own) for own, _ in choices),
        "greedy_that_differ": sum(_is_greedy(own) != _is_greedy(other) for own, other in choices),
        "texts": len(texts),
        "largest_relative_difference": max(_difference(*e) / abs(_number(e[0])) for e in texts),
    }
    told["agree"] = (
        told["largest_difference"] <= TOLERANCE
        and (not with_texts or told["largest_relative_difference"] <= TOLERANCE / 10)
        and told["greedy_that_differ"] == 0
    )
    return told


def _number(found: Any) -> float:
    """A log-likelihood, which lm-eval keeps as a number or a text, alone or with more."""
    return float(found[0] if isinstance(found, list | tuple) else found)


def _difference(own: Any, other: Any) -> float:
    return abs(_number(own) - _number(other))


def _is_greedy(choice: Any) -> bool:
    return str(choice[1]) == "True"


def _words(draw: random.Random, count: int) -> str:
    return " ".join(draw.choice(WORDS) for _ in range(count))


if __name__ == "__main__":
    main()
