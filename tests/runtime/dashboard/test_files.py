"""The page's files: what is there, what is not, and what a browser is told of them."""

from collections.abc import AsyncIterator

import pytest
from yarl import URL

from runtime.dashboard.files import HEADERS, PAGE, page_files
from tests.runtime.gateway.guarded import api_key, guarded_by
from tests.runtime.gateway.scripted import Client, ScriptedBackend, gateway


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with gateway(ScriptedBackend(), safeguards=guarded_by(api_key("ops", "admin"))) as found:
        yield found


async def test_every_file_is_served_without_a_key_and_under_the_strict_policy(
    client: Client,
) -> None:
    for path, file in page_files().items():
        reply = await client.head_of("GET", path)
        assert reply.status == 200, path
        assert reply.headers["Content-Type"] == file.headers["Content-Type"]
        assert HEADERS.items() <= reply.headers.items()
    policy = HEADERS["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy


async def test_a_browser_that_has_a_file_is_not_sent_it_again(client: Client) -> None:
    first = await client.head_of("GET", "/dashboard/app.js")
    etag = {"If-None-Match": first.headers["Etag"]}
    again = await client.head_of("GET", "/dashboard/app.js", headers=etag)
    assert again.status == 304
    assert again.headers["Content-Security-Policy"] == HEADERS["Content-Security-Policy"]
    other = await client.head_of("GET", "/dashboard/page.css", headers=etag)
    assert other.status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/dashboard/../files.py",
        "/dashboard/%2e%2e/files.py",
        "/dashboard/..%2ffiles.py",
        "/dashboard//etc/passwd",
        "/dashboard/%00",
        "/dashboard/",
        "/dashboard/nothing.js",
        "/dashboard/page/app.js",
    ],
)
async def test_nothing_but_the_table_of_files_can_be_had(client: Client, path: str) -> None:
    url = URL(client.url + path, encoded=True)
    async with client._session.get(url) as answer:
        assert answer.status in (401, 404)  # where a path leads out, it is an operator's


async def test_the_files_say_nothing_of_the_service_and_the_live_stream_needs_a_key(
    client: Client,
) -> None:
    assert "horse" not in await client.text("/")
    assert (await client.get("/admin/live")).error["code"] == "missing_api_key"


def test_the_page_asks_nobody_else_for_anything() -> None:
    for path in PAGE.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "://" not in text, path.name


def test_no_script_or_style_stands_in_the_markup_and_no_script_makes_markup() -> None:
    for path in PAGE.glob("*.js"):
        text = path.read_text(encoding="utf-8")
        for sink in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
            assert sink not in text, path.name
    html = (PAGE / "index.html").read_text(encoding="utf-8")
    assert "style=" not in html
    assert " on" + "click=" not in html
    assert html.count("<script") == 1
