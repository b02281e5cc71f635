"""Adapters of every layer of the model at once."""

from __future__ import annotations

import re

import pytest
import torch
from safetensors.torch import save_file

from adapter_lab.adapters.base import patch, patch_bias
from adapter_lab.adapters.file import AdapterFile
from adapter_lab.hosts.settings import EVERY_FILE
from adapter_lab.training.forwards import LAYERS, LayerSpec
from tests.adapters.random_adapter import random_adapter
from tests.hosts.probe.adapter_lab_probe_input import probe_input
from tests.support.host_measure import PROMPT, Bench

TOLERANCE = 1e-4
LAYERS_OF_SD15 = 354  # all but the norms


def tucker_lokr(bench: Bench) -> dict[str, torch.Tensor]:
    """A LoKr with tucker cores of every linear layer and convolution, as our trainer writes it."""
    tensors: dict[str, torch.Tensor] = {}
    torch.manual_seed(0)
    for name, target in bench.base.table.items():
        if target.kind == "norm":
            continue
        spec = LayerSpec(name, target.kind, target.shape, target.bias_key is not None, "lokr",
                         dim=4, alpha=2.0, factor=4, tucker=True)  # fmt: skip
        for suffix, shape in LAYERS["lokr"].file_shapes(spec).items():
            tensors[f"{name}.{suffix}"] = torch.tensor(2.0) if suffix == "alpha" else 0.2 * torch.randn(shape)
    return tensors


def mixed(bench: Bench) -> dict[str, torch.Tensor]:
    """Every algorithm in turn over every layer, norms too."""
    found = random_adapter(dict(bench.base.table), rank=4)
    return {f"{name}.{suffix}": tensor for name, module in found.items() for suffix, tensor in module.items()}


FILES = {"tucker lokr": (tucker_lokr, "lokr", LAYERS_OF_SD15), "every algorithm": (mixed, "lora", None)}


@pytest.mark.parametrize("file", FILES)
def test_every_layer_of_the_model_is_patched(bench: Bench, file: str) -> None:
    make, algorithm, count = FILES[file]
    name = "al-whole-" + file.replace(" ", "-")
    path = bench.folder / f"{name}.safetensors"
    save_file(make(bench), path, {"adapter_lab.network": "{}"})
    bench.web_ui.refresh_adapters()
    wanted, changes = patched_by_us(bench, AdapterFile.open(path), 0.6)
    start = len(bench.web_ui.console())
    bench.web_ui.watch(list(wanted))
    with bench.web_ui.options(adapter_lab_scope=EVERY_FILE):
        picture = bench.web_ui.txt2img(f"{PROMPT} <lora:{name}:0.6>", steps=2)
    said = bench.web_ui.console()[start:]
    total = count or len(bench.base.table)
    assert re.search(rf"{name}: .*{algorithm}.*, {total} of {total} modules", picture.adapter_lab)
    assert "view size" not in said and "Traceback" not in said
    path.unlink()
    # Within the picture: other extensions take patches off once it is done.
    (found,) = bench.web_ui.watch([])
    assert found.keys() == wanted.keys()
    errors = {key: float((found[key] - wanted[key]).norm() / changes[key].norm()) for key in wanted}
    assert max(errors.values()) < TOLERANCE


def patched_by_us(
    bench: Bench, file: AdapterFile, strength: float
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """What the probe makes of the checkpoint's tensors with our patch on, and of the patch's changes alone."""
    wanted: dict[str, torch.Tensor] = {}
    changes: dict[str, torch.Tensor] = {}
    for name in file.modules:
        target, adapter = bench.base.table[name], file.load(name)
        tensors = {target.key: patch(bench.base.read(target.key), adapter, strength)}
        if adapter.bias_delta is not None and target.bias_key is not None:
            bias = patch_bias(bench.base.read(target.bias_key), adapter, strength)
            assert bias is not None
            tensors[target.bias_key] = bias
        for key, tensor in tensors.items():
            wanted[key], changes[key] = product(tensor), product(tensor - bench.base.read(key))
    return wanted, changes


def product(tensor: torch.Tensor) -> torch.Tensor:
    """What the probe makes of a tensor."""
    return tensor.flatten(1) @ probe_input(tensor[0].numel()) if tensor.dim() > 1 else tensor
