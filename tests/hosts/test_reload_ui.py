"""Hooks are installed once however often the page is reloaded, and without Adapter Lab the web UI is as it was."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.host_measure import PROMPT, Bench
from tests.support.webui import WebUI, difference, installed_copies, started

TIMES = 10
PER_RELOAD = 60 * 2**20  # of memory; a web UI's own page takes some of it each time


def test_reloading_ten_times_installs_the_hooks_once(bench: Bench, web_ui: WebUI) -> None:
    written = bench.write("own lokr tucker dora on inputs")
    prompt = f"{PROMPT} <lora:{written.name}:1>"
    first_picture, first = web_ui.txt2img(prompt), web_ui.state()
    assert first["wrapped"]
    resident = []
    for _ in range(TIMES):
        web_ui.reload_ui()
        resident.append(web_ui.state()["resident"])
    state = web_ui.state()
    assert state["wrapped"] == first["wrapped"] and state["callbacks"] == first["callbacks"]
    assert all(found["wrappers"] == 1 for found in web_ui.functions(state["wrapped"]).values())
    assert difference(web_ui.txt2img(prompt), first_picture) == 0
    assert resident[-1] - resident[1] < PER_RELOAD * (TIMES - 2), [size // 2**20 for size in resident]
    assert bench.measure("own lokr tucker dora on inputs", 0.6).error < 1e-4


def test_switched_off_or_disabled_the_web_ui_is_as_without_us(bench: Bench, web_ui: WebUI, tmp_path: Path) -> None:
    if "WEBUI_DIR" not in os.environ:
        pytest.fail("this needs WEBUI_DIR, to start the web UI without Adapter Lab")
    folder = Path(os.environ["WEBUI_DIR"])
    prompts = [f"{PROMPT} <lora:{bench.write(case).name}:0.8>" for case in ("own lora", "own lokr", "own loha")]
    with web_ui.options(adapter_lab_loader=False):
        off = [web_ui.txt2img(prompt) for prompt in prompts]
    assert all(picture.adapter_lab == "" for picture in off)
    web_ui.post("/sdapi/v1/options", {"disabled_extensions": [path.name for path in installed_copies(folder)]})
    try:
        web_ui.reload_ui()
        state = web_ui.state()
        gone = [web_ui.txt2img(prompt) for prompt in prompts]
    finally:
        web_ui.post("/sdapi/v1/options", {"disabled_extensions": []})
        web_ui.reload_ui()
    assert state["wrapped"] == [] and state["callbacks"] == {}
    assert web_ui.state()["wrapped"]
    with started(folder, tmp_path / "alone.txt", with_adapter_lab=False) as alone:
        without = [alone.txt2img(prompt) for prompt in prompts]
    assert [difference(*pair) for pair in zip(off, without)] == [0] * len(prompts)
    assert [difference(*pair) for pair in zip(gone, without)] == [0] * len(prompts)
