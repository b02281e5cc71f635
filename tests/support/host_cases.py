"""Adapter files for real web UIs: every algorithm x option on modules of real size, beside their trained forward."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lycoris.modules.boft import ButterflyOFTModule
from lycoris.modules.full import FullModule
from safetensors.torch import save_file
from torch import Tensor, nn

from adapter_lab.adapters.checkpoint import Checkpoint, open_checkpoint
from adapter_lab.adapters.keys import Target, TargetTable, targets
from adapter_lab.adapters.tensors import Scratch
from tests.adapters import lycoris_modules
from tests.hosts.probe.adapter_lab_probe_input import probe_input
from tests.support import adapter_cases

# Places for one adapter file each, so that several can be measured in one image: a block of the UNet that holds a
# residual layer and a transformer, and the text encoder's layer of the same number.
BLOCKS = (
    *("input_blocks_1", "input_blocks_2", "output_blocks_9", "output_blocks_10", "output_blocks_11"),  # 320 channels
    *("input_blocks_4", "input_blocks_5", "output_blocks_6", "output_blocks_7", "output_blocks_8"),  # 640
)
LINEAR = (
    "lora_unet_{block}_1_transformer_blocks_0_attn1_to_q",
    "lora_unet_{block}_1_transformer_blocks_0_attn1_to_out_0",
    "lora_unet_{block}_1_transformer_blocks_0_attn2_to_k",
    "lora_unet_{block}_1_transformer_blocks_0_ff_net_0_proj",
    "lora_unet_{block}_0_emb_layers_1",
    "lora_te_text_model_encoder_layers_{number}_self_attn_q_proj",
    "lora_te_text_model_encoder_layers_{number}_mlp_fc1",
)
CONVOLUTIONS = ("lora_unet_{block}_1_proj_in", "lora_unet_{block}_0_out_layers_3")
EVERY_KIND = LINEAR + CONVOLUTIONS
NORMS = (
    "lora_unet_{block}_0_in_layers_0",
    "lora_unet_{block}_1_transformer_blocks_0_norm1",
    "lora_te_text_model_encoder_layers_{number}_layer_norm1",
)


def modules_at(kinds: tuple[str, ...], place: int) -> list[str]:
    """LDM names of modules of these kinds in the block `BLOCKS[place]`."""
    return [kind.format(block=BLOCKS[place], number=place) for kind in kinds]


# Sizes of random parameters, tried one after another until the layer's output changes by at least CHANGE: rounding a
# weight to fp32 must not be seen in an error of 1e-4 of the change.
SIZES, CHANGE = (0.1, 0.3, 1.0, 3.0), 0.03


class Base:
    """The checkpoint a web UI has loaded, as the trained forwards see it."""

    def __init__(self, path: Path) -> None:
        self.checkpoint: Checkpoint = open_checkpoint(path)
        self.table: TargetTable = targets(self.checkpoint.shapes)

    def read(self, key: str) -> Tensor:
        return self.checkpoint.read(key, Scratch()).double()

    def layer(self, module: str) -> nn.Module:
        """The module of this LDM name with its weights, fp64, frozen."""
        target = self.table[module]
        bias = target.bias_key is not None
        if target.kind == "norm":
            layer: nn.Module = nn.LayerNorm(target.shape[0], dtype=torch.float64)
        elif target.kind == "linear":
            layer = nn.utils.skip_init(nn.Linear, *target.shape[::-1], bias=bias, dtype=torch.float64)
        else:
            out, into, *kernel = target.shape
            layer = nn.utils.skip_init(
                nn.Conv2d, into, out, tuple(kernel), padding=kernel[0] // 2, bias=bias, dtype=torch.float64
            )
        parameters: Any = layer
        parameters.weight.data.copy_(self.read(target.key))
        if target.bias_key is not None:
            parameters.bias.data.copy_(self.read(target.bias_key))
        return layer.requires_grad_(False)


def outputs(forward: Callable[[Tensor], Tensor], module: nn.Module) -> Tensor:
    """(out, columns): a layer's forward for the probe's inputs, each the patch under a kernel of a convolution."""
    weight: Any = module.weight
    x = probe_input(weight[0].numel()).T
    dtype = weight.dtype
    with torch.no_grad():
        if not isinstance(module, nn.Conv2d):
            return forward(x.to(dtype)).double().T
        patches = x.reshape(-1, *weight.shape[1:])
        if weight.shape[-1] == 1:
            return forward(patches.to(dtype)).double().flatten(1).T
        return forward(patches.to(dtype)).double()[:, :, 1, 1].T


class Trained:
    """An adapter of one layer with random parameters: its tensors for a file, and the forward it was trained with."""

    tensors: dict[str, Tensor]  # by suffix, fp32

    def outputs(self, base: nn.Module) -> Tensor:
        """(out, columns): the trained forward over `base`, a layer like the one it was made for."""
        raise NotImplementedError


class Ours(Trained):
    """An adapter layer of `adapter_lab.training`."""

    def __init__(self, options: dict[str, Any], layer: nn.Module, size: float) -> None:
        self.options = _fitting(options)
        single = copy.deepcopy(layer).float()
        made = adapter_cases.adapter_layer(self.options, single, torch.float32, size=size)
        self.tensors = {suffix: tensor.contiguous() for suffix, tensor in made.file_tensors().items()}

    def outputs(self, base: nn.Module) -> Tensor:
        layer = adapter_cases.adapter_layer(self.options, base)
        layer.load_file_tensors(self.tensors)
        return outputs(lambda x: adapter_cases.run(layer, x), base)


class LyCORIS(Trained):
    """A module of LyCORIS, as it saves itself."""

    def __init__(self, case: lycoris_modules.Case, layer: nn.Module, size: float) -> None:
        self.layer = copy.deepcopy(layer)
        self.module = lycoris_modules.trained(_fitting_lycoris(case), self.layer, size=size)
        with torch.no_grad():  # what was trained is what the file holds, exactly
            for parameter in self.module.parameters():
                parameter.copy_(parameter.float())
        self.is_full = isinstance(self.module, FullModule)
        state = lycoris_modules.file_tensors(self.module)
        self.tensors = {name: value.float().contiguous() for name, value in state.items()}
        self.own = copy.deepcopy(layer)

    def outputs(self, base: nn.Module) -> Tensor:
        if self.is_full:  # its parameters are W' itself
            moved = outputs(base, base) - outputs(self.own, self.own)
            return outputs(self.module, self.own) + moved
        with torch.no_grad():  # it reads the weight of the layer it was made for in every forward
            for parameter, value in zip(self.layer.parameters(), base.parameters()):
                parameter.copy_(value)
        return outputs(self.module, self.layer)


# The smallest dim with which BOFT fits all of MODULES.
BUTTERFLY = 12


def _fitting(options: dict[str, Any]) -> dict[str, Any]:
    return {**options, "dim": max(options["dim"], BUTTERFLY)} if options["algo"] == "boft" else options


def _fitting_lycoris(case: lycoris_modules.Case) -> lycoris_modules.Case:
    if case.module is not ButterflyOFTModule:
        return case
    return replace(case, options={**case.options, "lora_dim": max(case.options["lora_dim"], BUTTERFLY)})


class Norm(Trained):
    """Differences of a norm layer's weight and bias; its forward uses their sums with the base's."""

    def __init__(self, layer: nn.Module, size: float) -> None:
        torch.manual_seed(3)
        self.tensors = {name: size * torch.randn(len(layer.weight)) for name in ("w_norm", "b_norm")}

    def outputs(self, base: nn.Module) -> Tensor:
        return torch.cat([base.weight + self.tensors["w_norm"], base.bias + self.tensors["b_norm"]])


class OFTv2(Trained):
    """Rotations of a linear layer's inputs in blocks of 8, by OneTrainer's five terms of the Cayley-Neumann series."""

    def __init__(self, layer: nn.Module, size: float) -> None:
        torch.manual_seed(4)
        self.tensors = {"oft_R.weight": size * torch.randn(layer.weight.shape[1] // 8, 28)}

    def outputs(self, base: nn.Module) -> Tensor:
        upper = self.tensors["oft_R.weight"].double()
        skew = torch.zeros(len(upper), 8, 8, dtype=torch.float64)
        rows, columns = torch.triu_indices(8, 8, 1)
        skew[:, rows, columns], skew[:, columns, rows] = upper, -upper
        turns = torch.eye(8, dtype=torch.float64) + 2 * (skew + skew @ skew + skew @ skew @ skew)
        turns = turns + torch.linalg.matrix_power(skew, 4)
        return outputs(lambda x: base(x @ torch.block_diag(*turns)), base)


@dataclass(frozen=True)
class Case:
    """One adapter file: how each module is made, of which kinds, and how the file calls them and their tensors."""

    make: Callable[[nn.Module, float], Trained]
    kinds: tuple[str, ...] = EVERY_KIND
    name: Callable[[Target], str] = lambda target: target.name
    suffix: Callable[[str], str | None] = lambda suffix: suffix  # None leaves a tensor out
    metadata: Mapping[str, str] | None = None


def _diffusers(target: Target) -> str:
    return ("lora_unet_" if target.part == "unet" else "lora_te_") + target.module.replace(".", "_")


def _peft(target: Target) -> str:
    return ("unet." if target.part == "unet" else "text_encoder.") + target.module


def _comfy(target: Target) -> str:
    part = "text_encoders.clip_l.transformer." if target.part == "te1" else "diffusion_model."
    return part + target.key.partition("transformer." if target.part == "te1" else "diffusion_model.")[2][:-7]


def _transformers_5(target: Target) -> str:
    return _diffusers(target).replace("text_model_", "")


def _peft_suffix(suffix: str) -> str:
    return suffix.replace("lora_up", "lora_B").replace("lora_down", "lora_A")


def _without_alpha(suffix: str) -> str | None:
    return None if suffix == "alpha" else suffix


def _network_args(case: lycoris_modules.Case) -> dict[str, str]:
    """What trainers with LyCORIS write of a network's options: the only place that tells of rs_lora."""
    return {"ss_network_args": json.dumps({name: str(value) for name, value in case.options.items()})}


