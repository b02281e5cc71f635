"""A web UI has the functions that its stand-in in tests/loading/standins imitates, with the same parameters."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.support.webui import WebUI

STANDINS = Path(__file__).parents[1] / "loading" / "standins"


def family(web_ui: WebUI) -> str:
    """Which family's module of `hosts` is at work in the web UI."""
    modules = web_ui.state()["modules"]
    return next(path.name for path in STANDINS.iterdir() if f"adapter_lab.hosts.families.{path.name}" in modules)


def imitated(folder: Path) -> dict[str, list[str]]:
    """Parameters of the public functions and methods in a stand-in's files, by "module:attribute"."""
    found = {}
    for path in folder.rglob("*.py"):
        module = ".".join(path.relative_to(folder).with_suffix("").parts)
        for prefix, function in functions_of(ast.parse(path.read_text(encoding="utf-8"))):
            found[f"{module}:{prefix}{function.name}"] = [argument.arg for argument in function.args.args]
    return found


def functions_of(tree: ast.Module) -> list[tuple[str, ast.FunctionDef]]:
    found = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            found.append(("", node))
        elif isinstance(node, ast.ClassDef):
            found += [(f"{node.name}.", method) for method in node.body if isinstance(method, ast.FunctionDef)]
    return [(prefix, function) for prefix, function in found if not function.name.startswith("_")]


def test_stand_ins_have_the_signatures_of_the_web_ui(web_ui: WebUI) -> None:
    wanted = imitated(STANDINS / family(web_ui))
    real = web_ui.functions(list(wanted))
    missing = [name for name, found in real.items() if found is None]
    assert not missing
    differing = {
        name: (wanted[name], real[name]["parameters"])
        for name in wanted
        if real[name]["parameters"][: len(wanted[name])] != wanted[name]
    }
    assert not differing
