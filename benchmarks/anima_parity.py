"""Compares Anima with sd-scripts, diffusers and Forge Neo: same files of random weights, captions, x0, t and noise.

    python benchmarks/anima_parity.py --sd-scripts PATH --sd-scripts-python PYTHON --neo PATH --neo-python PYTHON

PATHs are checkouts of kohya-ss/sd-scripts and of Haoming02's sd-webui-forge-classic, branch neo; PYTHONs are
interpreters that have their requirements (--sd-scripts-packages FOLDER: a folder with what the first one lacks). What
has no PATH is left out, and that is said; diffusers is the one installed here. Widths are those of the released model,
with two blocks, in fp32 on the CPU: about 5 GB of memory. --speed also measures steps in turns with sd-scripts. Exits
with 1 where a difference is above its limit.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "extension")]

import torch
import torch.nn.functional as F
from diffusers.models.transformers import transformer_cosmos
from diffusers.modular_pipelines import SequentialPipelineBlocks
from diffusers.modular_pipelines.anima.encoders import AnimaTextEncoderStep
from diffusers.modular_pipelines.anima.modular_blocks_anima import AnimaCoreDenoiseStep
from diffusers.schedulers import FlowMatchEulerDiscreteScheduler
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from adapter_lab.adapters.anima import standard_shapes
from adapter_lab.adapters.keys import targets
from adapter_lab.config import BaseConfig, LossConfig, PreviewConfig, TrainConfig
from adapter_lab.families import TRANSFORMERS
from adapter_lab.training.bases import open_base
from adapter_lab.training.denoiser.step import attention_kernel
from adapter_lab.training.network.blocks import recompute
from adapter_lab.training.network.network import build_network
from adapter_lab.training.objective.losses import sample_losses
from adapter_lab.training.objective.noise import draw_noise, generator_of
from adapter_lab.training.output.preview import PromptText, sample_latents
from tests.support.anima import vae_shapes
from tests.support.checkpoints import write_random_checkpoint

Row = tuple[str, str, float, float]  # what, compared with, largest difference, its limit
# As a training file has them, for Neo's engine. A prompt escapes parentheses, which are emphasis there.
CAPTIONS = {
    "plain tags": "1girl, solo, looking at viewer, smile",
    "emoji": "😀 party, confetti 🎉",
    "Japanese": "かわいい猫, 花",
    "empty": "",
    "600 tokens": ", ".join(f"tag {number}" for number in range(184)),
    "parentheses": "hatsune miku (vocaloid), (sketch) [draft]",
    "newline": "a red hat\na blue coat",
    "very long single word": "antidisestablishmentarianism" * 12,
    "mixed case": "A Watercolour of TWO Foxes under a maPLE",
    "Chinese": "一只猫坐在红色的沙发上",
}
STEP_CAPTIONS = [CAPTIONS[name] for name in ("plain tags", "Japanese", "parentheses", "empty")]
# Name -> (sd-scripts' options, ours). sd-scripts counts its logit-normal times from the noise, so that the mean is
# negated there, and it rounds them to whole thousandths.
TIMES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "sigmoid": ({"timestep_sampling": "sigmoid"}, {}),
    "shift 3": ({"timestep_sampling": "shift", "discrete_flow_shift": 3.0}, {"timestep_shift": 3.0}),
    "uniform": (
        {"timestep_sampling": "uniform", "discrete_flow_shift": 1.0},
        {"timestep_distribution": "uniform"},
    ),
    "logit-normal (0.5, 0.8)": (
        {"timestep_sampling": "sigma", "weighting_scheme": "logit_normal", "logit_mean": -0.5, "logit_std": 0.8},
        {"timestep_mean": 0.5, "timestep_std": 0.8},
    ),
}
ROUNDED = "logit-normal"
BLOCKS, LAYERS, DIM, ALPHA = 2, 2, 8, 4.0
# What rounding in fp32 explains: losses, times out of 1000, each gradient relative to its own norm, and contexts and
# latents relative to their largest value.
LOSS, TIME, ROUNDED_TIME, GRADIENT, RELATIVE = 1e-6, 1e-3, 1.001, 1e-5, 1e-5
DIFFUSERS_STEPS, SHIFT, GUIDANCE = 5, 3.0, 4.0
SPEED_BLOCKS, SPEED_DIM, ROUNDS = 4, 32, 7


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sd-scripts", type=Path, metavar="PATH")
    parser.add_argument("--sd-scripts-python", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--sd-scripts-packages", type=Path, metavar="FOLDER")
    parser.add_argument("--neo", type=Path, metavar="PATH")
    parser.add_argument("--neo-python", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--speed", action="store_true", help=f"also measure steps at 256 px with {SPEED_BLOCKS} blocks")
    chosen = parser.parse_args()
    if chosen.speed and not chosen.sd_scripts:
        parser.error("--speed measures in turns with sd-scripts: give --sd-scripts too")
    for option, path, mark in (
        ("--sd-scripts", chosen.sd_scripts, "anima_train_network.py"),
        ("--neo", chosen.neo, "backend/text_processing/anima_engine.py"),
    ):
        if path and not (path / mark).is_file():
            parser.error(f"{option} {path} has no {mark}: give a checkout that knows Anima")
    fails = 0
    print("| compared | with | largest difference | limit |\n|---|---|---:|---:|", flush=True)
    with tempfile.TemporaryDirectory() as name:
        path = write_files(Path(name), BLOCKS)
        for rows, needed in ((beside_sd_scripts, "sd_scripts"), (beside_diffusers, ""), (beside_neo, "neo")):
            if needed and not getattr(chosen, needed):
                print(f"left out: {needed.replace('_', '-')} (--{needed.replace('_', '-')} PATH)", file=sys.stderr)
                continue
            for what, other, difference, limit in rows(path, chosen):
                print(f"| {what} | {other} | {difference:.1e} | {limit:g} |", flush=True)
                fails += not difference <= limit
    if chosen.speed:
        with tempfile.TemporaryDirectory() as name:
            print_speed(write_files(Path(name), SPEED_BLOCKS), chosen)
    return int(bool(fails))


def write_files(folder: Path, blocks: int) -> Path:
    """Random files of the released widths with few blocks, and few layers of the text encoder."""
    row = TRANSFORMERS["anima"]
    text = replace(row.text[0], config={**row.text[0].config, "num_hidden_layers": LAYERS})
    shapes = standard_shapes(replace(row, text=(text, row.text[1])), blocks)
    encoder = {name: shape for name, shape in shapes.items() if name.startswith("model.")}
    transformer = {f"net.{name}": shape for name, shape in shapes.items() if name not in encoder}
    write_random_checkpoint(folder / "qwen_3_06b_base.safetensors", encoder, torch.bfloat16, 1)
    write_random_checkpoint(folder / "qwen_image_vae.safetensors", vae_shapes(), torch.bfloat16, 2)
    return write_random_checkpoint(folder / "anima.safetensors", transformer, torch.bfloat16, 3)


def opened(path: Path, **settings: Any) -> Any:
    return open_base(BaseConfig(checkpoint=str(path), **settings))


def relative(ours: Tensor, other: Tensor) -> float:
    return float((ours - other).abs().max() / other.abs().max())


def other_program(what: str, checkout: Path, python: str, folder: Path, packages: Path | None) -> subprocess.Popen[str]:
    """`anima_others.py` started with the other program's interpreter."""
    path = os.pathsep.join([str(checkout.resolve()), *([str(packages.resolve())] if packages else [])])
    script = Path(__file__).with_name("anima_others.py")
    return subprocess.Popen(
        [python, str(script), what, str(checkout), str(folder)],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def answer_of(program: subprocess.Popen[str], file: Path) -> dict[str, Tensor]:
    """The tensors that it wrote."""
    program.communicate()
    if program.returncode:
        raise SystemExit(f"{file.stem}'s own code ended with exit code {program.returncode}; its output is above.")
    return dict(load_file(file))


# sd-scripts


def beside_sd_scripts(path: Path, chosen: Any) -> Iterator[Row]:
    """Context, times, losses and gradients of one step of four captions."""
    generator = torch.Generator().manual_seed(11)
    draws = [("parity", number) for number in range(len(STEP_CAPTIONS))]
    latents = torch.randn((len(draws), 16, 32, 24), generator=generator)
    noise = torch.stack([draw_noise(latents.shape[1:], LossConfig(), *names) for names in draws])
    base = opened(path, empty_caption="masked")
    with torch.no_grad():
        text = base.load_text_encoders(torch.float32).encode(STEP_CAPTIONS)
    unet, network = with_lora(base, path, DIM, ALPHA)
    given = {f"drawn {name}": drawn_numbers(options, draws) for name, (_, options) in TIMES.items()}
    given["drawn logit-normal (0.5, 0.8)"] *= -1
    save_file({"latents": latents, "noise": noise, **given}, path.with_name("inputs.safetensors"))
    task = {"captions": STEP_CAPTIONS, "times": TIMES, "blocks": BLOCKS, "layers": LAYERS, "dim": DIM, "alpha": ALPHA}
    path.with_name("task.json").write_text(json.dumps({**task, "arguments": []}), encoding="utf-8")
    program = other_program(
        "sd-scripts", chosen.sd_scripts, chosen.sd_scripts_python, path.parent, chosen.sd_scripts_packages
    )
    theirs = answer_of(program, path.with_name("sd-scripts.safetensors"))
    yield "context of four captions, one empty", "sd-scripts", relative(text.hidden, theirs["context"]), RELATIVE
    objective = base.objective()
    for name, (_, options) in TIMES.items():
        times = objective.times([objective.draw(LossConfig(**options), *names) for names in draws])
        rounded = name.startswith(ROUNDED)
        gap = float((times - theirs[f"time {name}"]).abs().max())
        yield f"times out of 1000, {name}", "sd-scripts", gap, ROUNDED_TIME if rounded else TIME
        at = theirs[f"time {name}"] if rounded else times
        network.zero_grad()
        answer = base.denoise(unet, objective.mix(latents, noise, at), at, text, [])
        loss = sample_losses(answer, objective.target(latents, noise, at), None, LossConfig()).mean()
        loss.backward()
        yield f"loss, {name}", "sd-scripts", abs(loss.item() - theirs[f"loss {name}"].item()), LOSS
        yield f"LoRA gradients, {name}", "sd-scripts", gradient_gap(network, theirs, name), GRADIENT


def with_lora(base: Any, path: Path, dim: int, alpha: float) -> tuple[Any, Any]:
    """The transformer and its LoRA, with random values in both factors, which are saved beside the file as well."""
    config = TrainConfig()
    config.network.dim, config.network.alpha = dim, alpha
    unet = base.load_unet(torch.float32)
    network = build_network(config.network, targets(base.shapes), {"unet": unet}, 0)
    generator = torch.Generator().manual_seed(5)
    for parameter in network.parameters():
        if not parameter.any():
            parameter.data = 0.01 * torch.randn(parameter.shape, generator=generator)
    network.attach()
    save_file(network.adapter_tensors(), path.with_name("lora.safetensors"))
    return unet, network


def drawn_numbers(options: dict[str, Any], draws: list[tuple[Any, ...]]) -> Tensor:
    """The normal or uniform numbers of which our times are made."""
    draw = torch.rand if options.get("timestep_distribution") == "uniform" else torch.randn
    numbers = [draw((), generator=generator_of("timestep", *names), dtype=torch.float64) for names in draws]
    return torch.stack(numbers).float()


def gradient_gap(network: Any, theirs: dict[str, Tensor], name: str) -> float:
    """The largest difference of a factor's gradient, relative to its norm."""
    worst, left = 0.0, {key for key in theirs if key.startswith(f"{name} ")}
    for plan, layer in zip(network.plans, network.layers.values()):
        for factor in ("down", "up"):
            key = f"{name} {plan.target.kohya}.lora_{factor}.weight"
            ours, other = layer.get_parameter(factor).grad, theirs[key]
            worst = max(worst, float((ours.view(-1) - other.view(-1)).norm() / other.norm()))
            left.remove(key)
    assert not left, sorted(left)[:3]
    return worst


# diffusers


def beside_diffusers(path: Path, chosen: Any) -> Iterator[Row]:
    """Contexts, noise levels and latents of a sampler with guidance, by the blocks of its pipeline on our modules.

    Of our modules, since diffusers' own transformer adds another epsilon in the norms of queries and keys.
    """
    base = opened(path, empty_caption="masked")
    encoders = base.load_text_encoders(torch.float32)
    unet = base.load_unet(torch.float32)
    prompts, seeds, side = STEP_CAPTIONS[:3], (1, 2, 3), 128
    with torch.no_grad():
        both = [(encoders.encode([prompt]), encoders.encode([""])) for prompt in prompts]
        texts = [PromptText(prompt, *pair) for prompt, pair in zip(prompts, both)]
        preview = PreviewConfig(steps=DIFFUSERS_STEPS, guidance=GUIDANCE, shift=SHIFT)
        ours = sample_latents(base, unet, preview, texts, seeds, (side, side), torch.device("cpu"), torch.float32)
    start = torch.cat(
        [torch.randn((1, 16, 1, side // 8, side // 8), generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    )
    blocks = SequentialPipelineBlocks.from_blocks_dict(
        {"text": AnimaTextEncoderStep(), "denoise": AnimaCoreDenoiseStep()}
    )
    pipeline = blocks.init_pipeline()
    # Its own way to add the channel of padding, for which it needs one function of torchvision.
    unet.register_to_config(concat_padding_mask=True)
    transformer_cosmos.transforms = SimpleNamespace(
        InterpolationMode=SimpleNamespace(NEAREST="nearest"),
        functional=SimpleNamespace(resize=lambda mask, size, interpolation: F.interpolate(mask, size)),
    )
    pipeline.update_components(
        text_encoder=encoders.parts["te1"],
        tokenizer=PreTrainedTokenizerFast(tokenizer_object=encoders.tokens.qwen3, pad_token="<|endoftext|>"),
        t5_tokenizer=PreTrainedTokenizerFast(
            tokenizer_object=encoders.tokens.t5, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
        ),
        text_conditioner=encoders.parts["conditioner"],
        transformer=unet,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT),
    )
    pipeline.set_progress_bar_config(disable=True)
    state = pipeline(
        prompt=prompts, negative_prompt=[""] * len(prompts), num_inference_steps=DIFFUSERS_STEPS,
        height=side, width=side, latents=start,
    )  # fmt: skip
    other = "diffusers"
    for what, index, found in (
        ("three prompts", 0, "prompt_embeds"),
        ("the empty prompt", 1, "negative_prompt_embeds"),
    ):
        context = torch.cat([pair[index].hidden for pair in both])
        yield f"context of {what}", other, relative(context, state.get(found)), RELATIVE
    levels = base.objective().sampler(DIFFUSERS_STEPS, SHIFT).timesteps
    yield "noise levels out of 1000, shift 3", other, float((levels - state.get("timesteps")).abs().max()), TIME
    latents = state.get("latents")[:, :, 0]
    yield f"latents after {DIFFUSERS_STEPS} steps, guidance 4", other, relative(ours, latents), RELATIVE


# Forge Neo


def beside_neo(path: Path, chosen: Any) -> Iterator[Row]:
    """Contexts of ten captions, typed as a prompt and, with emphasis off, as they are."""
    captions = list(CAPTIONS.values())
    task = {"captions": captions, "typed": [escaped(caption) for caption in captions], "layers": LAYERS}
    path.with_name("task.json").write_text(json.dumps(task), encoding="utf-8")
    program = other_program("neo", chosen.neo, chosen.neo_python, path.parent, None)
    theirs = answer_of(program, path.with_name("neo.safetensors"))
    encoders = opened(path).load_text_encoders(torch.float32)
    for number, (name, caption) in enumerate(CAPTIONS.items()):
        with torch.no_grad():
            ours = encoders.encode([caption]).hidden
        others = [theirs[f"{emphasis} {number}"] for emphasis in ("Original", "None")]
        gap = max(relative(ours, other) if ours.shape == other.shape else float("inf") for other in others)
        sizes = [len(ids(caption)) for ids in (encoders.tokens.text_ids, encoders.tokens.target_ids)]
        yield f"context: {name} ({' and '.join(map(str, sizes))} tokens of Qwen3 and T5)", "Forge Neo", gap, RELATIVE


def escaped(caption: str) -> str:
    """A caption as it is typed into a prompt where brackets are to be read as brackets."""
    for bracket in "()[]":
        caption = caption.replace(bracket, f"\\{bracket}")
    return caption


# Speed


def print_speed(path: Path, chosen: Any) -> None:
    """Medians of forward and backward at 256 px, in turns with sd-scripts; both with checkpointing and cached text."""
    base = opened(path, empty_caption="masked")
    with torch.no_grad():
        text = base.load_text_encoders(torch.float32).encode(STEP_CAPTIONS[:1])
    unet, network = with_lora(base, path, SPEED_DIM, SPEED_DIM / 2)
    recompute(unet, base.row.blocks)
    unet.train(), network.train()
    latents, noise = torch.randn((2, 1, 16, 32, 32), generator=torch.Generator().manual_seed(3))
    objective = base.objective()
    save_file({"latents": latents}, path.with_name("inputs.safetensors"))
    task = {"captions": STEP_CAPTIONS[:1], "blocks": SPEED_BLOCKS, "layers": LAYERS, "dim": SPEED_DIM}
    task |= {"alpha": SPEED_DIM / 2, "arguments": ["--gradient_checkpointing", "--timestep_sampling", "sigmoid"]}
    path.with_name("task.json").write_text(json.dumps(task), encoding="utf-8")
    program = other_program(
        "speed", chosen.sd_scripts, chosen.sd_scripts_python, path.parent, chosen.sd_scripts_packages
    )
    assert program.stdin and program.stdout
    if program.stdout.readline().strip() != "ready":
        raise SystemExit("sd-scripts' own code did not start; its output is above.")

    def ours() -> float:
        begin = time.perf_counter()
        network.zero_grad()
        at = objective.times([objective.draw(LossConfig(), "speed")])
        with attention_kernel(latents.device, latents):
            answer = base.denoise(unet, objective.mix(latents, noise, at), at, text, [])
            sample_losses(answer, objective.target(latents, noise, at), None, LossConfig()).mean().backward()
        return time.perf_counter() - begin

    def theirs(how: str) -> float:
        print(how, file=program.stdin, flush=True)
        return float(program.stdout.readline())

    # The first one allocates.
    seconds = [(ours(), theirs("whole"), theirs("context kept")) for _ in range(ROUNDS + 1)][1:]
    program.communicate()
    print(f"\nLoRA {SPEED_DIM} at 256 px, {SPEED_BLOCKS} blocks, {torch.get_num_threads()} threads, {ROUNDS} rounds:")
    print(f"a step takes {statistics.median(column[0] for column in seconds):.2f} s")
    for index, what in ((1, "its own step"), (2, "its step without the text conditioner")):
        other = statistics.median(row[index] for row in seconds)
        ratio = statistics.median(row[0] / row[index] for row in seconds)
        print(f"sd-scripts, {what}: {other:.2f} s, ratio {ratio:.2f}")


if __name__ == "__main__":
    sys.exit(main())