_PLAIN = partial(Ours, {"algo": "lora", "dim": 4, "alpha": 4.0})  # alpha = dim, so that no file needs it

# Files as others write them: LyCORIS with kohya's names, and every other spelling of names.
FOREIGN: dict[str, Case] = {
    **{
        name: Case(partial(LyCORIS, case), name=_diffusers, metadata=_network_args(case))
        for name, case in lycoris_modules.CASES.items()
    },
    "norm layers": Case(Norm, NORMS),
    "oftv2": Case(OFTv2, LINEAR, _diffusers),
    "lora, LDM names": Case(_PLAIN),
    "lora, PEFT names": Case(_PLAIN, name=_peft, suffix=lambda suffix: _peft_suffix(_without_alpha(suffix) or "")),
    "lora, ComfyUI names": Case(_PLAIN, name=_comfy),
    "lora, transformers 5 names": Case(_PLAIN, name=_transformers_5),
    "lora, no alpha": Case(_PLAIN, name=_diffusers, suffix=_without_alpha),
}
# Files as Adapter Lab's own trainer writes them.
OWN: dict[str, Case] = {
    f"own {name}": Case(partial(Ours, options), metadata={"adapter_lab.network": "{}"})
    for name, options in adapter_cases.CASES.items()
}
CASES = {**FOREIGN, **OWN}


def write(path: Path, case: Case, base: Base, modules: list[str]) -> dict[str, Trained]:
    """Write the adapter file of a case for modules of a base, given and returned by LDM name."""
    made = {name: _trained(case, base.layer(name)) for name in modules}
    tensors = {
        f"{case.name(base.table[name])}.{suffix}": tensor
        for name, trained in made.items()
        for given, tensor in trained.tensors.items()
        if (suffix := case.suffix(given))
    }
    temporary = path.with_suffix(".tmp")
    save_file(tensors, temporary, case.metadata)
    temporary.replace(path)
    return made


def _trained(case: Case, layer: nn.Module) -> Trained:
    """A module of a case whose change of the layer's outputs is large enough to be measured."""
    start = base_outputs(layer)
    for size in SIZES:
        trained = case.make(layer, size)
        if float((trained.outputs(layer) - start).norm() / start.norm()) >= CHANGE:
            break
    return trained


def base_outputs(layer: nn.Module) -> Tensor:
    """A layer's forward for the probe's inputs; a norm's weight and bias."""
    if isinstance(layer, nn.LayerNorm):
        return torch.cat([layer.weight, layer.bias]).detach()
    return outputs(layer, layer)
