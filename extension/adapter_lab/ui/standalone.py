"""`adapter-lab ui`: the tab in a page of its own, without a web UI."""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from adapter_lab.environment.status import ROOT
from adapter_lab.ui import tab

SCRIPT = "/adapter-lab-page/adapter_lab.js"
STYLE = "/adapter-lab-page/style.css"
FILES = {SCRIPT: ROOT / "javascript" / "adapter_lab.js", STYLE: ROOT / "style.css"}
# gradio 6 has only some letters of its semi-bold font with it, so headings would be a mixture of two.
FONT = "<style>:root, .gradio-container { --font: system-ui, sans-serif !important; }</style>"
HEAD = f'{FONT}<link rel="stylesheet" href=".{STYLE}"><script defer src=".{SCRIPT}"></script>'
# gradio's page asks other machines for fonts and a script for frames, neither of which the tab needs.
FOREIGN = re.compile(
    r'<link[^>]*href="https?://[^>]*>|<script[^>]*src="https?://[^>]*>\s*</script>|<meta[^>]*content="https?://[^>]*>'
)
STYLESHEETS = re.compile(r'"stylesheets":\s*\[[^\]]*\]')

Asgi = Callable[[Any, Any, Any], Awaitable[None]]


def attach_page(app: Any) -> Any:
    """Put gradio's page with the tab, and the files a web UI would load by itself, into the FastAPI `app`."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import gradio
    from fastapi.responses import FileResponse

    for address, path in FILES.items():
        app.get(address, include_in_schema=False)(_file(path, FileResponse))
    app.add_middleware(OwnFiles)
    return gradio.mount_gradio_app(app, page(), path="/")


def page() -> Any:
    """The tab among the tabs of a page, as a web UI shows it."""
    import gradio

    content = tab.build()
    with gradio.Blocks(analytics_enabled=False, title=tab.TITLE) as blocks, gradio.Tabs(), gradio.Tab(tab.TITLE):
        content.render()
    return blocks


def _file(path: Path, response: Any) -> Callable[[], Any]:
    def send() -> Any:
        return response(path, headers={"Cache-Control": "no-cache"})

    return send


class OwnFiles:
    """Middleware that adds our script and style to gradio's page and takes out what it loads from other machines."""

    def __init__(self, app: Asgi) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request; only the page itself is changed."""
        if scope["type"] != "http" or scope["path"] != "/" or scope["method"] != "GET":
            await self.app(scope, receive, send)
            return
        plain = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]
        start: dict[str, Any] = {}
        body = b""

        async def collect(message: Any) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start":
                start = message
                return
            body += message.get("body", b"")
            if message.get("more_body"):
                return
            changed = rewritten(body)
            headers = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
            headers.append((b"content-length", str(len(changed)).encode()))
            await send({**start, "headers": headers})
            await send({"type": "http.response.body", "body": changed})

        await self.app({**scope, "headers": plain}, receive, collect)


def rewritten(page: bytes) -> bytes:
    """gradio's page with our files in its head and nothing from other machines."""
    text = page.decode("utf-8", "replace")
    if "</head>" not in text:
        return page
    text = STYLESHEETS.sub('"stylesheets": []', FOREIGN.sub("", text))
    return text.replace("</head>", f"{HEAD}</head>", 1).encode()
