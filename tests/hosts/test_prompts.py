"""What a person does with adapter files in a prompt: replaces them, misspells them, breaks them, weighs their parts."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.support.host_cases import EVERY_KIND, modules_at
from tests.support.host_measure import PROMPT, Bench
from tests.support.webui import difference

TOLERANCE = 1e-4


def errors(bench: Bench, wanted: dict[str, torch.Tensor]) -> dict[str, float]:
    """Errors of the loaded model's layers, relative to the size of what is wanted."""
    found = bench.outputs(list(wanted))
    return {module: float((found[module] - wanted[module]).norm() / wanted[module].norm()) for module in wanted}


def put(bench: Bench, case: str, name: str, factor: float = 1.0) -> Path:
    """A copy of a case's file under another name, as a trainer replaces files; its update times `factor` (LoRA)."""
    tensors = load_file(bench.folder / f"{bench.write(case).name}.safetensors")
    scaled = {key: tensor * factor if "lora_up" in key else tensor for key, tensor in tensors.items()}
    path = bench.folder / f"{name}.safetensors"
    save_file(scaled, path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)
    bench.web_ui.refresh_adapters()
    return path


def scaled(bench: Bench, case: str, factor: float) -> dict[str, torch.Tensor]:
    """What layers compute with a LoRA's update times `factor`."""
    written = bench.write(case)
    return {module: torch.lerp(bench.base_outputs[module], out, factor) for module, out in written.outputs.items()}


def test_a_retrained_file_of_the_same_name_shows_in_the_next_picture(bench: Bench, scope: str) -> None:
    prompt = f"{PROMPT} <lora:al-retrained:1>"
    put(bench, "lora, LDM names", "al-retrained")
    before = bench.web_ui.txt2img(prompt)
    assert max(errors(bench, scaled(bench, "lora, LDM names", 1.0)).values()) < TOLERANCE
    put(bench, "lora, LDM names", "al-retrained", factor=-1.0)
    after = bench.web_ui.txt2img(prompt)
    assert max(errors(bench, scaled(bench, "lora, LDM names", -1.0)).values()) < TOLERANCE
    assert difference(before, after) > 2


def test_a_retrained_text_encoder_is_heard_in_the_next_picture(bench: Bench, scope: str) -> None:
    # The web UI keeps what the text encoder made of the same prompt.
    prompt = f"{PROMPT} <lora:al-text:1:0>"
    put(bench, "lora, LDM names", "al-text", factor=3.0)
    before = bench.web_ui.txt2img(prompt)
    put(bench, "lora, LDM names", "al-text", factor=-3.0)
    after = bench.web_ui.txt2img(prompt)
    assert difference(before, after) > 0
    again = bench.web_ui.txt2img(prompt)
    assert difference(after, again) == 0


def test_a_missing_and_a_broken_file_leave_the_others_in_place(bench: Bench, scope: str) -> None:
    broken = put(bench, "own lokr", "al-broken")
    broken.write_bytes(broken.read_bytes()[:5000])
    written = bench.write("own diag-oft")
    picture = bench.web_ui.txt2img(f"{PROMPT} <lora:al-broken:1> <lora:al-nowhere:1> <lora:{written.name}:1>")
    assert max(errors(bench, written.outputs).values()) < TOLERANCE
    assert f"{written.name}: diag-oft, 9 of 9 modules" in picture.adapter_lab
    assert "al-broken: not applied" in picture.adapter_lab and "al-nowhere: not applied" in picture.adapter_lab
    broken.unlink()


def test_text_encoder_and_unet_have_strengths_of_their_own(bench: Bench, scope: str) -> None:
    written = bench.write("own lokr dora")
    bench.web_ui.txt2img(f"{PROMPT} <lora:{written.name}:0.3:0.8>")
    wanted = {
        module: torch.lerp(bench.base_outputs[module], output, 0.3 if module.startswith("lora_te_") else 0.8)
        for module, output in written.outputs.items()
    }
    assert max(errors(bench, wanted).values()) < TOLERANCE


def test_after_adapters_the_model_is_what_it_was(bench: Bench, scope: str) -> None:
    plain = bench.web_ui.txt2img(PROMPT)
    for case in ("own lokr", "own boft", "own full", "norm layers"):
        bench.measure(case, 1.0)
    again = bench.web_ui.txt2img(PROMPT)
    assert difference(plain, again) == 0
    assert max(errors(bench, bench.base_outputs).values()) < 1e-6
    assert again.adapter_lab == ""


def test_a_file_overwritten_while_it_is_loaded_corrupts_nothing(bench: Bench, scope: str) -> None:
    written = bench.write("own lora dora")  # which no web UI loads by itself
    path = bench.folder / "al-overwritten.safetensors"
    shutil.copyfile(bench.folder / f"{written.name}.safetensors", path)
    bench.web_ui.refresh_adapters()
    bench.web_ui.txt2img(f"{PROMPT} <lora:al-overwritten:1>")
    size, stamp = path.stat().st_size, path.stat().st_mtime_ns
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(b"\xff" * (size // 2))
    os.utime(path, ns=(stamp, stamp))  # what is loaded is not to be read again
    bench.web_ui.txt2img(f"{PROMPT} <lora:al-overwritten:0.5>")
    wanted = {module: torch.lerp(bench.base_outputs[module], out, 0.5) for module, out in written.outputs.items()}
    assert max(errors(bench, wanted).values()) < TOLERANCE


def test_the_loaded_model_is_in_fp32(bench: Bench) -> None:
    bench.web_ui.txt2img(PROMPT)
    dtypes = bench.web_ui.state()["dtypes"]
    assert dtypes == ["torch.float32"], f"start the web UI with its flags for fp32: errors of {dtypes} cannot be told"
    assert (
        max(errors(bench, {module: bench.base_outputs[module] for module in modules_at(EVERY_KIND, 0)}).values()) < 1e-6
    )
