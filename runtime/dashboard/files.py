"""The page's files over HTTP: a fixed table in memory, so that no path reaches the disk.

The headers let the page run its own scripts and styles and nothing else, speak to its own origin
only, be framed by nobody, and refuse to turn text into markup (trusted types).

Source: W3C, Content Security Policy Level 3; Trusted Types.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

PAGE = Path(__file__).parent / "page"
PREFIX = "/dashboard/"
INDEX = "index.html"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
"""A browser asks each time whether a file is still the same, and is answered without the file."""


@dataclass(frozen=True, slots=True)
class PageFile:
    """One file as it is sent."""

    body: bytes
    headers: dict[str, str]
    etag: str


def page_files(folder: Path = PAGE) -> dict[str, PageFile]:
    """Every file of the page by the path it is served at; the first page at two."""
    found = {PREFIX + path.name: _read(path) for path in sorted(folder.iterdir())}
    index = found.pop(PREFIX + INDEX)
    return {"/": index, "/dashboard": index, **found}


def page_routes() -> list[web.RouteDef]:
    """What an application adds."""
    return [web.get(path, _Sent(file).answer) for path, file in page_files().items()]


class _Sent:
    """Answers with one file."""

    def __init__(self, file: PageFile) -> None:
        self._file = file

    async def answer(self, request: web.Request) -> web.Response:
        """The file, or that it is the one which the browser has."""
        headers = self._file.headers
        known = request.if_none_match or ()
        if any(tag.value in (self._file.etag, "*") for tag in known):
            kept = {name: value for name, value in headers.items() if name != "Content-Type"}
            return web.Response(status=304, headers=kept)
        return web.Response(body=self._file.body, headers=headers)


def _read(path: Path) -> PageFile:
    body = path.read_bytes()
    etag = hashlib.sha256(body).hexdigest()[:32]
    headers = HEADERS | {"Content-Type": TYPES[path.suffix], "Etag": f'"{etag}"'}
    return PageFile(body, headers, etag)
