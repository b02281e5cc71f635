"""What one training step costs per adapter: `python benchmarks/step.py [--set linear|conv] [--json FILE]`.

Times forward and backward (with the gradient of the input) on layer shapes of SDXL at 1024 px, for the bare frozen
layer, every adapter type, and LyCORIS's default forward of the same adapter. All variants take turns within a round, so
that a busy machine slows all alike; figures are medians over rounds, and ratios are of sums over the set's layers.
Memory is the largest number of bytes alive at once in a step (weights, input, output and its gradient included), and
what is kept from the forward for the backward pass beside parameters and input. For linear layers also that of a whole
transformer block, whose kept activations are as in training.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from live_bytes import LiveBytes
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "extension"))

from adapter_lab.training.forwards import LAYERS, LayerSpec
from adapter_lab.training.forwards.layer import lycoris

# Name -> (tokens, in, out, bias). 64 x 64 latents at the level of 640 channels, 32 x 32 at that of 1280, 77 words.
LINEAR = {
    "attn to_q 1280": (1024, 1280, 1280, False),
    "attn to_out 1280": (1024, 1280, 1280, True),
    "attn2 to_k 1280": (77, 2048, 1280, False),
    "ff in 1280": (1024, 1280, 10240, True),
    "ff out 1280": (1024, 5120, 1280, True),
    "attn to_q 640": (4096, 640, 640, False),
    "attn2 to_k 640": (77, 2048, 640, False),
    "ff in 640": (4096, 640, 5120, True),
    "ff out 640": (4096, 2560, 640, True),
}
# Name -> (side, in, out, kernel, stride).
CONV = {
    "resnet 320": (128, 320, 320, 3, 1),
    "resnet 640": (64, 640, 640, 3, 1),
    "resnet 1280": (32, 1280, 1280, 3, 1),
    "skip 960 to 640": (64, 960, 640, 1, 1),
    "downsample 640": (64, 640, 640, 3, 2),
}
ADAPTERS: dict[str, dict[str, Any]] = {
    "LoRA 32": {"algo": "lora", "dim": 32, "alpha": 16.0},
    "LoRA 32 from largest directions": {"algo": "lora", "dim": 32, "alpha": 16.0, "init": "svd"},
    "T-LoRA 32": {"algo": "t-lora", "dim": 32, "alpha": 16.0},
    "LoCon 32 tucker": {"algo": "lora", "dim": 32, "alpha": 16.0, "tucker": True},
    "LoHa 8": {"algo": "loha", "dim": 8, "alpha": 4.0},
    "LoHa 16": {"algo": "loha", "dim": 16, "alpha": 8.0},
    "LoHa 16 tucker": {"algo": "loha", "dim": 16, "alpha": 8.0, "tucker": True},
    "LoKr 32 factor 1": {"algo": "lokr", "dim": 32, "alpha": 16.0, "factor": 1},
    "LoKr 32 factor 2": {"algo": "lokr", "dim": 32, "alpha": 16.0, "factor": 2},
    "LoKr 32 factor 4": {"algo": "lokr", "dim": 32, "alpha": 16.0, "factor": 4},
    "LoKr 32 factor 8": {"algo": "lokr", "dim": 32, "alpha": 16.0, "factor": 8},
    "LoKr 32 square": {"algo": "lokr", "dim": 32, "alpha": 16.0, "factor": -1},
    "GLoRA 16": {"algo": "glora", "dim": 16, "alpha": 8.0},
    "diag-OFT 32": {"algo": "diag-oft", "dim": 32},
    "diag-OFT 32 rescaled": {"algo": "diag-oft", "dim": 32, "rescaled": True},
    "OFTv2 32": {"algo": "oftv2", "dim": 32},
    "BOFT 32": {"algo": "boft", "dim": 32},
    "DoRA 32": {"algo": "lora", "dim": 32, "alpha": 16.0, "dora": "output"},
    "IA3": {"algo": "ia3"},
    "full difference": {"algo": "full"},
}
Step = Callable[[], None]


def layer_of(shape: tuple[Any, ...], dtype: torch.dtype) -> tuple[nn.Module, Tensor]:
    """A frozen layer of the shape, and an input that needs a gradient."""
    if len(shape) == 4:
        tokens, into, out, bias = shape
        module: nn.Module = nn.Linear(into, out, bias=bias)
        x = torch.randn(1, tokens, into)
    else:
        side, into, out, kernel, stride = shape
        module = nn.Conv2d(into, out, kernel, stride, kernel // 2)
        x = torch.randn(1, into, side, side)
    return module.to(dtype).requires_grad_(False), x.to(dtype).requires_grad_()


def spec_of(module: Any, options: dict[str, Any]) -> LayerSpec:
    kind = "conv" if isinstance(module, nn.Conv2d) else "linear"
    return LayerSpec("layer", kind, tuple(module.weight.shape), module.bias is not None, **options)


def ours(module: Any, options: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    """Our forward of an adapter on the layer, with parameters as after some training."""
    spec = spec_of(module, options)
    kind = LAYERS[spec.algo]
    layer = kind(spec, module, kind.initial_values(spec, lambda: module.weight))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.01)
    layer.noise_shares = lambda: torch.full((1,), 0.5)  # of the images of a batch, by which T-LoRA's ranks rest
    base = module.forward
    return lambda x: layer.run(base, x)


def default_of_lycoris(module: Any, options: dict[str, Any]) -> Callable[[Tensor], Tensor] | None:
    """LyCORIS's own forward of the same adapter, in its default mode (it rebuilds the weight)."""
    spec, modules = spec_of(module, options), lycoris()
    classes = {
        "lora": modules.LoConModule,
        "loha": modules.LohaModule,
        "lokr": modules.LokrModule,
        "glora": modules.GLoRAModule,
        "diag-oft": modules.DiagOFTModule,
        "boft": modules.ButterflyOFTModule,
        "ia3": modules.IA3Module,
        "full": modules.FullModule,
    }
    known = {"use_tucker": spec.tucker, "factor": spec.factor, "rescaled": spec.rescaled}
    known |= {"weight_decompose": bool(spec.dora), "lora_dim": spec.dim, "alpha": spec.alpha}
    if spec.algo not in classes or spec.init != "usual":
        return None
    layer = classes[spec.algo]("layer", module, 1.0, **known)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.01)
    forward: Callable[[Tensor], Tensor] = layer.forward
    return forward


