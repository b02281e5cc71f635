"""What patching a whole SDXL model costs per adapter type, ours against a web UI's own code.

    python benchmarks/loading.py                       # ours alone
    WEBUI_PYTHON benchmarks/loading.py --webui DIR     # and that of the checkout in DIR, with its interpreter

The modules are all linear layers and convolutions of SDXL's UNet and both text encoders (1,059 of 39 shapes), or all
linear layers for LoRA; adapters have the tensors our trainer writes. One random weight of each shape is patched, ours
and the web UI's code taking turns, and the medians are summed with each shape's count: the whole model would be 6.6 GB,
and 20 times the work for the same ratio. Times are processor time from the stored weight to the patched one in the same
dtype. Memory is the largest number of bytes alive at once beside the weight and the adapter's tensors, in units of the
largest layer in fp32, the dtype everything is computed in. "Same" is no where the web UI's result is not ours.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import math
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "extension"))

import torch
from live_bytes import LiveBytes
from torch import Tensor
from web_ui_code import OwnCode, Run, own_code

from adapter_lab.adapters.file import adapter_from_tensors
from adapter_lab.adapters.keys import Target, targets
from adapter_lab.hosts.loading.plan import ModulePatch, WeightPatch
from adapter_lab.training.forwards import LAYERS, LayerSpec

LINEAR, ALL = ("linear",), ("linear", "conv")
# Name -> (options, kinds of modules).
ADAPTERS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "LoRA 32": ({"algo": "lora", "dim": 32, "alpha": 16.0}, LINEAR),
    "LoCon 32": ({"algo": "lora", "dim": 32, "alpha": 16.0}, ALL),
    "LoCon 32 tucker": ({"algo": "lora", "dim": 32, "alpha": 16.0, "tucker": True}, ALL),
    "LoHa 16": ({"algo": "loha", "dim": 16, "alpha": 8.0}, ALL),
    "LoHa 16 tucker": ({"algo": "loha", "dim": 16, "alpha": 8.0, "tucker": True}, ALL),
    "LoKr 32 factor 4": ({"algo": "lokr", "dim": 32, "alpha": 16.0, "factor": 4}, ALL),
    "LoKr 32 factor 4 tucker": ({"algo": "lokr", "dim": 32, "alpha": 16.0, "factor": 4, "tucker": True}, ALL),
    "LoKr 32 square": ({"algo": "lokr", "dim": 32, "alpha": 16.0, "factor": -1}, ALL),
    "GLoRA 16": ({"algo": "glora", "dim": 16, "alpha": 8.0}, ALL),
    "diag-OFT 32": ({"algo": "diag-oft", "dim": 32}, ALL),
    "diag-OFT 32 rescaled": ({"algo": "diag-oft", "dim": 32, "rescaled": True}, ALL),
    "BOFT 40": ({"algo": "boft", "dim": 40}, ALL),
    "IA3": ({"algo": "ia3"}, ALL),
    "DoRA 32 per output": ({"algo": "lora", "dim": 32, "alpha": 16.0, "dora": "output"}, ALL),
    "DoRA 32 per input": ({"algo": "lora", "dim": 32, "alpha": 16.0, "dora": "input"}, ALL),
    "full difference": ({"algo": "full"}, ALL),
}
STRENGTH = 0.8
SAME = 0.05  # of the change, by norm; rounding to fp16 alone is 0.01 of the smallest changes here


@dataclass
class Measured:
    """One way of patching the whole model: processor seconds, and the most extra bytes in any layer."""

    seconds: float = 0.0
    extra: int = 0


def sdxl_modules() -> Counter[tuple[str, tuple[int, ...]]]:
    """(kind, shape) -> how many modules of SDXL's UNet and text encoders have it."""
    layout = json.loads((ROOT / "tests" / "data" / "layouts" / "sdxl.json").read_text())
    found = targets({key: tuple(shape) for key, shape in layout.items()}, "sdxl").values()
    return Counter((target.kind, target.shape) for target in found if target.kind in ALL)


def tensors_of(options: dict[str, Any], kind: str, weight: Tensor) -> dict[str, Tensor]:
    """Random tensors by suffix, as a file holds them, whose change is a share of the weight's size."""
    spec = LayerSpec("layer", kind, tuple(weight.shape), has_bias=False, **options)
    fixed = {"alpha": 0.0 if "oft" in spec.algo else spec.alpha, "on_input": 0.0}
    found: dict[str, Tensor] = {}
    for suffix, shape in LAYERS[spec.algo].file_shapes(spec).items():
        if suffix in fixed:
            found[suffix] = torch.tensor(fixed[suffix])
        elif suffix == "rescale":
            found[suffix] = 1 + 0.1 * torch.randn(shape)
        elif suffix == "dora_scale":
            axes = tuple(axis for axis in range(weight.dim()) if axis != (0 if spec.dora == "output" else 1))
            found[suffix] = torch.linalg.vector_norm(weight.float(), dim=axes, keepdim=True) * (
                1 + 0.1 * torch.randn(shape)
            )
        else:
            found[suffix] = 0.1 * torch.randn(shape)
    return {suffix: tensor.to(weight.dtype) for suffix, tensor in found.items()}


