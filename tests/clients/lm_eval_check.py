"""lm-eval's log-likelihoods through a gateway, beside those of its own `hf` backend.

Run by the Python of an environment with `lm-eval[api]`, transformers and PyTorch, and without
edgeserve. FOLDER is the model, which the gateway at URL serves in fp32; each NAME=VALUE is an
argument of lm-eval's `local-completions`.

    python lm_eval_check.py FOLDER URL [NAME=VALUE ...]

The last line is JSON: how many numbers were compared, and the largest difference. The exit code is
1 if it is too large.
"""

from __future__ import annotations

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


def main() -> int:
    folder, url, *named = sys.argv[1:]
    served = dict(each.split("=", 1) for each in named)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as tasks:
        os.environ["HF_DATASETS_CACHE"] = tasks
        write_tasks(Path(tasks))
        own = {"pretrained": folder, "dtype": "float32"}
        if "add_bos_token" in served:
            own["add_bos_token"] = served["add_bos_token"]
        theirs = evaluated("hf", own, tasks)
        at_gateway = {"base_url": f"{url}/v1/completions", "model": "dummy", "max_length": "1024"}
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


def report(theirs: dict[str, list[Any]], ours: dict[str, list[Any]], *, with_texts: bool) -> int:
    choices = [
        (own, other)
        for item, same in zip(theirs["made_up_choices"], ours["made_up_choices"], strict=True)
        for own, other in zip(item, same, strict=True)
    ]
    texts = list(zip(theirs["made_up_texts"], ours["made_up_texts"], strict=True))
    told = {
        "items": len(theirs["made_up_choices"]),
        "choices": len(choices),
        "largest_difference": max(_difference(*each) for each in choices),
        "greedy": sum(_is_greedy(own) for own, _ in choices),
        "greedy_that_differ": sum(_is_greedy(own) != _is_greedy(other) for own, other in choices),
        "texts": len(texts),
        "largest_relative_difference": max(_difference(*e) / abs(_number(e[0])) for e in texts),
    }
    print(json.dumps(told))
    return int(
        told["largest_difference"] > TOLERANCE
        or (with_texts and told["largest_relative_difference"] > TOLERANCE / 10)
        or told["greedy_that_differ"] > 0
    )


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
    sys.exit(main())
