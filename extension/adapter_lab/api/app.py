"""The routes in a FastAPI app, a web UI's or our own."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from adapter_lab import files
from adapter_lab.api.access import PREFIX, authorize, is_remote
from adapter_lab.api.answers import as_json
from adapter_lab.api.call import KINDS, LARGEST_BODY, REQUIRED, Call, Parameter, body_of, checked, from_query
from adapter_lab.api.context import Context
from adapter_lab.api.errors import BadRequest, NotLoggedIn, TooLarge, sentence, status_of
from adapter_lab.api.roots import check_parameters
from adapter_lab.api.route import Route
from adapter_lab.api.table import ROUTES
from adapter_lab.api.threads import in_thread
from adapter_lab.errors import AdapterLabError
from adapter_lab.hosts.console import say
from adapter_lab.worker import JobCancelled

# Nothing of ours is for pages of other sites, nor to be taken for something else than it is.
HEADERS = {"X-Content-Type-Options": "nosniff", "Cross-Origin-Resource-Policy": "same-origin"}


def attach(app: FastAPI, context: Context) -> bool:
    """Put the routes into an app, before all that it has; False where they are there already."""
    if getattr(app.state, "adapter_lab", None) is not None:
        return False
    app.state.adapter_lab = context
    before = list(app.router.routes)
    app.include_router(make_router(context))
    # gradio answers what it does not know with a page of its own, so ours come first.
    ours = [route for route in app.router.routes if route not in before]
    app.router.routes[:] = ours + before
    threading.Thread(target=_tidy, args=(context,), name="adapter-lab-tidying", daemon=True).start()
    return True


def _tidy(context: Context) -> None:
    """Remove what programs left that were killed while they wrote; folders of adapters may be large and far away."""
    for folder in (context.worker.root, context.data_folder, *context.adapter_folders()):
        files.remove_leftovers(Path(folder), below=True)


def make_router(context: Context) -> APIRouter:
    """A router with every route of `table.ROUTES` under /adapter-lab/v1."""
    router = APIRouter(prefix=PREFIX)
    for route in ROUTES:
        router.add_api_route(
            route.path,
            _endpoint(route, context),
            methods=[route.method],
            summary=route.about,
            description=f"Gives {route.gives}.",
            tags=["Adapter Lab"],
            name=f"adapter_lab_{route.handler.__name__}",
            openapi_extra=_described(route),
            response_model=None,
        )
    return router


def _endpoint(route: Route, context: Context) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        try:
            await authorize(request, context)
            values = checked(from_query(request.query_params, route.query), route.query)
            if route.method not in ("GET", "HEAD"):
                values.update(checked(body_of(await _content(request)), route.body))
            call = Call(request.path_params, values, is_remote(request, context), request.headers)
            check_parameters(context, call, (*route.query, *route.body))
            given = await in_thread(route.waits, route.handler, context, call)
            response = given if isinstance(given, Response) else _json(given)
        except ClientDisconnect:
            response = Response(status_code=400)
        except Exception as error:
            response = _refusal(error, context)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    return answer


async def _content(request: Request) -> bytes:
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > LARGEST_BODY:
            raise TooLarge(f"The body has more than {LARGEST_BODY // 2**20} MB, which no request of this kind needs.")
    return bytes(content)


def _json(value: Any, status: int = 200) -> Response:
    return Response(as_json(value), status, media_type="application/json", headers={"Cache-Control": "no-store"})


def _refusal(error: Exception, context: Context) -> Response:
    if not isinstance(error, (AdapterLabError, OSError)):
        say(f"Failed while answering a request; please report this.\n{traceback.format_exc()}")
    values: dict[str, Any] = {"error": sentence(error)}
    if isinstance(error, BadRequest) and error.problems:
        values["problems"] = [{"setting": p.setting, "message": p.message} for p in error.problems]
    response = _json(values, 409 if isinstance(error, JobCancelled) else status_of(error))
    if isinstance(error, NotLoggedIn) and context.credentials:
        response.headers["WWW-Authenticate"] = 'Basic realm="Adapter Lab"'
    return response


# What the app's own documentation (/docs) shows


def _described(route: Route) -> dict[str, Any]:
    described: dict[str, Any] = {"parameters": [_parameter(p, "query") for p in route.query]}
    described["parameters"] += [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in _path_names(route.path)
    ]
    if route.body:
        schema = {
            "type": "object",
            "properties": {p.name: _schema(p) for p in route.body},
            "additionalProperties": False,
        }
        required = [p.name for p in route.body if p.default is REQUIRED]
        described["requestBody"] = {
            "content": {"application/json": {"schema": {**schema, **({"required": required} if required else {})}}}
        }
    return described


def _path_names(path: str) -> list[str]:
    return [part[1:-1].split(":")[0] for part in path.split("/") if part.startswith("{")]


def _parameter(parameter: Parameter, place: str) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": place,
        "required": parameter.default is REQUIRED,
        "description": parameter.about,
        "schema": _schema(parameter),
    }


def _schema(parameter: Parameter) -> dict[str, Any]:
    schema = KINDS[parameter.kind].limited()
    limits = {"enum": list(parameter.choices), "minimum": parameter.minimum, "maximum": parameter.maximum}
    given = {name: value for name, value in limits.items() if value not in (None, [])}
    if schema["type"] == "array" and given:
        schema["items"], given = {**schema["items"], **given}, {}
    return {**schema, "description": parameter.about, **given}
