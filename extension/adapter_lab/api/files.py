"""Files as responses: the page's own, and those that routes give out."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from starlette.responses import FileResponse, Response

from adapter_lab.api.call import Call
from adapter_lab.api.context import Context
from adapter_lab.api.errors import NotFound
from adapter_lab.api.roots import inside
from adapter_lab.api.route import Route
from adapter_lab.environment.status import ROOT

PAGE = ROOT / "javascript" / "adapter_lab"
# Written out, since Windows' registry may call a module text, which browsers then refuse to run.
MEDIA = {
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".css": "text/css",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".woff2": "font/woff2",
    ".txt": "text/plain",
    ".md": "text/plain",
}


def tag_of(path: Path, *more: object) -> str:
    """An ETag that changes with the file."""
    stat = path.stat()
    seen = repr((str(path), stat.st_mtime_ns, stat.st_size, *more))
    return f'"{hashlib.sha256(seen.encode()).hexdigest()[:32]}"'


def unchanged(call: Call, tag: str) -> Response | None:
    """The answer to who has the file already; None for those who have not."""
    if tag in call.headers.get("if-none-match", ""):
        return Response(status_code=304, headers={"ETag": tag})
    return None


def send(call: Call, path: Path, media: str, name: str = "") -> Response:
    """A file, asked for again each time but sent again only when it has changed; `name`: as a download of that name."""
    tag = tag_of(path)
    return unchanged(call, tag) or FileResponse(
        path, media_type=media, filename=name or None, headers={"ETag": tag, "Cache-Control": "private, no-cache"}
    )


def static(context: Context, call: Call) -> Response:
    path = PAGE / call.path["path"]
    media = MEDIA.get(path.suffix.lower())
    if media is None or not inside(path, [PAGE]) or not os.path.isfile(path):
        raise NotFound(f"The page has no file {call.path['path']}.")
    return send(call, path, media)


ROUTES = (Route("GET", "/static/{path:path}", static, "A file of the page.", "the file"),)
