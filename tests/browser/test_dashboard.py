"""The dashboard in a real browser, before a gateway whose pipeline is a fake."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest
from playwright.async_api import Route

from edgeserve.clock import MonotonicClock
from edgeserve.gateway.app_state import AppState, ModelFacts
from edgeserve.gateway.text.tokenizer import open_tokenizer
from edgeserve.testing import FakeEngine
from tests.browser.conftest import OpenPage, Watched, served
from tests.gateway.conftest import key_ring

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(120),
]

KEY = "open sesame"
PHONE = {"viewport": {"width": 360, "height": 740}}
SCHEMES = ("light", "dark")
GRAPHICS = "compute transfer waiting other slice pages alert good".split()
TEXTS = "ink soft alert good".split()


class Pipeline(FakeEngine):
    """A fake that says of its cluster what a test wants."""

    def __init__(self, reply: Sequence[int] = b"Lily", stages: int = 3) -> None:
        super().__init__(MonotonicClock(), reply, stages=stages)
        self.more: dict[str, Any] = {}
        self.more_of_stages: dict[int, dict[str, Any]] = {}

    async def cluster(self) -> dict[str, Any]:
        document = await super().cluster() | self.more
        for stage, more in self.more_of_stages.items():
            document["stages"][stage] |= more
        return document


def state_of(engine: FakeEngine, api_key: str = "") -> AppState:
    model = ModelFacts(
        name="fake", weights="real", context_tokens=4096, vocab=300, eos_ids=frozenset({299})
    )
    return AppState(
        engine=engine,
        model=model,
        tokenizer=open_tokenizer(None, 300),
        clock=MonotonicClock(),
        keys=key_ring(MonotonicClock(), {"me": api_key} if api_key else {}),
    )


# -- what it shows


async def test_it_loads_all_it_needs_from_its_own_gateway(open_page: OpenPage) -> None:
    async with served(state_of(Pipeline())) as url, open_page(url) as watched:
        await watched.wait_for_text("#state", "ready")
        boxes = await watched.page.locator(".drawing .stage").all_text_contents()
        assert [f"stage {i}" in box for i, box in enumerate(boxes)] == [True] * 3
        assert "layers [4, 8)" in boxes[1]
        assert "layers [8, 12) + head" in boxes[2]
        assert "0 of 100 pages in use" in boxes[2]
        assert await watched.text("#slowest") == (
            "Stage 0 computes longest: 2.7 ms of a 10.0 ms step, no more than the next."
        )
        assert watched.console == []
        assert {each.removeprefix(url) for each in watched.requests} >= {
            "", "dashboard/dashboard.css", "dashboard/main.js", "v1/cluster",
        }  # fmt: skip


async def test_what_makes_figures_mean_less_is_always_said(open_page: OpenPage) -> None:
    engine = Pipeline()
    engine.more = {"weights": "random", "simulation": "paced simulation: rtx-3060"}
    async with served(state_of(engine)) as url, open_page(url) as watched:
        await watched.wait_for_text("#random", "random weights")
        await watched.wait_for_text("#simulation", "paced simulation: rtx-3060")


async def test_a_straggler_is_flagged_with_the_split_that_would_be_better(
    open_page: OpenPage,
) -> None:
    engine = Pipeline()
    engine.more = {"better_layers": [5, 3, 4]}
    engine.more_of_stages = {1: {"straggling": {"percent": 24.4, "since_s": 130.0}}}
    async with served(state_of(engine)) as url, open_page(url) as watched:
        await watched.wait_for_text("#straggling", "A better split at these speeds: 5/3/4")
        assert "Stage 1 on 127.0.0.1:50052 straggles: 24 % slower" in await watched.text(
            "#straggling"
        )
        assert await watched.page.locator(".stage.slow").count() == 1
        assert "24 % slower, for 2 min" in await watched.text(".stage.slow")


async def test_a_cluster_that_starts_says_so(open_page: OpenPage) -> None:
    engine = Pipeline()
    reason = "the workers are being connected"
    status = {"phase": "starting", "reason": reason, "stage": None, "worker": None}
    engine.more = {"dtype": None, "status": status, "stages": []}
    async with served(state_of(engine)) as url, open_page(url) as watched:
        await watched.wait_for_text("#state", "starting")
        await watched.wait_for_text("#alarm", "The workers are being connected")
        assert await watched.text("#slowest") == "Nothing has been computed yet."
        engine.more = {}
        await watched.wait_for_text("#state", "ready")
        assert await watched.page.locator(".drawing .stage").count() == 3


async def test_the_rate_counts_what_came_out(open_page: OpenPage) -> None:
    async with served(state_of(Pipeline())) as url, open_page(url) as watched:
        await watched.ask("hello", 50)
        await watched.answered()
        await watched.wait_for_text("#generated", "50")
        await watched.wait_for_text("#rate", "10.0")  # in each of five seconds, as a mean
        most = int((await watched.text("#rate-most")).split()[1])
        assert 25 <= most <= 50, "in one second, or in two if one ended meanwhile"


async def test_a_lost_stage_is_in_plain_sight_until_it_is_back(open_page: OpenPage) -> None:
    engine = Pipeline()
    async with served(state_of(engine)) as url, open_page(url) as watched:
        await watched.wait_for_text("#state", "ready")
        engine.lose_stage(1)
        await watched.wait_for_text("#state", "stage 1 lost")
        await watched.wait_for_text("#alarm", "Stage 1 on 127.0.0.1:50052 is lost")
        assert "stage 1" in await watched.text(".stage.lost")
        assert "no connection" in await watched.text(".link.lost")
        engine.release()
        await watched.wait_for_text("#state", "ready")
        await watched.page.wait_for_selector("#alarm", state="hidden")
        assert await watched.page.locator(".stage.lost").count() == 0


async def test_a_gateway_that_does_not_answer_is_told_with_the_time(open_page: OpenPage) -> None:
    async def cut(route: Route) -> None:
        await route.abort()

    async with served(state_of(Pipeline())) as url, open_page(url) as watched:
        await watched.wait_for_text("#state", "ready")
        await watched.page.route("**/v1/cluster", cut)
        await watched.wait_for_text("#state", "gateway is unreachable since")
        assert re.search(r"since \d\d:\d\d:\d\d", await watched.text("#state"))
        assert await watched.page.locator("main.stale").count() == 1
        await watched.page.unroute("**/v1/cluster")
        await watched.wait_for_text("#state", "ready")
        assert await watched.page.locator("main.stale").count() == 0


async def test_nobody_is_asked_while_nobody_looks(open_page: OpenPage) -> None:
    async with served(state_of(Pipeline())) as url, open_page(url) as watched:
        await watched.wait_for_text("#state", "ready")
        await _set_hidden(watched, "true")
        asked = len(watched.requests)
        await watched.page.wait_for_timeout(2500)
        assert len(watched.requests) <= asked + 1, "one may have been under way"
        async with watched.page.expect_request("**/v1/cluster"):
            await _set_hidden(watched, "false")


async def _set_hidden(watched: Watched, value: str) -> None:
    await watched.page.evaluate(
        f"""() => {{
            Object.defineProperty(document, "hidden", {{ value: {value}, configurable: true }});
            document.dispatchEvent(new Event("visibilitychange"));
        }}"""
    )


# -- a completion


async def test_a_bar_says_what_its_token_took(open_page: OpenPage) -> None:
    async with served(state_of(Pipeline())) as url, open_page(url) as watched:
        await watched.ask("hello", 12)
        await watched.answered()
        assert await watched.text("#answer") == "hello" + "Lily" * 3
        assert await watched.page.locator("#bars .token").count() == 12
        await watched.page.focus("#bars")
        for _ in range(3):
            await watched.page.keyboard.press("ArrowRight")
        by_key = await watched.text("#bar-words")
        assert re.fullmatch(
            r"token 3: \S+ ms = compute \S+ \+ transfer \S+ \+ waiting 0 \+ other \S+", by_key
        )
        assert await watched.text("#answer .chosen") == "l"
        await watched.page.hover("#bars .token:nth-child(3)")
        assert await watched.text("#bar-words") == by_key
        await watched.page.hover("#bars .token:nth-child(12)")
        assert (await watched.text("#bar-words")).startswith("token 12: ")


async def test_stop_ends_the_request_on_the_gateway(open_page: OpenPage) -> None:
    engine = Pipeline()
    async with served(state_of(engine)) as url, open_page(url) as watched:
        await watched.ask("hello", 12)
        await watched.answered()
        engine.hold(after_tokens=5)
        await watched.ask("hello", 100)
        await watched.wait_for_text("#outcome", "5 tokens so far")
        assert await watched.page.locator("#bars .token .seen").count() == 5
        assert not await watched.page.is_visible("#receipt-sums"), "those are of the first answer"
        assert await watched.page.is_disabled("#send")
        await watched.page.click("#stop")
        await engine.wait_for_cancelled(1)
        await watched.wait_for_text("#outcome", "Stopped after 5 tokens.")
        await watched.answered()
        assert await watched.page.locator("#bars .token .compute").count() == 5, "its receipt"
        assert await watched.page.is_enabled("#send")


async def test_a_refusal_is_the_servers_sentence(open_page: OpenPage) -> None:
    engine = Pipeline()
    async with served(state_of(engine)) as url, open_page(url) as watched:
        engine.overload(retry_after_s=7)
        await watched.ask("hello", 10)
        await watched.wait_for_text("#problem", "no more are taken; try again in 7 s")
        assert "(Retry-After: 7 s)" in await watched.text("#problem")
        engine.release()
        await watched.ask("x" * 5000, 10)
        await watched.wait_for_text("#problem", "this model reads at most 4096")


async def test_an_answer_that_breaks_off_says_why(open_page: OpenPage) -> None:
    engine = Pipeline()
    engine.hold(after_tokens=3)
    async with served(state_of(engine)) as url, open_page(url) as watched:
        await watched.ask("hello", 100)
        await watched.wait_for_text("#outcome", "3 tokens so far")
        engine.lose_stage(2)
        await watched.wait_for_text("#problem", "stage 2 on 127.0.0.1:50053 is lost")
        assert await watched.text("#answer") == "helloLil"
        assert await watched.page.is_enabled("#send")


async def test_the_page_of_routes_lists_them_with_their_fields(open_page: OpenPage) -> None:
    async with served(state_of(Pipeline())) as url, open_page(url) as watched:
        await watched.page.click("footer a[href=docs]")
        await watched.wait_for_text("summary", "POST /v1/chat/completions")
        await watched.page.click("summary:has-text('POST /v1/chat/completions')")
        await watched.wait_for_text("details[open] .fields", "max_completion_tokens")
        assert "required. a list of" in await watched.text(
            "details[open] tr:has(code:text-is('messages'))"
        )


# -- keys and untrusted text


async def test_the_page_asks_for_the_key_until_it_is_the_right_one(open_page: OpenPage) -> None:
    state = state_of(Pipeline(), api_key=KEY)
    async with served(state) as url, open_page(url) as watched:
        page = watched.page
        await watched.wait_for_text("#key-reason", "This gateway answers those who have its key.")
        assert not await page.is_visible("#live")
        await page.fill("#key", "open barley")
        await page.keyboard.press("Enter")
        await watched.wait_for_text("#key-reason", "The key sent is no")
        await page.fill("#key", KEY)
        await page.click("#key-wanted button")
        await watched.wait_for_text("#state", "ready")
        await watched.ask("hello", 5)
        await watched.answered()
        await page.reload()
        await watched.wait_for_text("#state", "ready")
        await page.click("#forget-key")
        await page.wait_for_selector("#key-wanted")
        assert await page.evaluate("sessionStorage.length + localStorage.length") == 0


async def test_what_workers_and_models_say_stays_text(open_page: OpenPage) -> None:
    hostile = '<img src=x onerror="document.title=1"><script>document.title=2</script>'
    engine = Pipeline(reply=hostile.encode())
    engine.more = {"model": hostile, "simulation": hostile}
    engine.more_of_stages = {0: {"worker": hostile, "device_name": hostile}}
    engine.more_of_stages[1] = {"worker": hostile, "straggling": {"percent": 20.0, "since_s": 1.0}}
    async with served(state_of(engine)) as url, open_page(url) as watched:
        await watched.ask(hostile, len(hostile))
        await watched.answered()
        assert await watched.text("#answer") == hostile * 2
        assert hostile in await watched.text("#model")
        assert hostile in await watched.text("#straggling")
        assert await watched.page.locator("img").count() == 0
        assert await watched.page.locator("script").count() == 1
        assert await watched.page.title() == "edgeserve"


# -- how it looks


async def test_nothing_sticks_out_on_a_phone(open_page: OpenPage) -> None:
    engine = Pipeline(stages=5)
    name = "a-box-with-a-name-that-never-ends.example.internal:50051"
    engine.more_of_stages = {2: {"worker": name}}
    async with served(state_of(engine)) as url, open_page(url, **PHONE) as watched:
        await watched.wait_for_text("#state", "ready")
        assert await watched.overflow_px() == 0
        await watched.ask("x" * 300, 600)
        await watched.answered()
        assert await watched.page.locator("#bars .token").count() == 600
        assert await watched.overflow_px() == 0
        engine.set_status(engine.status())
        engine.lose_stage(2)
        await watched.wait_for_text("#state", "stage 2 lost")
        assert await watched.overflow_px() == 0


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_colours_can_be_told_from_what_they_stand_on(
    scheme: str, open_page: OpenPage
) -> None:
    """As WCAG 2 wants: 4.5 for text, 3 for graphics."""
    async with served(state_of(Pipeline())) as url, open_page(url, color_scheme=scheme) as watched:
        await watched.wait_for_text("#state", "ready")
        colours = {name: await _colour(watched, name) for name in {*GRAPHICS, *TEXTS}}
        grounds = {name: await _colour(watched, name) for name in ("card", "ground")}
        assert (_luminance(grounds["card"]) < 0.5) == (scheme == "dark")
        graphics, texts = (
            {
                (name, ground): _contrast(colours[name], grounds[ground])
                for name in names
                for ground in grounds
            }
            for names in (GRAPHICS, TEXTS)
        )
        assert {name: each for name, each in graphics.items() if each < 3} == {}
        assert {name: each for name, each in texts.items() if each < 4.5} == {}
        shown = await watched.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert shown == f"rgb{grounds['ground']}"


async def _colour(watched: Watched, name: str) -> tuple[int, ...]:
    text = await watched.page.evaluate(
        f"getComputedStyle(document.documentElement).getPropertyValue('--{name}')"
    )
    return tuple(bytes.fromhex(text.strip().removeprefix("#")))


def _contrast(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    darker, lighter = sorted((_luminance(one), _luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: tuple[int, ...]) -> float:
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in (each / 255 for each in colour)
    ]
    return sum(w * part for w, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
