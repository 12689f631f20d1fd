"""The whole probe, over real HTTP, against a gateway that answers by script."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeserve.errors import BadRequest, EdgeserveError, StageUnavailable, Unauthorized, WireError
from edgeserve.probe.command import ProbeOptions, run_probe
from tests.probe.fake_gateway import FakeGateway, receipt, times

Probe = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def probe(gateway: FakeGateway, capsys: pytest.CaptureFixture[str]) -> Probe:
    """Runs it with --json; gives exit code and document."""

    def run(**options: Any) -> tuple[int, dict[str, Any]]:
        code = run_probe(small(gateway.url, as_json=True, **options))
        return code, json.loads(capsys.readouterr().out)

    return run


def small(url: str, **options: Any) -> ProbeOptions:
    defaults = {"batch": "1-2", "input_tokens": 8, "output_tokens": 4, "runs": 1}
    return ProbeOptions(url=url, **{**defaults, **options})


def refused(gateway: FakeGateway, **options: Any) -> EdgeserveError:
    with pytest.raises(EdgeserveError) as caught:
        run_probe(small(gateway.url, **options))
    return caught.value


# -- what it asks


def test_a_batch_is_that_many_requests_at_once(gateway: FakeGateway, probe: Probe) -> None:
    gateway.meets = 5

    code, _ = probe(batch="5", silence_s=10)  # one by one they would wait for ever

    assert code == 0
    assert gateway.running_max == 5


def test_each_batch_is_warmed_up_once_and_then_run(gateway: FakeGateway, probe: Probe) -> None:
    probe(batch="1,3", runs=2, output_tokens=12)

    tokens = [asked["parameters"]["max_new_tokens"] for asked in gateway.asked]
    assert tokens == [8] + [12] * 2 + [8] * 3 + [12] * 6


def test_every_request_asks_for_exactly_that_many_tokens(
    gateway: FakeGateway, probe: Probe
) -> None:
    probe(batch="1", input_tokens=9)

    assert gateway.asked[-1]["parameters"] == {
        "truncate": 9, "max_new_tokens": 4, "ignore_eos": True, "details": True,
        "speculate": False,
    }  # fmt: skip
    assert len(gateway.asked[-1]["inputs"].split()) >= 9


def test_no_two_requests_share_a_beginning_not_even_of_two_probes(
    gateway: FakeGateway, probe: Probe
) -> None:
    probe(batch="1-4", runs=2)
    probe(batch="1-4", runs=2)

    beginnings = {tuple(asked["inputs"].split()[:8]) for asked in gateway.asked}
    assert len(beginnings) == len(gateway.asked) == 2 * 3 * (1 + 2 + 3 + 4)


def test_drafted_tokens_are_measured_beside_the_plain_pace(
    gateway: FakeGateway, probe: Probe
) -> None:
    _, document = probe(batch="1-2", speculate=True)

    speculates = [asked["parameters"]["speculate"] for asked in gateway.asked]
    assert speculates == [False] * 2 + [True] * 2 + [False] * 4 + [True] * 4
    for row in document["rows"]:
        assert row["drafted"]["output_tok_s"] > 0
        assert row["tokens_per_lap"] == row["drafted"]["tokens_per_lap"] == 1.0


def test_the_key_is_sent_with_every_request(gateway: FakeGateway, probe: Probe) -> None:
    probe(api_key="hush")

    assert gateway.keys == {"Bearer hush"}


# -- what it says


def test_a_healthy_cluster_passes(probe: Probe) -> None:
    code, document = probe(batch="1-3", runs=2)

    assert code == 0
    assert document["verdict"]["pass"] is True
    assert [each["batch"] for each in document["rows"]] == [1, 2, 3]
    assert {each["status"] for each in document["rows"]} == {"ok"}
    assert document["model"] == "demo"
    assert document["weights"] == "random"
    assert [each["worker"] for each in document["stages"]] == ["box0:50051", "box1:50051"]


def test_the_times_are_those_that_the_client_saw(gateway: FakeGateway, probe: Probe) -> None:
    """Tokens come every 10 ms, or later on a busy machine."""
    gateway.token_s = 0.01

    _, document = probe(batch="1", output_tokens=6)
    (row,) = document["rows"]

    assert row["tpot_ms"]["p50"] > 9
    assert row["ttft_ms"]["p50"] > 9
    assert row["tok_s_per_user"] == pytest.approx(1e3 / row["tpot_ms"]["p50"], rel=1e-3)
    # 6 tokens in ttft + 5 x tpot
    total_ms = row["ttft_ms"]["p50"] + 5 * row["tpot_ms"]["p50"]
    assert row["output_tok_s"] == pytest.approx(6e3 / total_ms, rel=1e-3)


def test_a_tokens_parts_are_those_of_its_receipt(probe: Probe) -> None:
    _, document = probe(batch="1")
    (row,) = document["rows"]

    assert [row[f"{kind}_ms"] for kind in ("compute", "transfer", "waiting", "other")] == [
        9,
        1,
        0,
        0,
    ]
    assert row["kv_tokens_in_use"] == 16  # 8 + 4 tokens are one page
    assert row["receipts_add_up"] is True


def test_json_is_one_line_and_all_that_stdout_has(
    gateway: FakeGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    run_probe(small(gateway.url, as_json=True))

    out, err = capsys.readouterr()
    assert out.count("\n") == 1
    assert json.loads(out)["rows"]
    assert "batch 2: run 1 of 1" in err


def test_people_get_a_table(gateway: FakeGateway, capsys: pytest.CaptureFixture[str]) -> None:
    run_probe(small(gateway.url))

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "demo, fp32, weights: random, 2 stages of 1/1 layers, 2 x 2 cores"
    assert lines[-1] == "verdict: pass"


@pytest.mark.slow
def test_a_picture_is_written_if_asked_for(
    gateway: FakeGateway, probe: Probe, tmp_path: Path
) -> None:
    probe(plot=tmp_path / "probe.png")

    assert (tmp_path / "probe.png").stat().st_size > 1000


# -- what fails the verdict


def test_receipts_that_do_not_add_up_fail(gateway: FakeGateway, probe: Probe) -> None:
    def short_of_a_millisecond(prompt: int, answer: int) -> dict[str, Any]:
        document = receipt(prompt, answer)
        document["per_token"][-1] = times(10.0, compute=9.0)
        return document

    gateway.make_receipt = short_of_a_millisecond
    code, document = probe()

    assert code == 1
    assert [each["receipts_add_up"] for each in document["rows"]] == [False, False]
    assert "miss its total by 10.0 %" in document["verdict"]["reasons"][0]


def test_prompts_of_another_length_fail(gateway: FakeGateway, probe: Probe) -> None:
    gateway.make_receipt = lambda _prompt, answer: receipt(5, answer)
    code, document = probe(batch="1")

    assert code == 1
    assert "prompts had 5 to 5 tokens, not the 8 asked for" in document["verdict"]["reasons"][0]


def test_answers_that_end_early_fail(gateway: FakeGateway, probe: Probe) -> None:
    gateway.answer_tokens = 3
    code, document = probe(batch="1")

    assert code == 1
    assert "answers had 3 to 3 tokens, not the 4 asked for" in document["verdict"]["reasons"][0]


def test_a_batch_that_is_rejected_is_the_last_one_and_fails(
    gateway: FakeGateway, probe: Probe
) -> None:
    body = {"error": "2 requests wait already; try again in 1 s", "error_type": "overloaded"}
    # Batches 1 and 2 are 2 + 4 requests, with their warm-ups: the ninth is the third of batch 3.
    gateway.refuse = lambda _running: (429, body) if len(gateway.asked) == 9 else None
    code, document = probe(batch="1-8")

    assert code == 1
    assert [(each["batch"], each["status"]) for each in document["rows"]] == [
        (1, "ok"), (2, "ok"), (3, "rejected"),
    ]  # fmt: skip
    assert document["rows"][2]["reason"] == (
        "1 of 3 requests: 429: 2 requests wait already; try again in 1 s"
    )


def test_what_never_fits_is_rejected_with_the_servers_arithmetic(
    gateway: FakeGateway, probe: Probe
) -> None:
    body = {"error": "8 + 4 tokens are more than the 10 of the context", "error_type": "validation"}
    gateway.refuse = lambda _running: (422, body)
    code, document = probe(batch="1")

    assert code == 1
    assert document["rows"][0]["status"] == "rejected"
    assert "8 + 4 tokens are more than the 10" in document["verdict"]["reasons"][0]


@pytest.mark.parametrize("in_stream", [False, True])
def test_running_out_of_memory_is_a_row_of_its_own(
    gateway: FakeGateway, probe: Probe, in_stream: bool
) -> None:
    body = {"error": "stage 1: CUDA out of memory", "error_type": "stage_unavailable"}
    if in_stream:
        gateway.breaks_with = body
    else:
        gateway.refuse = lambda _running: (503, body)
    code, document = probe(batch="1")

    assert code == 1
    assert document["rows"][0]["status"] == "oom"
    assert "stage 1: CUDA out of memory" in document["rows"][0]["reason"]


# -- what ends the probe


def test_a_lost_stage_ends_the_probe(gateway: FakeGateway) -> None:
    body = {"error": "stage 1 on box1:50051 is lost", "error_type": "stage_unavailable"}
    gateway.refuse = lambda _running: (503, body)

    error = refused(gateway)

    assert isinstance(error, StageUnavailable)
    assert error.exit_code == 3
    assert "stage 1 on box1:50051 is lost" in str(error)


def test_a_stage_that_is_lost_in_the_middle_ends_the_probe(gateway: FakeGateway) -> None:
    gateway.breaks_with = {"error": "stage 0 is lost", "error_type": "stage_unavailable"}

    assert refused(gateway).exit_code == 3


def test_a_gateway_that_falls_silent_ends_the_probe_although_it_keeps_alive(
    gateway: FakeGateway,
) -> None:
    gateway.hangs_after = 2

    error = refused(gateway, silence_s=0.15)

    assert isinstance(error, StageUnavailable)
    assert "has sent nothing for 0.15 s" in str(error)


def test_a_gateway_that_accepts_and_says_nothing_ends_the_probe() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        options = small(f"http://127.0.0.1:{deaf.getsockname()[1]}", silence_s=0.15)

        with pytest.raises(StageUnavailable, match="has sent nothing for 0.15 s"):
            run_probe(options)


def test_no_gateway_ends_the_probe_and_says_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"

    with pytest.raises(StageUnavailable, match=r"no gateway answers at .*edgeserve up"):
        run_probe(small(url))


def test_a_wrong_key_is_bad_usage(gateway: FakeGateway) -> None:
    body = {"error": "no key was sent", "error_type": "unauthorized"}
    gateway.refuse = lambda _running: (401, body)

    error = refused(gateway)

    assert isinstance(error, Unauthorized)
    assert error.exit_code == 2


def test_a_gateway_that_sends_more_than_was_asked_for_is_not_listened_to_for_ever(
    gateway: FakeGateway,
) -> None:
    gateway.answer_tokens = 1000

    error = refused(gateway)

    assert isinstance(error, WireError)
    assert "more than the 4 tokens asked for" in str(error)


def test_a_stream_without_a_receipt_is_no_answer(gateway: FakeGateway) -> None:
    gateway.breaks_with = {"token": {"id": 1, "text": "x"}}

    assert "without a receipt" in str(refused(gateway))


def test_a_cluster_that_cannot_describe_itself_ends_the_probe(gateway: FakeGateway) -> None:
    gateway.cluster_status = 503
    gateway.cluster = {"error": "box2:50051 does not answer", "error_type": "stage_unavailable"}

    assert "box2:50051 does not answer" in str(refused(gateway))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"batch": "1-x"}, "--batch '1-x': '1-x' is neither N nor N-M"),
        ({"url": "localhost:8000"}, "--url 'localhost:8000' is not a URL"),
        ({"url": "http://127.0.0.1:80:80"}, "is not a URL"),
        ({"output_tokens": 1}, "--output-tokens 1: at least 2"),
        ({"runs": 0}, "at least 1"),
        ({"input_tokens": 0}, "at least 1"),
        ({"plot": Path("x.gif")}, "only .png"),
    ],
)
def test_bad_usage_is_refused_before_anything_is_sent(options: dict[str, Any], says: str) -> None:
    with pytest.raises(BadRequest) as caught:
        run_probe(small(**{"url": "http://127.0.0.1:1", **options}))

    assert says in str(caught.value)
    assert caught.value.exit_code == 2
