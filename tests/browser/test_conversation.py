"""The dashboard's conversation in a real browser: what a chat is sent, shows and keeps."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgeserve.gateway.app_state import AppState
from edgeserve.pipeline.generation import Order
from tests.browser.conftest import OpenPage, served
from tests.browser.test_dashboard import KEY, PHONE, Pipeline, state_of
from tests.gateway.test_openai_chat import AtHome

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(120),
]

TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
DESKTOP = {"viewport": {"width": 1440, "height": 900}}
END = 299


def talking(engine: Pipeline, api_key: str = "") -> AppState:
    return replace(state_of(engine, api_key), chat_template=AtHome(TEMPLATE, {}))


def prompt_of(order: Order) -> str:
    return bytes(order.prompt).decode()


async def test_a_model_with_a_template_is_talked_to(open_page: OpenPage) -> None:
    engine = Pipeline(reply=[*b" Hi there", END])
    async with served(talking(engine)) as url, open_page(url) as watched:
        await watched.wait_for_text("#talk-title", "Chat")
        await watched.page.click("#system-field summary")
        await watched.page.fill("#system", "Be kind.")
        await watched.page.fill("#temperature", "0.5")
        await watched.say("hello")
        await watched.answered()
        assert await watched.text("#answer") == "Hi there", "without the blank before it"
        await watched.say("and again")
        await watched.page.wait_for_function("document.querySelectorAll('.said').length === 4")
        await watched.answered()
        first, second = engine.orders
        assert prompt_of(first) == "[system]Be kind.[user]hello"
        assert prompt_of(second) == (
            "[system]Be kind.[user]hello[assistant] Hi there[user]and again"
        )
        assert first.sampling.temperature == 0.5
        assert await watched.page.locator(".said").all_text_contents() == [
            "hello", "Hi thereCopy", "and again", "Hi thereCopy",
        ]  # fmt: skip


async def test_a_new_conversation_forgets_the_old_one(open_page: OpenPage) -> None:
    engine = Pipeline(reply=[*b"Hi", END])
    async with served(talking(engine)) as url, open_page(url) as watched:
        await watched.wait_for_text("#talk-title", "Chat")
        assert await watched.page.is_disabled("#clear")
        await watched.say("hello")
        await watched.answered()
        await watched.page.click("#clear")
        assert await watched.page.locator(".said").count() == 0
        assert not await watched.page.is_visible("#receipt")
        await watched.say("who are you")
        await watched.answered()
        assert prompt_of(engine.orders[-1]) == "[user]who are you"


async def test_a_chat_can_be_left_for_a_completion(open_page: OpenPage) -> None:
    engine = Pipeline(reply=[*b" there was", END])
    async with served(talking(engine)) as url, open_page(url) as watched:
        await watched.wait_for_text("#talk-title", "Chat")
        await watched.page.click("#mode-completion")
        await watched.wait_for_text("#talk-title", "Completion")
        assert not await watched.page.is_visible("#system-field")
        await watched.say("Once")
        await watched.answered()
        assert await watched.text("#answer") == "Once there was"
        assert prompt_of(engine.orders[-1]) == "Once"


async def test_shift_and_enter_begin_a_new_line(open_page: OpenPage) -> None:
    engine = Pipeline(reply=[*b"Hi", END])
    async with served(talking(engine)) as url, open_page(url) as watched:
        await watched.wait_for_text("#talk-title", "Chat")
        await watched.page.fill("#prompt", "one")
        await watched.page.press("#prompt", "Shift+Enter")
        await watched.page.keyboard.type("two")
        assert engine.orders == []
        await watched.page.press("#prompt", "Enter")
        await watched.answered()
        assert prompt_of(engine.orders[-1]) == "[user]one\ntwo"


async def test_what_was_said_until_stop_stays_part_of_the_chat(open_page: OpenPage) -> None:
    engine = Pipeline(reply=b"ab")
    engine.hold(after_tokens=5)
    async with served(talking(engine)) as url, open_page(url) as watched:
        await watched.wait_for_text("#talk-title", "Chat")
        await watched.say("hello")
        await watched.wait_for_text("#outcome", "5 tokens so far")
        await watched.page.click("#stop")
        await watched.wait_for_text("#outcome", "Stopped after 5 tokens.")
        await watched.answered()
        assert await watched.page.locator("#bars .token .compute").count() == 5
        await watched.say("more")
        await engine.wait_for_orders(2)
        assert prompt_of(engine.orders[-1]) == "[user]hello[assistant]ababa[user]more"


async def test_a_question_that_is_refused_comes_back_to_be_changed(open_page: OpenPage) -> None:
    engine = Pipeline(reply=[*b"Hi", END])
    async with served(talking(engine)) as url, open_page(url) as watched:
        await watched.wait_for_text("#talk-title", "Chat")
        engine.overload(retry_after_s=7)
        await watched.say("hello")
        await watched.wait_for_text("#problem", "no more are taken; try again in 7 s")
        assert await watched.page.input_value("#prompt") == "hello"
        assert await watched.page.locator(".said").count() == 0
        engine.release()
        await watched.say("hello")
        await watched.answered()
        assert prompt_of(engine.orders[-1]) == "[user]hello"


async def test_an_answer_can_be_copied(open_page: OpenPage) -> None:
    engine = Pipeline(reply=[*b"Hi", END])
    wishes = {"permissions": ["clipboard-read", "clipboard-write"]}
    async with served(talking(engine)) as url, open_page(url, **wishes) as watched:
        await watched.wait_for_text("#talk-title", "Chat")
        await watched.say("hello")
        await watched.answered()
        await watched.page.click(".copy")
        await watched.wait_for_text(".copy", "Copied")
        assert await watched.page.evaluate("navigator.clipboard.readText()") == "Hi"


@pytest.mark.parametrize("window", [DESKTOP, PHONE], ids=["desktop", "phone"])
async def test_the_answer_is_in_view_while_it_streams(
    window: dict[str, dict[str, int]], open_page: OpenPage
) -> None:
    """Its end, where it grows; and what it was asked with, and Stop, beside it."""
    engine = Pipeline(reply=b"many words ")
    engine.hold(after_tokens=1500)
    async with served(talking(engine)) as url, open_page(url, **window) as watched:
        await watched.wait_for_text("#talk-title", "Chat")
        await watched.page.fill("#max-tokens", "2000")
        await watched.say("hello")
        await watched.wait_for_text("#outcome", "1500 tokens so far")
        height = window["viewport"]["height"]
        for what in ("#answer > :last-child", "#prompt", "#stop"):
            box = await watched.page.locator(what).bounding_box()
            assert box is not None
            assert box["y"] >= 0, what
            assert box["y"] + box["height"] <= height, what
        frame = await watched.page.locator("#talk").bounding_box()
        last = await watched.page.locator("#answer > :last-child").bounding_box()
        assert frame is not None
        assert last is not None
        assert last["y"] + last["height"] <= frame["y"] + frame["height"] + 1
        assert await watched.overflow_px() == 0


@pytest.mark.parametrize("by", ["hover", "focus"])
async def test_words_are_explained_on_hover_and_tap(by: str, open_page: OpenPage) -> None:
    async with served(talking(Pipeline())) as url, open_page(url, **PHONE) as watched:
        await watched.wait_for_text("#state", "ready")
        terms = watched.page.locator(".term")
        names = await terms.evaluate_all("all => all.map((each) => each.firstChild.data)")
        assert {"KV cache", "reused from cache", "step", "receipt", "compute"} <= {*names}
        for i in range(await terms.count()):
            term, tip = terms.nth(i), terms.nth(i).locator(".tip")
            if not await term.is_visible():
                continue
            assert not await tip.is_visible()
            await getattr(term, by)()
            assert await tip.is_visible()
            assert len(await tip.text_content() or "") > 20
            await term.evaluate("each => each.blur()")
            await watched.page.mouse.move(0, 0)
            assert await watched.overflow_px() == 0


async def test_a_chat_carries_the_key(open_page: OpenPage) -> None:
    engine = Pipeline(reply=[*b"Hi", END])
    async with served(talking(engine, api_key=KEY)) as url, open_page(url) as watched:
        await watched.page.fill("#key", KEY)
        await watched.page.click("#key-wanted button")
        await watched.wait_for_text("#talk-title", "Chat")
        await watched.say("hello")
        await watched.answered()
