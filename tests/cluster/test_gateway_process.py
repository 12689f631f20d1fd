"""A gateway process on three worker processes, as its HTTP clients meet it."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import sentencepiece

from edgeserve.config import Address
from tests.cluster.conftest import StartGateway, TinyModel
from tests.cluster.processes import START_S, Cluster, freeze, thaw

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(90)]

PROMPT = "once upon a time"
LAYERS = ("--layers", "1,2,1")
CONTEXT = 4096
CUT = [[0, 1], [1, 3], [3, 4]]


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=30, limits=limits, trust_env=False) as client:
        yield client


@pytest.fixture(scope="module")
def shared(workers: tuple[Address, ...], talker: TinyModel, module_gateway: StartGateway) -> str:
    """The URL of a gateway that no test here may harm."""
    child = module_gateway(workers, talker.folder, *LAYERS)
    return child.wait_until_announced(START_S)


# -- answers


async def test_the_text_is_what_transformers_would_have_said(
    shared: str, talker: TinyModel, client: httpx.AsyncClient
) -> None:
    answer = await _generate(client, shared, max_new_tokens=20, details=True)
    pieces = sentencepiece.SentencePieceProcessor(model_file=f"{talker.folder}/tokenizer.model")
    prompt = (1, *pieces.encode(PROMPT))
    expected = talker.greedy(prompt, 20)
    assert [token["id"] for token in answer["details"]["tokens"]] == expected
    joined = "".join(token["text"] for token in answer["details"]["tokens"])
    assert joined == answer["generated_text"]
    assert answer["details"]["finish_reason"] == "length"
    assert answer["details"]["generated_tokens"] == 20


async def test_a_stream_says_the_same_token_by_token(
    shared: str, client: httpx.AsyncClient
) -> None:
    whole = await _generate(client, shared, max_new_tokens=20, details=True)
    async with _stream(client, shared, max_new_tokens=20) as stream:
        events = [each async for each in stream]
    assert [each["token"] for each in events] == whole["details"]["tokens"]
    assert events[-1]["generated_text"] == whole["generated_text"]
    assert events[-1]["details"]["finish_reason"] == "length"
    assert "timing" in events[-1]


@pytest.mark.parametrize("prompt", [PROMPT, PROMPT * 20], ids=["one chunk", "many chunks"])
async def test_receipts_add_up(shared: str, client: httpx.AsyncClient, prompt: str) -> None:
    receipts = [
        (await _generate(client, shared, prompt, max_new_tokens=15))["timing"],
        *(
            each["timing"]
            for each in await asyncio.gather(
                *(_generate(client, shared, prompt, max_new_tokens=15) for _ in range(4))
            )
        ),
    ]
    for receipt in receipts:
        for part in (*receipt["per_token"], receipt["prefill"], receipt["decode"]):
            assert _parts_ms(part) == pytest.approx(part["total_ms"], rel=0.01, abs=2e-3)
            assert min(part[kind] for kind in PARTS) >= 0
        phases_ms = receipt["prefill"]["total_ms"] + receipt["decode"]["total_ms"]
        assert phases_ms + receipt["queue_ms"] == pytest.approx(receipt["total_ms"], rel=0.01)
        assert len(receipt["per_token"]) == 15
        assert receipt["decode"]["tokens"] + 1 == 15 or receipt["decode"]["tokens"] == 15
        assert [each["layers"] for each in receipt["stages"]] == CUT
        assert all(each["compute_ms"] > 0 for each in receipt["stages"])
        compute_ms = receipt["prefill"]["compute_ms"] + receipt["decode"]["compute_ms"]
        stages_ms = sum(each["compute_ms"] for each in receipt["stages"])
        assert stages_ms == pytest.approx(compute_ms, rel=0.01)
        assert receipt["verdict"]


async def test_a_receipt_says_no_more_than_the_client_waited(
    shared: str, client: httpx.AsyncClient
) -> None:
    shares = []
    for _ in range(5):
        start_s = time.perf_counter()
        receipt = (await _generate(client, shared, max_new_tokens=40))["timing"]
        shares.append(receipt["total_ms"] / (1e3 * (time.perf_counter() - start_s)))
    assert max(shares) <= 1
    assert max(shares) > 0.5, "of the one that this client was the readiest to hear"


async def test_health_and_cluster(
    shared: str, workers: tuple[Address, ...], client: httpx.AsyncClient
) -> None:
    for path in ("/livez", "/readyz", "/health"):
        assert (await client.get(shared + path)).status_code == 200
    document = (await client.get(shared + "/v1/cluster")).json()
    assert document["dtype"] == "fp32"
    assert document["weights"] == "real"
    assert document["status"]["phase"] == "ready"
    assert [each["layers"] for each in document["stages"]] == CUT
    assert [each["worker"] for each in document["stages"]] == [str(each) for each in workers]
    assert document["pages"]["in_use"] == 0


# -- bad input


BAD_BODIES: dict[str, tuple[bytes, int, str]] = {
    "not JSON": (b'{"inputs": ', 400, "not JSON"),
    "not UTF-8": (b'{"inputs": "\xff"}', 400, "not UTF-8"),
    "10 MB": (b'{"inputs": "' + b"a" * 10**7 + b'"}', 413, "at most 2097152"),
    "a list": (b"[1]", 422, "must be an object"),
    "no inputs": (b"{}", 422, "inputs is missing"),
    "half of a pair": (b'{"inputs": "\\ud800"}', 422, "surrogate"),
    "unknown key": (b'{"inputs": "a", "paramters": {}}', 422, "did you mean parameters?"),
}
BAD_PARAMETERS: dict[str, tuple[str, int, str]] = {
    "unknown": ('{"max_tokens": 5}', 422, "did you mean max_new_tokens?"),
    "NaN": ('{"temperature": NaN}', 422, "temperature is NaN"),
    "infinite": ('{"temperature": Infinity}', 422, "temperature is Infinity"),
    "beyond a double": ('{"temperature": 1e999}', 422, "temperature is Infinity"),
    "negative": ('{"temperature": -1}', 422, "temperature is -1"),
    "negative top_k": ('{"top_k": -2}', 422, "top_k is -2"),
    "huge top_k": ('{"temperature": 1, "top_k": 100000}', 422, "vocabulary allows at most 340"),
    "top_p of 0": ('{"top_p": 0}', 422, "top_p is 0"),
    "top_p of 2": ('{"top_p": 2}', 422, "top_p is 2"),
    "min_p of NaN": ('{"min_p": NaN}', 422, "min_p is NaN"),
    "no penalty": ('{"repetition_penalty": 0}', 422, "repetition_penalty is 0"),
    "huge penalty": ('{"repetition_penalty": 1e30}', 422, "repetition_penalty is 1e+30"),
    "huge seed": ('{"seed": 18446744073709551616}', 422, "seed is 18446744073709551616"),
    "small seed": ('{"seed": -9223372036854775809}', 422, "seed is -9223372036854775809"),
    "no tokens": ('{"max_new_tokens": 0}', 422, "max_new_tokens is 0"),
    "beyond the context": ('{"max_new_tokens": 4096}', 422, "context"),
    "huge number of tokens": ('{"max_new_tokens": 1e308}', 422, "max_new_tokens is 1e+308"),
    "a string": ('{"max_new_tokens": "5"}', 422, 'max_new_tokens is "5"'),
    "stranger to stop at": ('{"stop_token_ids": [340]}', 422, "stop_token_ids has 340"),
    "empty stop": ('{"stop": [""]}', 422, "stop"),
    "grammar": ('{"grammar": {}}', 422, "grammar"),
}


async def test_bad_input_has_its_own_error_and_nobody_else_notices(
    shared: str, client: httpx.AsyncClient
) -> None:
    cases = dict(BAD_BODIES)
    for name, (parameters, status, words) in BAD_PARAMETERS.items():
        body = f'{{"inputs": "a", "parameters": {parameters}}}'.encode()
        cases[name] = (body, status, words)
    long = "the dog and the cat " * 1000
    cases["a long prompt"] = (json.dumps({"inputs": long}).encode(), 422, "reads at most 4096")
    expected = await _generate(client, shared, max_new_tokens=600)
    async with _stream(client, shared, max_new_tokens=600) as stream:
        first = await anext(stream)
        for name, (body, status, words) in cases.items():
            for route in ("/generate", "/generate_stream"):
                await _refused(client, shared + route, body, (status, words), name)
        rest = [each async for each in stream]
    assert len(rest) == 599
    assert first["index"] == 1
    assert rest[-1]["generated_text"] == expected["generated_text"]


async def test_more_tokens_than_all_pages_hold_are_refused_with_the_arithmetic(
    cluster: Cluster,
    talker: TinyModel,
    gateway: StartGateway,
    client: httpx.AsyncClient,
) -> None:
    """One sequence at a time, on workers that have room for less than the context."""
    child = gateway(cluster.addresses, talker.folder, "--max-running", "1", *LAYERS)
    url = child.wait_until_announced(START_S)
    total = (await client.get(url + "/v1/cluster")).json()["pages"]["total"]
    assert total == CONTEXT // 16
    answer = await client.post(url + "/generate", json=_body(PROMPT, max_new_tokens=CONTEXT))
    assert answer.status_code == 422
    assert answer.json()["context_tokens"] == CONTEXT


# -- many clients, and some that leave


async def test_32_clients_at_once_each_get_their_own_answer(
    shared: str, client: httpx.AsyncClient
) -> None:
    prompts = [f"{PROMPT} {i} " + "the dog " * (i % 9) for i in range(32)]
    alone = [await _generate(client, shared, prompt, max_new_tokens=12) for prompt in prompts]
    together = await asyncio.gather(
        *(_generate(client, shared, prompt, max_new_tokens=12) for prompt in prompts)
    )
    texts = [each["generated_text"] for each in together]
    assert texts == [each["generated_text"] for each in alone]


@pytest.mark.parametrize("route", ["/generate", "/generate_stream"])
async def test_a_client_that_leaves_frees_its_pages(
    shared: str, client: httpx.AsyncClient, route: str
) -> None:
    leaving = [
        asyncio.create_task(client.post(shared + route, json=_body(PROMPT, max_new_tokens=3500)))
        for _ in range(3)
    ]
    await _pages(client, shared, lambda in_use: in_use > 600)
    for each in leaving:
        each.cancel()
    await asyncio.gather(*leaving, return_exceptions=True)
    await _pages(client, shared, lambda in_use: in_use == 0)
    assert (await client.get(shared + "/health")).status_code == 200
    assert (await _generate(client, shared, max_new_tokens=5))["generated_text"]


async def test_a_full_queue_is_429_with_the_time_to_come_back(
    cluster: Cluster,
    talker: TinyModel,
    gateway: StartGateway,
    client: httpx.AsyncClient,
) -> None:
    child = gateway(cluster.addresses, talker.folder, "--max-running", "2", "--max-waiting", "1")
    url = child.wait_until_announced(START_S)
    async with (
        _stream(client, url, max_new_tokens=3000) as first,
        _stream(client, url, max_new_tokens=300) as second,
    ):
        await anext(first)
        await anext(second)
        freeze(cluster.children[0])  # so that neither ends meanwhile
        waiting = asyncio.create_task(_generate(client, url, max_new_tokens=5))
        await _until_requests(client, url, running=2, waiting=1)
        refused = await client.post(url + "/generate", json=_body(PROMPT, max_new_tokens=5))
        assert refused.status_code == 429
        assert int(refused.headers["Retry-After"]) >= 1
        document = refused.json()
        assert document["error_type"] == "overloaded"
        assert document["running"] == 2
        assert document["waiting"] == 1
        assert document["retry_after_s"] == int(refused.headers["Retry-After"])
        thaw(cluster.children[0])
        events = [each async for each in second]
        assert len(events) == 299
        answer = await waiting
        assert len(answer["timing"]["per_token"]) == 5
        assert answer["timing"]["queue_ms"] > 10


# -- the end


async def test_sigterm_lets_a_running_stream_end_and_refuses_new_requests(
    cluster: Cluster,
    talker: TinyModel,
    gateway: StartGateway,
    client: httpx.AsyncClient,
) -> None:
    child = gateway(cluster.addresses, talker.folder)
    url = child.wait_until_announced(START_S)
    async with _stream(client, url, max_new_tokens=700) as stream:
        await anext(stream)
        freeze(cluster.children[0])  # so that it does not end meanwhile
        child.process.send_signal(signal.SIGTERM)
        await _until_not_ready(client, url)
        refused = await client.post(url + "/generate", json=_body(PROMPT, max_new_tokens=5))
        assert refused.status_code == 503
        assert "shutting down" in refused.json()["error"]
        assert (await client.get(url + "/health")).status_code == 503
        thaw(cluster.children[0])
        events = [each async for each in stream]
    assert len(events) == 699
    assert events[-1]["details"]["finish_reason"] == "length"
    assert await asyncio.to_thread(child.process.wait, 30) == 0


async def test_a_stream_that_outlasts_the_drain_ends_with_an_error(
    cluster: Cluster,
    talker: TinyModel,
    gateway: StartGateway,
    client: httpx.AsyncClient,
) -> None:
    child = gateway(cluster.addresses, talker.folder, "--drain-timeout", "0.3")
    url = child.wait_until_announced(START_S)
    async with _stream(client, url, max_new_tokens=3900) as stream:
        await anext(stream)
        start_s = time.monotonic()
        child.process.send_signal(signal.SIGTERM)
        events = [each async for each in stream]
    assert time.monotonic() - start_s < 8
    assert events[-1]["error_type"] == "stage_unavailable"
    assert "shutting down" in events[-1]["error"]
    assert await asyncio.to_thread(child.process.wait, 30) == 0


async def test_a_gateway_that_is_killed_leaves_workers_that_the_next_one_takes_at_once(
    cluster: Cluster,
    talker: TinyModel,
    gateway: StartGateway,
    client: httpx.AsyncClient,
) -> None:
    first = gateway(cluster.addresses, talker.folder, *LAYERS)
    url = first.wait_until_announced(START_S)
    before = await _generate(client, url, max_new_tokens=20)
    slices = await _slices(client, url)
    async with _stream(client, url, max_new_tokens=3000) as stream:
        await anext(stream)
        first.process.kill()
        with pytest.raises(httpx.TransportError):
            [each async for each in stream]
    second = gateway(cluster.addresses, talker.folder, *LAYERS)
    url = second.wait_until_announced(START_S)
    assert await _slices(client, url) == slices, "loaded once, and kept"
    after = await _generate(client, url, max_new_tokens=20)
    assert after["generated_text"] == before["generated_text"]


async def test_clients_are_told_which_stage_is_lost_until_it_is_back(
    cluster: Cluster, talker: TinyModel, gateway: StartGateway, client: httpx.AsyncClient
) -> None:
    child = gateway(cluster.addresses, talker.folder, *LAYERS)
    url = child.wait_until_announced(START_S)
    before = await _generate(client, url, max_new_tokens=20)
    whole = asyncio.create_task(
        client.post(url + "/generate", json=_body(PROMPT, max_new_tokens=3000))
    )
    async with _stream(client, url, max_new_tokens=3000) as stream:
        await anext(stream)
        cluster.kill(1)
        events = [each async for each in stream]
    assert (await whole).status_code == 503
    refused = [await client.post(url + "/generate", json=_body(PROMPT, max_new_tokens=5))]
    refused += [await client.get(url + path) for path in ("/health", "/readyz")]
    assert [each.status_code for each in refused] == [503] * 3
    for document in (events[-1], (await whole).json(), *(each.json() for each in refused)):
        assert document["error_type"] == "stage_unavailable"
        assert document["stage"] == 1
        assert document["worker"] == str(cluster.addresses[1])
        assert document["retryable"] is True
    assert (await client.get(url + "/livez")).status_code == 200

    await asyncio.to_thread(cluster.restart, 1)
    async with asyncio.timeout(30):
        while (await client.get(url + "/health")).status_code != 200:
            await asyncio.sleep(0.05)
    after = await _generate(client, url, max_new_tokens=20)
    assert after["generated_text"] == before["generated_text"]


# -- asking


PARTS = ("compute_ms", "transfer_ms", "waiting_ms", "other_ms")


def _parts_ms(part: dict[str, float]) -> float:
    return sum(part[kind] for kind in PARTS)


def _body(prompt: str, **parameters: Any) -> dict[str, Any]:
    """Greedy, and as many tokens as were asked for."""
    return {"inputs": prompt, "parameters": {"ignore_eos": True, **parameters}}


async def _generate(
    client: httpx.AsyncClient, url: str, prompt: str = PROMPT, **parameters: Any
) -> dict[str, Any]:
    response = await client.post(url + "/generate", json=_body(prompt, **parameters))
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


@asynccontextmanager
async def _stream(
    client: httpx.AsyncClient, url: str, **parameters: Any
) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
    body = _body(PROMPT, **parameters)
    async with client.stream("POST", url + "/generate_stream", json=body) as response:
        assert response.status_code == 200
        yield _events(response)


async def _events(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    async for line in response.aiter_lines():
        if line.startswith("data:"):
            yield json.loads(line.removeprefix("data:"))


async def _refused(
    client: httpx.AsyncClient, url: str, body: bytes, expected: tuple[int, str], name: str
) -> None:
    response = await client.post(url, content=body)
    status, words = expected
    assert response.status_code == status, f"{name}: {response.text[:300]}"
    document = response.json()
    assert words in document["error"], name
    assert document["error_type"], name
    assert len(response.content) < 3000, name


async def _slices(client: httpx.AsyncClient, url: str) -> list[tuple[str, float]]:
    stages = (await client.get(url + "/v1/cluster")).json()["stages"]
    return [(each["slice_hash"], each["load_s"]) for each in stages]


async def _pages(
    client: httpx.AsyncClient, url: str, is_so: Callable[[int], bool], within_s: float = 20.0
) -> None:
    async with asyncio.timeout(within_s):
        while not is_so((await client.get(url + "/v1/cluster")).json()["pages"]["in_use"]):
            await asyncio.sleep(0.02)


async def _until_requests(client: httpx.AsyncClient, url: str, **counts: int) -> None:
    async with asyncio.timeout(20):
        while (await client.get(url + "/v1/cluster")).json()["requests"] != counts:
            await asyncio.sleep(0.02)


async def _until_not_ready(client: httpx.AsyncClient, url: str) -> None:
    async with asyncio.timeout(20):
        while (await client.get(url + "/readyz")).status_code == 200:
            await asyncio.sleep(0.01)
