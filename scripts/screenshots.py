"""Makes the dashboard's pictures in docs/images/ from a live cluster: three workers with the demo
model on this machine, a few requests at once, and a short chat.

    python scripts/screenshots.py

Chromium is the system's own; Playwright drives it, and Pillow, which matplotlib brings along, makes
the files smaller. A stage is lost on purpose for the last picture.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
from PIL import Image
from playwright.async_api import Browser, Page, ViewportSize, async_playwright

from edgeserve.launch.processes import Child, start_child

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = "/usr/bin/chromium"
CHROMIUM_FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
DESKTOP = ViewportSize(width=1440, height=900)
PHONE = ViewportSize(width=390, height=844)
BYTES_MAX = 200_000  # they are in the repository for ever
LOAD_S = 12.0
QUESTIONS = ("Who are you?", "Tell me a story about a little dog.")
PROMPTS = ("Once upon a time", "The little dog", "One day, Lily", "Tom and his mother")


def main() -> None:
    parser = argparse.ArgumentParser(description="make the dashboard's pictures")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images", metavar="DIR")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with _cluster() as (url, workers):
        asyncio.run(_pictures(url, workers, options.out))


@contextmanager
def _cluster() -> Iterator[tuple[str, list[Child]]]:
    command = "worker --listen 127.0.0.1:0 --device cpu --threads 1 --memory 1GB".split()
    workers = [_start(f"worker {i}", command, "worker listening on") for i in range(3)]
    gateway = None
    try:
        addresses = ",".join(each.wait_until_announced(60) for each in workers)
        command = f"gateway --workers {addresses} --model demo --listen 127.0.0.1:0".split()
        gateway = _start("gateway", command, "gateway serving at")
        yield gateway.wait_until_announced(60), workers
    finally:
        for child in (gateway, *workers):
            if child is not None:
                child.stop()


def _start(name: str, arguments: Sequence[str], announcement: str) -> Child:
    return start_child(name, arguments, f"edgeserve {announcement}", {"OMP_WAIT_POLICY": "PASSIVE"})


async def _pictures(url: str, workers: Sequence[Child], out: Path) -> None:
    await _load(url)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        await _picture(browser, url, out / "dashboard-light.png", DESKTOP)
        await _picture(browser, url, out / "dashboard-dark.png", DESKTOP, is_dark=True)
        await _picture(browser, url, out / "dashboard-phone.png", PHONE)
        workers[1].process.kill()
        await _picture_of_loss(browser, url, out / "dashboard-lost.png")
        await browser.close()


async def _load(url: str) -> None:
    """More requests at once, the longer it runs."""
    async with httpx.AsyncClient(base_url=url, timeout=60) as client, asyncio.TaskGroup() as tasks:
        for i, prompt in enumerate(PROMPTS):
            tasks.create_task(_ask_again_and_again(client, prompt, LOAD_S * i / len(PROMPTS)))


async def _ask_again_and_again(client: httpx.AsyncClient, prompt: str, after_s: float) -> None:
    await asyncio.sleep(after_s)
    wishes = {"max_new_tokens": 120, "temperature": 1, "ignore_eos": True}
    with suppress(TimeoutError):
        async with asyncio.timeout(LOAD_S - after_s):
            while True:
                await client.post("/generate", json={"inputs": prompt, "parameters": wishes})


async def _picture(
    browser: Browser, url: str, path: Path, viewport: ViewportSize, *, is_dark: bool = False
) -> None:
    page = await browser.new_page(
        viewport=viewport, color_scheme="dark" if is_dark else "light", reduced_motion="reduce"
    )
    load = asyncio.create_task(_load(url))
    await page.goto(url)
    await page.wait_for_selector("#mode-chat[aria-pressed=true]")
    await page.fill("#max-tokens", "80")
    for question in QUESTIONS:
        await page.fill("#prompt", question)
        await page.press("#prompt", "Enter")
        await page.wait_for_selector("#stop:not([disabled])")
        await page.wait_for_selector("#receipt-sums:not([hidden])")
    await page.focus("#bars")
    for _ in range(12):
        await page.keyboard.press("ArrowRight")
    await page.wait_for_timeout(2500)  # of polls, while others are served
    await _shoot(page, path)
    load.cancel()
    await page.close()


async def _picture_of_loss(browser: Browser, url: str, path: Path) -> None:
    page = await browser.new_page(viewport=ViewportSize(width=1180, height=900))
    await page.goto(url)
    await page.wait_for_selector(".stage.lost")
    await page.screenshot(path=path)
    _report(path)
    await page.close()


async def _shoot(page: Page, path: Path) -> None:
    await page.screenshot(path=path, full_page=True)
    _report(path)


def _report(path: Path) -> None:
    with Image.open(path) as picture:
        reduced = picture.convert("RGB").quantize(
            256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
        )
    reduced.save(path, optimize=True)
    size = path.stat().st_size
    print(f"{path.name}: {size:,} bytes")
    if size > BYTES_MAX:
        raise SystemExit(f"{path} has {size:,} bytes; at most {BYTES_MAX:,} are kept")


if __name__ == "__main__":
    main()
