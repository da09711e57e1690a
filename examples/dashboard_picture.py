"""Takes the picture of the dashboard in `docs/pictures`: half in light, half in dark.

    python -m runtime.launch --model demo --layers 0:4,4:8,8:12 --set admin.kill=true
    python -m examples.dashboard_picture http://127.0.0.1:8000 docs/pictures/dashboard.png

The service is put under load, swapped to other layers and robbed of a stage, so that there is
something to see; needs Chromium, and the package `playwright` of the `dev` extra.
"""

import argparse
import asyncio
import base64
import json
import shutil
from pathlib import Path

import aiohttp
from playwright.async_api import Browser, Page, async_playwright, expect

WIDTH, HEIGHT = 1280, 1330
NUM_CLIENTS = 12
PATIENCE_S = 120.0
SPLITS = ("0:3,3:8,8:12", "0:4,4:8,8:12")
QUESTION = "What is a list?"
LOAD = {"model": "demo", "prompt": "The", "max_tokens": 400, "ignore_eos": True, "temperature": 1}


async def main(url: str, seconds: float) -> bytes:
    """Take the picture after so many seconds of load."""
    async with (
        asyncio.TaskGroup() as tasks,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE_S)) as session,
    ):
        clients = [tasks.create_task(keep_asking(session, url)) for _ in range(NUM_CLIENTS)]
        await asyncio.sleep(seconds / 3)
        await order(session, f"{url}/admin/plan", {"layers": SPLITS[0]})
        await asyncio.sleep(seconds / 3)
        await order(session, f"{url}/admin/kill", {"target": "stage:1"})
        await asyncio.sleep(seconds / 3)
        taken = await asyncio.wait_for(picture(url), PATIENCE_S)
        for client in clients:
            client.cancel()
    return taken


async def keep_asking(session: aiohttp.ClientSession, url: str) -> None:
    """One client that asks again whenever it is answered."""
    while True:
        async with session.post(f"{url}/v1/completions", json=LOAD) as answer:
            await answer.read()


async def order(session: aiohttp.ClientSession, url: str, body: dict[str, str]) -> None:
    """Have the service changed; raises where it is not."""
    async with session.post(url, json=body) as answer:
        told = await answer.json()
        if not told.get("done"):
            raise SystemExit(f"{url} {json.dumps(body)}: {told}")


async def picture(url: str) -> bytes:
    """A PNG of the page, its left half light and its right half dark."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        context = await browser.new_context(viewport={"width": WIDTH, "height": HEIGHT})
        page = await context.new_page()
        await page.goto(url)
        await converse(page)
        halves = []
        await page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
        for scheme in ("light", "dark"):
            await page.emulate_media(color_scheme=scheme)
            halves.append(await page.screenshot())
        return await joined(browser, *halves)


async def converse(page: Page) -> None:
    """Have the page show an answer, and all that it knows."""
    patience_ms = PATIENCE_S / 2 * 1000
    await expect(page.locator("#headline")).to_have_text("Serving", timeout=patience_ms)
    await page.fill("#question", QUESTION)
    await page.press("#question", "Enter")
    await expect(page.locator("#chat-rate")).to_contain_text("tok/s", timeout=patience_ms)
    await expect(page.locator("#send")).to_have_text("Send", timeout=patience_ms)


async def joined(browser: Browser, light: bytes, dark: bytes) -> bytes:
    """Both pictures as one, cut along a slanted line."""
    page = await browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
    sources = [f"data:image/png;base64,{base64.b64encode(one).decode()}" for one in (light, dark)]
    cut = "polygon(56% 0, 100% 0, 100% 100%, 44% 100%)"
    await page.set_content(
        "<style>body{margin:0}img{position:absolute;left:0;top:0}"
        f"img+img{{clip-path:{cut}}}</style>" + "".join(f'<img src="{one}">' for one in sources),
        wait_until="load",
    )
    return await page.screenshot()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("url")
    parser.add_argument("path", type=Path)
    parser.add_argument("--seconds", type=float, default=75.0, help="of load before (default 75)")
    options = parser.parse_args()
    taken = asyncio.run(main(options.url.rstrip("/"), options.seconds))
    options.path.parent.mkdir(parents=True, exist_ok=True)
    options.path.write_bytes(taken)
