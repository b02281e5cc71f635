"""Who may ask: the web UI's own logins, no page of another site, and no name that another site could have bent to us.

Logins follow what web UIs do: gradio keeps a token per logged-in page in a cookie (`access-token` up to gradio 3, later
with the app's `cookie_id` behind it); `--api-auth` is HTTP Basic.
"""

from __future__ import annotations

import base64
import binascii
import inspect
import ipaddress
import secrets
import socket
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

from starlette.requests import Request

from adapter_lab.api.context import Context
from adapter_lab.api.errors import NotLoggedIn, Refused

PREFIX = "/adapter-lab/v1"
HEADER = "X-Adapter-Lab"
READING = ("GET", "HEAD")


async def authorize(request: Request, context: Context) -> None:
    """Raise NotLoggedIn or Refused where a request may not go on."""
    _same_site(request, context)
    _known_name(request, context)
    await _logged_in(request, context)


# Logins


async def _logged_in(request: Request, context: Context) -> None:
    app = request.app
    asks = getattr(app, "auth", None) is not None or getattr(app, "auth_dependency", None) is not None
    if not asks and not context.credentials:
        return
    if asks and await _page_user(app, request) is not None:
        return
    if context.credentials and _basic(request.headers.get("authorization", ""), context.credentials):
        return
    if context.credentials:
        raise NotLoggedIn("Give the name and password of the web UI's --api-auth.")
    raise NotLoggedIn("Log in on the web UI's page first.")


async def _page_user(app: Any, request: Request) -> Any:
    """Whom gradio's login cookie, or the function that stands in for it, says the page belongs to; None: nobody."""
    ask = getattr(app, "auth_dependency", None)
    if ask is not None:
        user = ask(request)
        return await user if inspect.isawaitable(user) else user
    cookie = getattr(app, "cookie_id", None)
    names = (f"access-token-{cookie}", f"access-token-unsecure-{cookie}") if cookie else COOKIES
    tokens = getattr(app, "tokens", {})
    # Without an entry, `tokens.get(None)` must not be what lets in.
    return next((tokens[token] for name in names if (token := request.cookies.get(name)) in tokens), None)


COOKIES = ("access-token", "access-token-unsecure")


def _basic(authorization: str, credentials: Mapping[str, str]) -> bool:
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return False
    try:
        name, _, password = base64.b64decode(encoded, validate=True).decode("utf-8").partition(":")
    except (binascii.Error, UnicodeError):
        return False
    wanted = credentials.get(name)
    return secrets.compare_digest(password.encode(), (wanted or "").encode()) and wanted is not None


# Where a request comes from


def _same_site(request: Request, context: Context) -> None:
    """Refuse what a page of another site made a browser send."""
    headers = request.headers
    if headers.get("sec-fetch-site") in ("cross-site", "same-site") and not _is_link(request):
        raise Refused("This request comes from a page of another site, so it is refused.")
    if request.method in READING:
        return
    # No form or image of another page can set this header, and scripts there must ask first, which nobody answers.
    if headers.get(HEADER) != "1":
        raise Refused(f"Requests that change something need the header {HEADER}: 1.")
    origin = headers.get("origin")
    if origin is not None and _split(origin).netloc.lower() not in _hosts(request):
        raise Refused(f"This request comes from a page of {origin}, so it is refused.")


def _is_link(request: Request) -> bool:
    """Whether a person follows a link to a file, which shows it to nobody but them."""
    return request.method in READING and request.headers.get("sec-fetch-mode") == "navigate"


def _hosts(request: Request) -> set[str]:
    named = (request.headers.get(name, "").lower() for name in ("host", "x-forwarded-host"))
    return {name for name in named if name}


def _known_name(request: Request, context: Context) -> None:
    """Refuse a name that is not this machine's: a site may have its own name lead here (DNS rebinding)."""
    name = host_name(request)
    asks = getattr(request.app, "auth", None) is not None or bool(context.credentials)
    if context.public() or asks or is_local(name) or name in context.names():
        return
    raise Refused(
        f"This web UI was asked as {name}, which is not a name of this machine. If it is yours, add it to Settings > "
        "Adapter Lab > Names this web UI is reached by."
    )


def host_name(request: Request) -> str:
    """The name that the request was sent to, without a port."""
    return (_split("//" + request.headers.get("host", "")).hostname or "").lower()


def _split(address: str) -> SplitResult:
    """The parts of an address; none of one that is malformed, such as `http://[::1`."""
    try:
        return urlsplit(address)
    except ValueError:
        return SplitResult("", "", "", "", "")


def is_local(name: str) -> bool:
    """Whether a name is an address, or a name of this machine that no other site can own."""
    if name == "localhost" or name.endswith(".localhost") or name in _own_names():
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _own_names() -> tuple[str, ...]:
    name = socket.gethostname().lower()
    return (name, f"{name}.local")


def is_remote(request: Request, context: Context) -> bool:
    """Whether others than this machine may have sent it: by how the server listens, or the name it was sent to."""
    return context.public() or host_name(request) in context.names()
