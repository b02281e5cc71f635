"""What holds for every route of the table: who is let in, and what is refused before it does anything."""

from __future__ import annotations

import base64
import re
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from adapter_lab.api import Context
from adapter_lab.api.call import KINDS, REQUIRED
from adapter_lab.api.route import Route
from adapter_lab.api.table import ROUTES
from tests.api.conftest import API, HEADERS

EACH_ROUTE = pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
WRONG: dict[str, list[Any]] = {
    "text": [3, ["a"], {}],
    "whole number": ["x", 1.5, True, [1]],
    "number": ["x", True, [1]],
    "on or off": ["yes", 1],
    "texts": ["a", [1], {"a": 1}],
    "path": [3, ["a"], {}],
    "paths": ["a", [1], {"a": 1}],
    "whole numbers": ["a", [1.5], [True], 1],
    "variants": ["a", [1], [{"name": "a"}], [{"name": 1, "settings": {}}], [{"name": "a", "settings": []}]],
    "settings": ["a", [1]],
    "files": ["a", [{"name": "a"}], [{"name": "a", "content": 1}], [1]],
}


def _ask(client: TestClient, route: Route, **given: Any) -> Any:
    """Ask a route with nothing but names in its path."""
    path = re.sub(r"\{[^}]*\}", "nothing", route.path)
    return client.request(route.method, path, **given)


@EACH_ROUTE
def test_nobody_is_let_in_without_the_password_of_the_api(route: Route, context: Context, client: TestClient) -> None:
    context.credentials = {"me": "pässword"}
    refused = _ask(client, route)
    assert refused.status_code == 401 and "--api-auth" in refused.json()["error"]
    assert refused.headers["www-authenticate"].startswith("Basic")
    wrong = base64.b64encode(b"me:password").decode()
    assert _ask(client, route, headers={"Authorization": f"Basic {wrong}"}).status_code == 401
    for broken in ("Basic", "Basic ???", "Bearer x", f"Basic {base64.b64encode(b'you:').decode()}"):
        assert _ask(client, route, headers={"Authorization": broken}).status_code == 401
    if "events" not in route.path:
        right = base64.b64encode("me:pässword".encode()).decode()
        assert _ask(client, route, headers={"Authorization": f"Basic {right}"}).status_code != 401


@EACH_ROUTE
@pytest.mark.parametrize("cookie_id", ["", "abc"], ids=["gradio 3", "gradio 4 and 6"])
def test_nobody_is_let_in_without_the_pages_login(
    route: Route, cookie_id: str, app: FastAPI, client: TestClient
) -> None:
    app.auth, app.tokens = {"me": "secret"}, {"token": "me"}  # type: ignore[attr-defined]
    if cookie_id:
        app.cookie_id = cookie_id  # type: ignore[attr-defined]
    name = f"access-token-unsecure-{cookie_id}" if cookie_id else "access-token-unsecure"
    refused = _ask(client, route)
    assert refused.status_code == 401 and "Log in" in refused.json()["error"]
    assert "www-authenticate" not in refused.headers
    assert _ask(client, route, headers={"Cookie": f"{name}=another"}).status_code == 401
    if "events" not in route.path:
        assert _ask(client, route, headers={"Cookie": f"{name}=token"}).status_code != 401


