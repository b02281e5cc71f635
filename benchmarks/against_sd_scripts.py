"""Conditioning, noise, targets, weights and losses beside sd-scripts' own code, on the same inputs.

    PYTHONPATH=SD_SCRIPTS:extension python benchmarks/against_sd_scripts.py [--checkpoint SD15.safetensors]

Run it with an interpreter that has sd-scripts' requirements. Nothing is downloaded: text encoders of the real size have
random weights, and both programs read CLIP's vocabulary from this repository. With a checkpoint of SD 1.5 each program
loads it by its own code, and the losses of one step are compared as well. Everything is in fp32 on the CPU. Columns:
what is compared, and the largest difference relative to the largest value.
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "extension"))

import torch
from diffusers import DDPMScheduler
from library import custom_train_functions as theirs
from library import model_util, strategy_sd, strategy_sdxl, train_util
from torch import Tensor

from adapter_lab.config import BaseConfig, LossConfig
from adapter_lab.families import FAMILIES
from adapter_lab.training.bases import open_base
from adapter_lab.training.bases.modules import new_text_encoder
from adapter_lab.training.bases.text import TextEncoders
from adapter_lab.training.bases.tokenizer import END, MERGES, START, VOCABULARY, clip_tokenizer
from adapter_lab.training.objective.losses import (
    huber_deltas,
    sample_losses,
    snr_weights,
)
from adapter_lab.training.objective.noise import draw_noise
from adapter_lab.training.objective.objective import Diffusion, rescale_zero_terminal_snr, scaled_linear_alphas_cumprod

STEPS = torch.arange(1000)
CAPTIONS = [
    "",
    "a photo of a cat, sitting on a red sofa",
    "masterpiece, 1girl, " + ", ".join(f"tag {n}" for n in range(18)),
]
Row = tuple[str, float]


def difference(ours: Tensor, other: Tensor) -> float:
    """The largest difference relative to the largest value of the other."""
    ours, other = ours.detach().double(), other.detach().double()
    return float((ours - other).abs().max() / other.abs().max())


def schedules(zero_terminal: bool, prediction: str) -> tuple[Diffusion, Any]:
    """Ours and theirs."""
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)
    theirs.prepare_scheduler_for_custom_training(scheduler, "cpu")
    alphas = scaled_linear_alphas_cumprod()
    if zero_terminal:
        theirs.fix_noise_scheduler_betas_for_zero_terminal_snr(scheduler)
        alphas = rescale_zero_terminal_snr(alphas)
    return Diffusion(alphas, prediction), scheduler


# Name -> ours, and theirs as a function of (loss, timesteps, scheduler, whether v).
WEIGHTS: dict[str, tuple[dict[str, Any], Any]] = {
    "min-SNR 5": ({"min_snr_gamma": 5.0}, lambda loss, t, s, v: theirs.apply_snr_weight(loss, t, s, 5, v)),
    "debiased": ({"debiased": True}, lambda loss, t, s, v: theirs.apply_debiased_estimation(loss, t, s, v)),
    "scale_v_pred_loss_like_noise_pred": (
        {"v_as_epsilon": True},
        lambda loss, t, s, v: theirs.scale_v_prediction_loss_like_noise_prediction(loss, t, s),
    ),
    "v_pred_like_loss 0.5": (
        {"v_like": 0.5},
        lambda loss, t, s, v: theirs.add_v_prediction_like_loss(loss, t, s, torch.tensor(0.5)),
    ),
}
ONLY = {"v_as_epsilon": "v_prediction", "v_like": "epsilon"}


def weights() -> Iterator[Row]:
    """Every weighting at all timesteps."""
    for zero_terminal in (False, True):
        for prediction in ("v_prediction",) if zero_terminal else ("epsilon", "v_prediction"):
            ours, scheduler = schedules(zero_terminal, prediction)
            for name, (options, function) in WEIGHTS.items():
                if ONLY.get(next(iter(options)), prediction) != prediction or (
                    zero_terminal and prediction == "epsilon"
                ):
                    continue
                other = function(torch.ones(1000), STEPS, scheduler, prediction == "v_prediction")
                found = snr_weights(ours, STEPS, LossConfig(**options))
                # sd-scripts keeps the ordinary schedule's SNR, so that only the absolute difference says something.
                gap = difference(found, other) if zero_terminal else float(((found - other) / other).abs().max())
                yield f"weight: {name}, {prediction}{', zero terminal SNR' if zero_terminal else ''}", gap


def losses() -> Iterator[Row]:
    """Every kind of loss and every schedule of its delta, at all timesteps."""
    ours, scheduler = schedules(False, "epsilon")
    prediction, target = torch.randn(2, 1000, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    names = {"l2": "mse", "l1": "l1", "huber": "pseudo_huber", "smooth_l1": "pseudo_smooth_l1"}
    for kind, name in names.items():
        for schedule in ("constant", "snr", "exponential") if "seudo" in name else ("constant",):
            args = Namespace(loss_type=kind, huber_schedule=schedule, huber_c=0.1, huber_scale=1.0)
            delta = train_util.get_huber_threshold_if_needed(args, STEPS, scheduler)
            other = train_util.conditional_loss(prediction, target, kind, "none", delta).mean([1, 2, 3])
            config = LossConfig(type=name, huber_delta=0.1, huber_schedule=schedule)
            found = sample_losses(prediction, target, None, config, huber_deltas(ours, STEPS, config))
            yield f"loss: {kind}{f', {schedule}' if delta is not None else ''}", difference(found, other)


def noise() -> Iterator[Row]:
    """x_t and the targets on the same noise; the spread that noise offset and pyramid noise add, over 400 draws."""
    latents, eps = torch.randn(2, 1000, 4, 2, 2, generator=torch.Generator().manual_seed(1))
    for zero_terminal in (False, True):
        ours, scheduler = schedules(zero_terminal, "v_prediction")
        ending = ", zero terminal SNR" if zero_terminal else ""
        yield f"x_t{ending}", difference(ours.mix(latents, eps, STEPS), scheduler.add_noise(latents, eps, STEPS))
        found, other = ours.target(latents, eps, STEPS), scheduler.get_velocity(latents, eps, STEPS)
        yield f"target v{ending}", difference(found, other)
    shape = (4, 32, 32)
    plain = torch.randn(400, *shape, generator=torch.Generator().manual_seed(2))
    torch.manual_seed(3)
    offset = LossConfig(noise_offset=0.1)
    found = torch.stack([draw_noise(shape, offset, "n", index) for index in range(400)])
    other = theirs.apply_noise_offset(plain, plain.clone(), 0.1, None)
    yield "noise offset 0.1: spread of the channels' means", difference(spread(found), spread(other))
    config = LossConfig(multires_noise_iterations=6, multires_noise_discount=0.3)
    found = torch.stack([draw_noise(shape, config, "n", index) for index in range(400)])
    other = torch.cat([theirs.pyramid_noise_like(part.clone(), "cpu", 6, 0.3) for part in plain.split(1)])
    yield "multires noise 6, 0.3: spread of the channels' means", difference(spread(found), spread(other))


def spread(noise: Tensor) -> Tensor:
    """Standard deviation of the means of pictures' channels: how much of the noise is common to a channel."""
    return noise.mean(dim=(2, 3)).std()