def step_of(forward: Callable[[Tensor], Tensor], x: Tensor, gradient: Tensor) -> Step:
    def step() -> None:
        x.grad = None
        # The output is held until the backward pass has gone through the layer, as a network does.
        out = forward(x)
        out.backward(gradient)

    return step


def memory_of(forward: Callable[[Tensor], Tensor], module: nn.Module, x: Tensor, gradient: Tensor) -> tuple[int, int]:
    """(largest number of bytes alive, bytes kept for the backward pass beside parameters, input and output)."""
    resident = [*module.parameters(), x, gradient]
    x.grad = None
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if not isinstance(tensor, nn.Parameter):
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = forward(x)
    for tensor in [*resident, out]:
        kept.pop(tensor.untyped_storage()._cdata, None)
    del out
    with LiveBytes(resident) as live:
        step_of(forward, x, gradient)()
    return live.peak, sum(kept.values())


def block_peaks(adapters: dict[str, dict[str, Any]], dtype: torch.dtype) -> dict[str, int]:
    """Adapter -> largest number of bytes alive in a step of a whole transformer block (1280 channels, 1024 tokens)."""
    from diffusers.models.attention import BasicTransformerBlock

    torch.manual_seed(0)
    block = BasicTransformerBlock(1280, 20, 64, cross_attention_dim=2048, activation_fn="geglu", attention_bias=False)
    block = block.to(dtype).requires_grad_(False)
    x = torch.randn(1, 1024, 1280).to(dtype).requires_grad_()
    text = torch.randn(1, 77, 2048).to(dtype)
    gradient = torch.randn_like(x)
    resident = [*block.parameters(), x, text, gradient]
    found = {}
    linear = [module for module in block.modules() if isinstance(module, nn.Linear)]
    for name, options in adapters.items():
        for module in linear:
            module.forward = ours(module, options)
        x.grad = None
        with LiveBytes(resident) as live:
            block(x, encoder_hidden_states=text).backward(gradient)
        found[name] = live.peak
        for module in linear:
            del module.forward
    return found


def measure(
    shapes: dict[str, Any],
    adapters: dict[str, dict[str, Any]],
    rounds: int,
    dtype: torch.dtype,
    clock: Any,
    theirs: bool,
) -> dict[str, dict[str, dict[str, float]]]:
    """Layer -> variant -> {"seconds", "peak", "kept"}; variants are "bare", adapters, and "LyCORIS <adapter>"."""
    results: dict[str, dict[str, dict[str, float]]] = {}
    for name, shape in shapes.items():
        torch.manual_seed(0)
        module, x = layer_of(shape, dtype)
        forwards: dict[str, Callable[[Tensor], Tensor]] = {"bare": module}
        for adapter, options in adapters.items():
            forwards[adapter] = ours(module, options)
            if theirs and (default := default_of_lycoris(module, options)) is not None:
                forwards[f"LyCORIS {adapter}"] = default
        gradient = torch.randn_like(module(x).detach())
        results[name] = {}
        for variant, forward in forwards.items():
            peak, kept = memory_of(forward, module, x, gradient)
            results[name][variant] = {"peak": peak, "kept": kept}
        steps = {variant: step_of(forward, x, gradient) for variant, forward in forwards.items()}
        seconds: dict[str, list[float]] = {variant: [] for variant in steps}
        for _ in range(rounds):
            for variant, step in steps.items():
                begin = clock()
                step()
                seconds[variant].append(clock() - begin)
        for variant, measured in seconds.items():
            results[name][variant]["seconds"] = statistics.median(measured)
        print(f"{name}: bare {results[name]['bare']['seconds'] * 1e3:.1f} ms", file=sys.stderr, flush=True)
    return results


