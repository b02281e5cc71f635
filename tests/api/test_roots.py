"""Where others reach the server, no path leads out of the allowed folders: every setting and value that is a path."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from fastapi.testclient import TestClient

from adapter_lab.api import Context
from adapter_lab.api.table import ROUTES
from adapter_lab.config import PATHS, sections, type_of
from adapter_lab.study.scores.settings import PICTURES, SCORERS, PictureSettings

# Texts without a choice that are no paths; a new setting is one of these, or says which kind of path it is.
NO_PATHS = {
    "dataset.sources.trigger", "dataset.sources.class_tokens", "dataset.sources.prefix", "dataset.sources.suffix",
    "dataset.caption_extensions", "dataset.trigger", "dataset.class_tokens", "dataset.keep_tokens_separator",
    "dataset.prefix", "dataset.suffix", "network.rules.match", "precision.device", "run.name", "preview.prompts",
    "preview.negative", "scores.pictures.prompts", "scores.pictures.neutral", "scores.pictures.concepts",
    "scores.pictures.negative", "scores.clip.metrics", "scores.clip.device", "scores.dino.metrics",
    "scores.dino.device", "scores.tagger.metrics",
    "optimizer.args",
}  # fmt: skip
# Values of requests that are texts and no paths; `out` may be a plain name, and is checked where it is understood.
NO_PATH_VALUES = {
    "out", "preset", "when", "how", "to", "for", "dtype", "form", "text_encoders", "name", "order", "prompts",
    "algorithms", "names",
}  # fmt: skip


def texts(owner: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Every setting that holds texts which nobody chose the words of."""
    for entry in dataclasses.fields(owner):
        kind = type_of(owner, entry.name)
        (item,) = get_args(kind) or (kind,) if len(get_args(kind)) == 1 else (kind,)
        if dataclasses.is_dataclass(item):
            yield from texts(item, f"{where}.{entry.name}")
        elif item is str and not entry.metadata["choices"]:
            yield f"{where}.{entry.name}", entry


ALL = [(name, entry) for section, owner in sections() for name, entry in texts(owner, section)]
SCORES = [
    (name, entry)
    for scorer, owner in {PICTURES: PictureSettings, **SCORERS}.items()
    for name, entry in texts(owner, f"scores.{scorer}")
]
CHECKED = [name for name, entry in ALL if entry.metadata["path"] not in ("", "decided")]
MODELS = [name for name, entry in SCORES if entry.metadata["path"]]


def test_every_text_is_known_to_be_a_path_or_none() -> None:
    for name, entry in [*ALL, *SCORES]:
        assert (name in NO_PATHS) != (entry.metadata["path"] in PATHS), f"say of {name} what it is"
    assert {"base.checkpoint", "dataset.sources.folder", "network.frozen_adapters"} <= set(CHECKED)
    assert {"scores.clip.model", "scores.dino.model", "scores.tagger.model"} == set(MODELS)


def test_every_text_of_a_request_is_known_to_be_a_path_or_none() -> None:
    for route in ROUTES:
        for value in (*route.query, *route.body):
            if value.kind in ("text", "texts"):
                assert value.name in NO_PATH_VALUES, f"{route.method} {route.path}: say of {value.name} what it is"


@pytest.fixture
def public(context: Context, tmp_path: Path) -> Path:
    """A server that others reach, and a folder that they may not name."""
    context.public = lambda: True
    private = tmp_path / "private"
    private.mkdir()
    (private / "a.safetensors").write_bytes(b"x")
    return private


@pytest.mark.parametrize("name", CHECKED)
def test_no_setting_leads_out(name: str, client: TestClient, context: Context, public: Path) -> None:
    section, setting, *inner = name.split(".")
    value: Any = str(public)
    if name == "network.frozen_adapters":
        value = [f"{public}:0.5"]
    elif inner:
        value = [{inner[0]: value}]
    settings = {"run.steps": 1, f"{section}.{setting}": value}
    allowed = context.worker.root / "pictures"
    allowed.mkdir()
    settings = {"dataset.folder": str(allowed), "base.checkpoint": str(allowed), **settings}
    variants = [{"name": "a", "settings": {}}]
    study = {"name": "s", "settings": {k: v for k, v in settings.items() if k != "run.steps"}, "variants": variants}
    for route, body in (
        ("/runs", {"settings": settings}),
        ("/estimate", {"settings": settings}),
        ("/dataset/report", {"settings": settings}),
        ("/studies", {**study, "budget": {"unit": "steps", "amount": 8}}),
        ("/studies/plan", {**study, "budget": {"unit": "steps", "amount": 8}}),
    ):
        answer = client.post(route, json=body)
        assert answer.status_code == 403 and str(public) in answer.json()["error"], (route, answer.text)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("model", ["private", "somebody/some-model"])
def test_no_model_of_a_scorer_leads_out(
    name: str, model: str, client: TestClient, context: Context, public: Path
) -> None:
    allowed = context.worker.root / "pictures"
    allowed.mkdir()
    body: dict[str, Any] = {
        "name": "s",
        "settings": {"dataset.folder": str(allowed), "base.checkpoint": str(allowed)},
        "variants": [{"name": "a", "settings": {}}],
        "budget": {"unit": "steps", "amount": 8},
    }
    _, scorer, setting = name.split(".")
    asked = str(public) if model == "private" else model
    for route in ("/studies", "/studies/plan"):
        answer = client.post(route, json={**body, "scores": {scorer: {setting: asked}}})
        assert answer.status_code == 403 and asked in answer.json()["error"], answer.text


@pytest.mark.parametrize(
    ("route", "name"),
    [(r, p.name) for r in ROUTES for p in (*r.query, *r.body) if p.kind in ("path", "paths") or p.name == "out"],
    ids=lambda value: value if isinstance(value, str) else f"{value.method} {value.path}",
)
def test_no_value_of_a_request_leads_out(
    route: Any, name: str, client: TestClient, make_run: Any, public: Path
) -> None:
    allowed, secret = str(make_run("cat").path / "config.toml"), str(public / "a.safetensors")
    values: dict[str, Any] = {}
    for parameter in (*route.query, *route.body):
        if parameter.kind in ("path", "paths") or parameter.name == "out":
            text = secret if parameter.name == name else allowed if parameter.kind != "text" else "new"
            values[parameter.name] = [text] if parameter.kind == "paths" else text
    sent = {"params": values} if route.query else {"json": values}
    answer = client.request(route.method, route.path.replace("{id}", "cat"), **sent)
    assert answer.status_code == 403 and str(public) in answer.json()["error"], answer.text
