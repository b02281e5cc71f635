"""Compares a training step on Anima with sd-scripts': same files of random weights, captions, x0, t and noise.

python benchmarks/anima_parity.py --sd-scripts PATH [--sd-scripts-packages FOLDER]

PATH is a checkout of kohya-ss/sd-scripts, FOLDER has packages that it imports and the private environment lacks
(einops, opencv-python-headless, toml, imagesize, voluptuous; `pip install --no-deps --target FOLDER`). Widths are
those of the released model, with two blocks, in fp32: about 4 GB of memory. Exits with 1 where a difference is above
its limit.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.machinery
import sys
import tempfile
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "extension")]

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from adapter_lab.adapters.anima import standard_shapes
from adapter_lab.adapters.keys import targets
from adapter_lab.config import BaseConfig, TrainConfig
from adapter_lab.families import TRANSFORMERS
from adapter_lab.training.bases import open_base
from adapter_lab.training.network.network import build_network
from tests.support.anima import vae_shapes
from tests.support.checkpoints import write_random_checkpoint

CAPTIONS = (
    "1girl, solo, looking at viewer",
    "A watercolour of two foxes under a maple (autumn:1.2), by the river.",
    "かわいい猫, 花",
    "😀 party, confetti",
    "",
    "tag, " * 40,
)
# The largest differences that rounding explains: of the loss, and of each gradient relative to its own norm.
LOSS_LIMIT, GRADIENT_LIMIT, CONTEXT_LIMIT = 1e-6, 1e-4, 1e-4
BLOCKS = 2


def main() -> int:
    """Compare and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sd-scripts", type=Path, required=True)
    parser.add_argument("--sd-scripts-packages", type=Path)
    chosen = parser.parse_args()
    theirs = their_modules(chosen.sd_scripts, chosen.sd_scripts_packages)
    with tempfile.TemporaryDirectory() as folder:
        rows = compare(write_files(Path(folder)), theirs)
    print("| compared | largest difference | limit |\n|---|---|---|")
    for what, difference, limit in rows:
        print(f"| {what} | {difference:.1e} | {limit:g} |")
    return int(any(not difference <= limit for _, difference, limit in rows))


def write_files(folder: Path) -> Path:
    """Random files of the released widths with two blocks, and two layers of the text encoder."""
    row = TRANSFORMERS["anima"]
    text = replace(row.text[0], config={**row.text[0].config, "num_hidden_layers": BLOCKS})
    shapes = standard_shapes(replace(row, text=(text, row.text[1])), BLOCKS)
    encoder = {name: shape for name, shape in shapes.items() if name.startswith("model.")}
    transformer = {f"net.{name}": shape for name, shape in shapes.items() if name not in encoder}
    write_random_checkpoint(folder / "qwen_3_06b_base.safetensors", encoder, torch.float32, 1)
    write_random_checkpoint(folder / "qwen_image_vae.safetensors", vae_shapes(), torch.float32, 2)
    return write_random_checkpoint(folder / "anima.safetensors", transformer, torch.float32, 3)


def their_modules(path: Path, packages: Path | None) -> dict[str, Any]:
    """sd-scripts' modules; of torchvision, which the private environment lacks, what they use."""
    sys.path[:0] = [str(path), *([str(packages)] if packages else [])]
    empty: Any = types.ModuleType("torchvision")
    empty.__spec__ = importlib.machinery.ModuleSpec("torchvision", None)
    empty.transforms = types.SimpleNamespace(
        Compose=list,
        ToTensor=list,
        Normalize=lambda *numbers: None,
        InterpolationMode=types.SimpleNamespace(NEAREST="nearest"),
        functional=types.SimpleNamespace(resize=lambda mask, size, interpolation: F.interpolate(mask, size)),
    )
    sys.modules.setdefault("torchvision", empty)
    return {name: importlib.import_module(name) for name in ("library.anima_models", "networks.lora_anima")}