def ours(tensors: dict[str, Tensor], weight: Tensor) -> Run:
    """Our patching of the weight, as the web UIs call it."""

    def failed(module: str, reason: str) -> None:
        raise SystemExit(f"{module} could not be applied: {reason}")

    target = Target("layer", "unet", "", "", "layer.weight", None, None, False, tuple(weight.shape), "layer", "layer")
    module = ModulePatch("layer", adapter_from_tensors(tensors), target, of_bias=False, wild=False)
    patch = WeightPatch("layer.weight", "unet", [module], failed)
    return lambda: patch.patched(weight, STRENGTH)


def extra_bytes(run: Run, resident: list[Tensor]) -> int:
    """The most bytes alive at once while it runs, beside those that were there before and those it keeps."""
    result = run()
    kept = [result] if result.untyped_storage()._cdata in {t.untyped_storage()._cdata for t in resident} else []
    del result
    with LiveBytes(resident + kept) as live:
        run()
    return live.peak - live.resident


def medians(runs: dict[str, Run], rounds: int) -> dict[str, float]:
    """Processor seconds of each, all taking turns in alternating order."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds):
        for name in list(runs)[:: 1 if number % 2 else -1]:
            begin = time.process_time()
            runs[name]()
            seconds[name].append(time.process_time() - begin)
    return {name: statistics.median(measured) for name, measured in seconds.items()}


def agree(runs: dict[str, Run], weight: Tensor) -> bool:
    """Whether all give the same weight."""
    results = [run().float() for run in runs.values()]
    change = (results[0] - weight.float()).norm()
    return all(bool((result - results[0]).norm() <= SAME * change) for result in results[1:])


def measure(name: str, own: OwnCode | None, rounds: int, dtype: torch.dtype) -> tuple[dict[str, Measured], str, float]:
    """(ours and, if it takes every module, the web UI's; what is said of the web UI's; bytes of the largest layer)."""
    options, kinds = ADAPTERS[name]
    found = {"ours": Measured(), "theirs": Measured()}
    verdict, largest = "yes" if own else "", 0.0
    for (kind, shape), count in sdxl_modules().items():
        if kind not in kinds:
            continue
        torch.manual_seed(0)
        weight = (torch.randn(shape) / math.sqrt(math.prod(shape[1:]))).to(dtype)
        largest = max(largest, 4.0 * weight.numel())
        tensors = tensors_of(options, kind, weight)
        runs = {"ours": ours(tensors, weight)}
        theirs = own(tensors, weight, STRENGTH) if own and "theirs" in found else None
        if theirs:
            runs["theirs"] = theirs
            verdict = verdict if agree(runs, weight) else "no"
        elif found.pop("theirs", None) and own:
            verdict = "not taken"
        for way, seconds in medians(runs, rounds).items():
            found[way].seconds += count * seconds
            found[way].extra = max(found[way].extra, extra_bytes(runs[way], [weight, *tensors.values()]))
    return found, verdict, largest


def row(name: str, found: dict[str, Measured], verdict: str, largest: float) -> str:
    """A line of the Markdown table."""
    mine, theirs = found["ours"], found.get("theirs")
    cells = [name, f"{mine.seconds:.1f}", f"{mine.extra / largest:.2f}"]
    if theirs:
        cells += [f"{theirs.seconds:.1f}", f"{theirs.extra / largest:.2f}"]
        cells += [f"{mine.seconds / theirs.seconds:.2f}"]
    else:
        cells += [""] * 3
    return "| " + " | ".join([*cells, verdict]) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--webui", metavar="DIR", type=Path, help="a checkout of a web UI, to compare with its own code"
    )
    parser.add_argument("--adapters", default="", help="comma-separated parts of adapter names; empty: all")
    parser.add_argument("--rounds", type=int, default=3, help="repeats, of which the median is taken")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument(
        "--dtype", choices=("float16", "float32"), default="float16", help="of weights and files; float32 for A1111"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    own = own_code(arguments.webui.resolve()) if arguments.webui else None
    torch.set_grad_enabled(False)
    logging.disable(logging.CRITICAL)
    wanted = arguments.adapters.split(",")
    print("| adapter | ours, CPU s | extra layers | web UI, CPU s | extra layers | ours / web UI | same |")
    print("|---|---:|---:|---:|---:|---:|---|")
    for name in ADAPTERS:
        if any(part in name for part in wanted):
            with contextlib.redirect_stdout(io.StringIO()):  # where web UIs say which layer they failed at
                found = measure(name, own, arguments.rounds, getattr(torch, arguments.dtype))
            print(row(name, *found), flush=True)


if __name__ == "__main__":
    main()