def tokenizers(folder: Path) -> str:
    """A cache folder from which sd-scripts reads both its tokenizers: CLIP's vocabulary as shipped here."""
    clip = clip_tokenizer()
    lines = gzip.decompress(VOCABULARY.read_bytes()).decode().splitlines()[1 : MERGES + 1]
    for name, pad in ((strategy_sdxl.TOKENIZER1_PATH, END), (strategy_sdxl.TOKENIZER2_PATH, "!")):
        place = folder / name.replace("/", "_")
        place.mkdir()
        (place / "vocab.json").write_text(json.dumps(clip.vocabulary), encoding="utf-8")
        (place / "merges.txt").write_text("\n".join(["#version: 0.2", *lines]), encoding="utf-8")
        special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": pad}
        about = {**special, "model_max_length": 77, "tokenizer_class": "CLIPTokenizer", "do_lower_case": True}
        (place / "tokenizer_config.json").write_text(json.dumps(about), encoding="utf-8")
    return str(folder)


def encoders(family: str) -> dict[str, Any]:
    """Text encoders of the real size with random weights."""
    clip, parts = clip_tokenizer(), {}
    for index, (part, config) in enumerate((part.key, part.config) for part in FAMILIES[family].text):
        torch.manual_seed(index)
        special = {"bos_token_id": clip.start, "eos_token_id": clip.end}
        about = {**config, **special, "hidden_act": FAMILIES[family].text_part(part).activation}
        parts[part] = new_text_encoder(about, FAMILIES[family].text_part(part).pooled).eval().requires_grad_(False)
    return parts