def their_transformer(modules: dict[str, Any], path: Path) -> Any:
    """sd-scripts' model with the file's weights."""
    model = modules["library.anima_models"].Anima(
        max_img_h=512,
        max_img_w=512,
        max_frames=128,
        in_channels=16,
        out_channels=16,
        patch_spatial=2,
        patch_temporal=1,
        model_channels=2048,
        concat_padding_mask=True,
        crossattn_emb_channels=1024,
        pos_emb_cls="rope3d",
        pos_emb_learnable=True,
        use_adaln_lora=True,
        adaln_lora_dim=256,
        num_blocks=BLOCKS,
        num_heads=16,
        rope_h_extrapolation_ratio=4.0,
        rope_w_extrapolation_ratio=4.0,
        rope_enable_fps_modulation=False,
        use_llm_adapter=True,
    )
    state = {name.removeprefix("net."): tensor for name, tensor in load_file(path).items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and not [name for name in missing if "rotary" not in name and "pos_emb" not in name], missing
    return model.requires_grad_(False).eval()


def compare(path: Path, modules: dict[str, Any]) -> list[tuple[str, float, float]]:
    """(what, largest difference, limit) of contexts, losses and gradients."""
    base = open_base(BaseConfig(checkpoint=str(path)))
    encoders: Any = base.load_text_encoders(torch.float32)
    unet = base.load_unet(torch.float32)
    other = their_transformer(modules, path)
    rows = [("context of six captions, those of 512 tokens and none among them", *contexts(encoders, other))]
    config = TrainConfig()
    config.network.dim, config.network.alpha = 8, 4.0
    network = build_network(config.network, targets(base.shapes), {"unet": unet, **encoders.parts}, 0)
    generator = torch.Generator().manual_seed(5)
    for name, parameter in network.named_parameters():
        if name.endswith(".up") or parameter.abs().max() == 0:  # so that both factors have gradients
            parameter.data = 0.01 * torch.randn(parameter.shape, generator=generator)
    network.attach()
    file = path.with_name("lora.safetensors")
    save_file(network.adapter_tensors(), file)
    lora = modules["networks.lora_anima"].create_network(1.0, 8, 4.0, None, [], other)
    lora.apply_to([], other, apply_text_encoder=False, apply_unet=True)
    print(f"sd-scripts reads our file: {lora.load_weights(str(file))}, {len(lora.unet_loras)} modules", file=sys.stderr)
    for what, times in drawn_times().items():
        rows += [
            (f"{kind}, t {what}", *values) for kind, *values in step(base, unet, encoders, network, other, lora, times)
        ]
    return rows


def contexts(encoders: Any, other: Any) -> tuple[float, float]:
    """The conditioner's answer to our text encoder's states, by both."""
    worst = 0.0
    for caption in (text for text in CAPTIONS if text):
        with torch.no_grad():
            ours = encoders.encode([caption]).hidden
            ids, states, mask, targets_, seen = conditions(encoders, caption)
            theirs = other._preprocess_text_embeds(states, targets_, seen, mask)
        assert ids
        size = theirs.shape[1]
        worst = max(worst, float((ours[:, :size] - theirs).abs().max() / theirs.abs().max()))
    return worst, CONTEXT_LIMIT


def conditions(encoders: Any, caption: str) -> tuple[list[int], Tensor, Tensor, Tensor, Tensor]:
    """What sd-scripts gives its model for a caption: states and T5's ids padded to 512, each with its mask."""
    ids, target = encoders.tokens.text_ids(caption), encoders.tokens.target_ids(caption)
    states = encoders.parts["te1"](input_ids=torch.tensor([ids])).last_hidden_state
    states = F.pad(states, (0, 0, 0, 512 - states.shape[1]))
    mask, seen = (torch.tensor([[1] * len(row) + [0] * (512 - len(row))]) for row in (ids, target))
    return ids, states, mask, torch.tensor([target + [0] * (512 - len(target))]), seen


def drawn_times() -> dict[str, Tensor]:
    """Times of every distribution, in the same order of draws: one standard normal or uniform number for each image."""
    normal = torch.randn(2, generator=torch.Generator().manual_seed(7))
    uniform = torch.rand(2, generator=torch.Generator().manual_seed(7))
    sigmoid = normal.sigmoid()
    return {
        "sigmoid": sigmoid,
        "shift 3": 3 * sigmoid / (1 + 2 * sigmoid),
        "logit-normal (0.5, 0.8)": (0.5 + 0.8 * normal).sigmoid(),
        "uniform": uniform,
    }


def step(
    base: Any, unet: Any, encoders: Any, network: Any, other: Any, lora: Any, times: Tensor
) -> list[tuple[str, float, float]]:
    """Differences of the loss and of all gradients of one step of two captions."""
    generator = torch.Generator().manual_seed(11)
    clean, noise = (torch.randn((2, 16, 32, 24), generator=generator) for _ in range(2))
    captions = CAPTIONS[:2]
    objective = base.objective()
    at = objective.times((times * 1000).tolist())
    with torch.no_grad():
        text = encoders.encode(captions)
    network.zero_grad()
    answer = base.denoise(unet, objective.mix(clean, noise, at), at, text, [])
    loss = F.mse_loss(answer, objective.target(clean, noise, at))
    loss.backward()
    share = times.view(-1, 1, 1, 1)
    parts = [conditions(encoders, caption)[1:] for caption in captions]
    states, mask, ids, seen = (torch.cat([part[index] for part in parts]).detach() for index in range(4))
    lora.zero_grad()
    noisy = ((1 - share) * clean + share * noise)[:, :, None]
    padding = torch.zeros(2, 1, 32, 24)
    theirs = other(
        noisy, times, states, padding_mask=padding, target_input_ids=ids, target_attention_mask=seen,
        source_attention_mask=mask,
    )[:, :, 0]  # fmt: skip
    their_loss = F.mse_loss(theirs, noise - clean)
    their_loss.backward()
    return [
        ("loss", abs(loss.item() - their_loss.item()), LOSS_LIMIT),
        ("gradients", gradient_difference(network, lora), GRADIENT_LIMIT),
    ]


def gradient_difference(network: Any, lora: Any) -> float:
    """The largest difference of a gradient, relative to its norm, over all factors of all modules."""
    worst = 0.0
    loras = {module.lora_name: module for module in lora.unet_loras}
    for plan, layer in zip(network.plans, network.layers.values()):
        module = loras.pop(plan.target.kohya)
        down, up = (dict(layer.named_parameters())[name] for name in ("down", "up"))
        for ours, theirs in ((down, module.lora_down.weight), (up, module.lora_up.weight)):
            worst = max(worst, float((ours.grad.view(-1) - theirs.grad.view(-1)).norm() / theirs.grad.norm()))
    assert not loras or all("blocks" not in name for name in loras), list(loras)[:3]
    return worst


if __name__ == "__main__":
    sys.exit(main())