@EACH_ROUTE
def test_a_page_of_another_site_gets_nothing(route: Route, client: TestClient) -> None:
    refused = _ask(client, route, headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"})
    assert refused.status_code == 403 and "another site" in refused.json()["error"]


@pytest.mark.parametrize(
    "route", [route for route in ROUTES if route.method != "GET"], ids=lambda route: f"{route.method} {route.path}"
)
def test_what_changes_something_needs_the_header_and_our_own_origin(route: Route, app: FastAPI) -> None:
    client = TestClient(app, base_url=f"http://localhost:7860{API}", raise_server_exceptions=False)
    refused = _ask(client, route)
    assert refused.status_code == 403 and "X-Adapter-Lab" in refused.json()["error"]
    for origin in ("https://evil.example", "http://localhost:8000", "null", "http://localhost.evil.example:7860"):
        refused = _ask(client, route, headers={**HEADERS, "Origin": origin})
        assert refused.status_code == 403 and origin in refused.json()["error"]
    assert _ask(client, route, headers={**HEADERS, "Origin": "http://localhost:7860"}).status_code != 403


@EACH_ROUTE
def test_a_name_that_another_site_may_own_is_refused(route: Route, app: FastAPI, context: Context) -> None:
    client = TestClient(app, base_url=f"http://rebound.example:7860{API}", headers=HEADERS)
    refused = _ask(client, route)
    assert refused.status_code == 403 and "rebound.example" in refused.json()["error"]
    context.names = lambda: ["rebound.example"]
    if "events" not in route.path:
        assert _ask(client, route).status_code != 403


@EACH_ROUTE
def test_what_a_route_does_not_take_is_named(route: Route, client: TestClient) -> None:
    refused = _ask(client, route, params={"colour": "red"})
    assert refused.status_code == 400 and "'colour'" in refused.json()["error"]
    if route.method != "GET":
        refused = _ask(client, route, params=_good(route.query), json={**_good(route.body), "colour": "red"})
        assert refused.status_code == 400 and "'colour'" in refused.json()["error"]
        for body in (b"[1]", b"{", b"\xff", b'{"a": NaN}', b'{"a": "\\ud800"}', b"[" * 100_000):
            refused = _ask(client, route, content=body)
            assert refused.status_code == 400 and "body" in refused.json()["error"], body[:20]


def _good(parameters: Any) -> dict[str, Any]:
    examples = {
        "text": "a",
        "texts": ["a"],
        "path": "a",
        "paths": ["a"],
        "settings": {},
        "files": [],
        "variants": [],
        "number": 1,
        "whole number": 20,
    }
    return {
        parameter.name: parameter.choices[0] if parameter.choices else examples.get(parameter.kind, True)
        for parameter in parameters
        if parameter.default is REQUIRED
    }


PARAMETERS = [
    pytest.param(route, parameter, place, id=f"{route.method} {route.path} {parameter.name}")
    for route in ROUTES
    for place, parameters in (("query", route.query), ("body", route.body))
    for parameter in parameters
]


@pytest.mark.parametrize(("route", "parameter", "place"), PARAMETERS)
def test_every_value_is_checked(route: Route, parameter: Any, place: str, client: TestClient) -> None:
    bad: list[Any] = list(WRONG[parameter.kind])
    if parameter.choices:
        bad.append("neither")
    bounds = [] if parameter.minimum is None else [parameter.minimum - 1]
    bounds += [] if parameter.maximum is None else [parameter.maximum + 1]
    bad += [[bound] for bound in bounds] if parameter.kind == "whole numbers" else bounds
    if parameter.default is REQUIRED:
        bad.append(None)
    if most := KINDS[parameter.kind].most:
        long: dict[str, Any] = {"string": "x" * (most + 1), "array": ["x"] * (most + 1)}
        bad.append(long.get(KINDS[parameter.kind].schema["type"], {str(n): 1 for n in range(most + 1)}))
    for value in bad:
        if place == "query":
            if not isinstance(value, (str, int, type(None))) or (parameter.kind, value) == ("on or off", 1):
                continue
            if parameter.kind in ("text", "path") and value is not None:
                continue  # everything in a query is text
            asked = {**_good(route.query), parameter.name: value}
            given = {"params": {name: text for name, text in asked.items() if text is not None}}
        else:
            given = {"params": _good(route.query), "json": {**_good(route.body), parameter.name: value}}
        refused = _ask(client, route, **given)
        assert refused.status_code == 400, (value, refused.text)
        assert parameter.name in refused.json()["error"]


def test_both_logins_together_let_in_whoever_has_one(app: FastAPI, context: Context, client: TestClient) -> None:
    app.auth, app.tokens = {"me": "secret"}, {"token": "me"}  # type: ignore[attr-defined]
    context.credentials = {"program": "other"}
    assert client.get("/schema").status_code == 401
    assert client.get("/schema", headers={"Cookie": "access-token=token"}).status_code == 200
    assert client.get("/schema", auth=("program", "other")).status_code == 200


@pytest.mark.parametrize("is_async", [False, True])
def test_a_login_that_gradio_leaves_to_a_function_holds_too(is_async: bool, app: FastAPI, client: TestClient) -> None:
    def ask(request: Any) -> str | None:
        return request.headers.get("x-user")

    async def ask_later(request: Any) -> str | None:
        return ask(request)

    app.auth_dependency = ask_later if is_async else ask  # type: ignore[attr-defined]
    assert client.get("/schema").status_code == 401
    assert client.get("/schema", headers={"X-User": "me"}).status_code == 200


def test_an_app_gets_the_routes_once(app: FastAPI, context: Context) -> None:
    from adapter_lab.api import attach

    assert not attach(app, context)


def test_our_routes_come_before_those_that_answer_everything(context: Context) -> None:
    from adapter_lab.api import attach

    app = FastAPI()
    app.get("/{page:path}")(lambda page: "gradio's page")
    attach(app, context)
    client = TestClient(app, base_url="http://localhost")
    assert client.get(f"{API}/schema").json()["families"]
    assert client.get("/else").json() == "gradio's page"


def test_the_apps_documentation_names_every_route(client: TestClient, app: FastAPI) -> None:
    paths = TestClient(app).get("/openapi.json").json()["paths"]
    for route in ROUTES:
        assert route.method.lower() in paths[API + route.path.replace(":path", "")]


def test_an_error_of_ours_is_a_sentence_and_its_traceback_is_on_the_console(
    client: TestClient, context: Context, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(context.worker, "runs", lambda: 1 / 0)
    failed = client.get("/runs")
    assert failed.status_code == 500 and "ZeroDivisionError" in failed.json()["error"]
    assert "Traceback" in capsys.readouterr().out


def test_a_body_that_is_too_large_is_refused(client: TestClient) -> None:
    refused = client.post("/import", content=b'{"files": [' + b" " * 9 * 2**20)
    assert refused.status_code == 413 and "MB" in refused.json()["error"]


def test_answers_are_for_pages_of_our_own_only(client: TestClient) -> None:
    answer = client.get("/schema")
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert SimpleNamespace(**answer.json()).tiers == [6, 8, 12, 16, 24]