def conditioning(cache: str) -> Iterator[Row]:
    """Hidden states and pooled text for each clip skip, and for captions that are given more than one chunk."""
    parts = encoders("sd15")
    for length in (75, 225):
        tokenize = strategy_sd.SdTokenizeStrategy(False, None if length == 75 else length, cache)
        tokens = tokenize.tokenize(CAPTIONS)
        for theirs_skip, ours_skip in ((None, 1), (1, 1), (2, 2)):
            (other,) = strategy_sd.SdTextEncodingStrategy(theirs_skip).encode_tokens(tokenize, [parts["te1"]], tokens)
            ours = TextEncoders("sd15", parts, clip_tokenizer(), ours_skip).encode(CAPTIONS, length // 75).hidden
            yield f"SD 1.5, clip_skip {theirs_skip or 'not given'}, {length} tokens", compared(ours, other)
    parts = encoders("sdxl")
    for length in (75, 225):
        tokenize = strategy_sdxl.SdxlTokenizeStrategy(None if length == 75 else length, cache)
        tokens = tokenize.tokenize(CAPTIONS)
        first, second, pooled = strategy_sdxl.SdxlTextEncodingStrategy().encode_tokens(
            tokenize, [parts["te1"], parts["te2"]], tokens
        )
        other = torch.cat([first, second], dim=2)
        for skip in (1, 2):
            ours = TextEncoders("sdxl", parts, clip_tokenizer(), skip).encode(CAPTIONS, length // 75)
            yield f"SDXL (sd-scripts has one clip skip), ours {skip}, {length} tokens", compared(ours.hidden, other)
        assert ours.pooled is not None
        yield f"SDXL, pooled, {length} tokens", difference(ours.pooled, pooled)


def compared(ours: Tensor, other: Tensor) -> float:
    """Difference of states, those of sd-scripts' form for several chunks brought to the common ones."""
    if ours.shape != other.shape:  # theirs has one start and one end for all chunks, ours one for each
        chunks = [ours[:, start + 1 : start + 76] for start in range(0, ours.shape[1], 77)]
        ours = torch.cat([ours[:, :1], *chunks, ours[:, -1:]], dim=1)
    return difference(ours, other)


def whole_step(checkpoint: Path, cache: str) -> Iterator[Row]:
    """A checkpoint loaded by both: conditioning, the UNet's answer and the loss of one batch."""
    base = open_base(BaseConfig(checkpoint=str(checkpoint)))
    encoder, _, unet = model_util.load_models_from_stable_diffusion_checkpoint(False, str(checkpoint))
    ours = base.load_text_encoders(torch.float32).encode(CAPTIONS)
    tokenize = strategy_sd.SdTokenizeStrategy(False, None, cache)
    (other,) = strategy_sd.SdTextEncodingStrategy(None).encode_tokens(
        tokenize, [encoder.float().eval()], tokenize.tokenize(CAPTIONS)
    )
    yield "checkpoint: conditioning", difference(ours.hidden, other)
    generator = torch.Generator().manual_seed(4)
    latents, eps = torch.randn(2, len(CAPTIONS), 4, 32, 32, generator=generator)
    timesteps = torch.tensor([20, 500, 980])
    schedule, scheduler = schedules(False, "epsilon")
    noisy = scheduler.add_noise(latents, eps, timesteps)
    with torch.no_grad():
        theirs_answer = unet.float().eval()(noisy, timesteps, other).sample
        del unet
        module = base.load_unet(torch.float32)
        answer = module(schedule.mix(latents, eps, timesteps), timesteps, ours.hidden, return_dict=False)[0]
    yield "checkpoint: the UNet's answer", difference(answer, theirs_answer)
    config = LossConfig(min_snr_gamma=5.0)
    loss = sample_losses(answer, eps, None, config) * snr_weights(schedule, timesteps, config)
    theirs_loss = train_util.conditional_loss(theirs_answer, eps, "l2", "none").mean([1, 2, 3])
    yield (
        "checkpoint: loss, min-SNR 5",
        difference(loss, theirs.apply_snr_weight(theirs_loss, timesteps, scheduler, 5, False)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, help="an SD 1.5 checkpoint, loaded by both")
    chosen = parser.parse_args()
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        cache = tokenizers(Path(folder))
        parts = [weights(), losses(), noise(), conditioning(cache)]
        if chosen.checkpoint:
            parts.append(whole_step(chosen.checkpoint, cache))
        print("| compared | largest difference |\n|---|---|")
        for part in parts:
            for name, gap in part:
                print(f"| {name} | {f'{gap:.1e}' if gap else '0'} |", flush=True)


if __name__ == "__main__":
    main()