def totals(results: dict[str, dict[str, dict[str, float]]], blocks: dict[str, int]) -> dict[str, dict[str, float]]:
    """Variant -> sums of seconds, peaks and kept bytes over the layers, and the ratios."""
    found: dict[str, dict[str, float]] = {}
    for variant in next(iter(results.values())):
        rows = [layer[variant] for layer in results.values()]
        found[variant] = {
            "seconds": sum(row["seconds"] for row in rows),
            "peak": sum(row["peak"] for row in rows),
            "kept": sum(row["kept"] for row in rows),
        }
    for variant, row in found.items():
        row["to bare"] = row["seconds"] / found["bare"]["seconds"]
        if "LoRA 32" in found:
            row["to LoRA"] = row["seconds"] / found["LoRA 32"]["seconds"]
            row["peak to LoRA"] = row["peak"] / found["LoRA 32"]["peak"]
            if variant in blocks:
                row["block to LoRA"] = blocks[variant] / blocks["LoRA 32"]
        if f"LyCORIS {variant}" in found:
            row["LyCORIS to ours"] = found[f"LyCORIS {variant}"]["seconds"] / row["seconds"]
    return found


def table(found: dict[str, dict[str, float]]) -> str:
    """The totals as a Markdown table, one line per adapter."""
    lines = [
        "| adapter | / bare | / LoRA | LyCORIS / bare | times faster | peak / LoRA | of a block | kept, MiB |",
        "|---|" + "---:|" * 7,
    ]
    for variant, row in found.items():
        if variant.startswith("LyCORIS ") or variant == "bare":
            continue
        theirs = found.get(f"LyCORIS {variant}")
        cells = [
            f"{row['to bare']:.2f}",
            f"{row['to LoRA']:.2f}" if "to LoRA" in row else "",
            f"{theirs['to bare']:.2f}" if theirs else "",
            f"{row['LyCORIS to ours']:.2f}" if theirs else "",
            f"{row['peak to LoRA']:.2f}" if "peak to LoRA" in row else "",
            f"{row['block to LoRA']:.3f}" if "block to LoRA" in row else "",
            f"{row['kept'] / 2**20:.1f}",
        ]
        lines.append(f"| {variant} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", choices=("linear", "conv"), default="linear", help="layer shapes to measure")
    parser.add_argument("--only", default="", help="measure only layers whose name contains this")
    parser.add_argument("--adapters", default="", help="comma-separated parts of adapter names; empty: all")
    parser.add_argument("--rounds", type=int, default=7, help="repeats, of which the median is taken")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="dtype of layer and input")
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu: processor time, on a busy machine"
    )
    parser.add_argument("--without-lycoris", action="store_true", help="leave LyCORIS's forwards out")
    parser.add_argument("--json", metavar="FILE", help="also write every figure to FILE")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    shapes: dict[str, Any] = LINEAR if arguments.set == "linear" else CONV
    wanted = [part for part in arguments.adapters.split(",") if part]
    adapters = {name: options for name, options in ADAPTERS.items() if not wanted or any(p in name for p in wanted)}
    if arguments.set == "linear":  # Tucker decomposition is for convolutions
        adapters = {name: options for name, options in adapters.items() if not options.get("tucker")}
    results = measure(
        {name: shape for name, shape in shapes.items() if arguments.only in name},
        adapters,
        arguments.rounds,
        getattr(torch, arguments.dtype),
        time.perf_counter if arguments.clock == "wall" else time.process_time,
        not arguments.without_lycoris,
    )
    found = totals(results, block_peaks(adapters, getattr(torch, arguments.dtype)) if arguments.set == "linear" else {})
    print(table(found))
    if arguments.json:
        report = {"torch": torch.__version__, "arguments": vars(arguments), "totals": found, "layers": results}
        report["load"] = os.getloadavg()
        Path(arguments.json).write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
