"""A step never waits for the device: nothing is read from it, and copies to it go through `to_device`.

The device is torch's meta device here, whose values nobody can read, so that a CPU shows what a GPU would wait for.
"""

from __future__ import annotations

import ast
import collections
import traceback
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import adapter_lab.training
from adapter_lab.adapters.keys import targets
from adapter_lab.config import BaseConfig, LossConfig
from adapter_lab.training.bases.base import open_base
from adapter_lab.training.dataset import scan
from adapter_lab.training.denoiser.conditioning import CachedCaptions, EncodedNow
from adapter_lab.training.denoiser.latents import LatentBatch
from adapter_lab.training.denoiser.step import Denoiser, accumulate_gradients
from adapter_lab.training.distributed import Team
from adapter_lab.training.network.network import build_network
from adapter_lab.training.optim.prodigy import Prodigy
from tests.support.training import tiny_base, tiny_config

META = torch.device("meta")


class Watched(TorchDispatchMode):
    """Notes where a tensor gets onto the device by another way than `to_device`, and where a number is read."""

    def __init__(self) -> None:
        super().__init__()
        self.copies: collections.Counter[str] = collections.Counter()
        self.called: set[str] = set()
        self.proper = 0
        self.reads: collections.Counter[str] = collections.Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        name = function._schema.name
        self.called.add(name)
        here = [tensor for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)]
        there = [tensor for tensor in tree_leaves(result) if isinstance(tensor, Tensor) and tensor.device == META]
        # A number beside a tensor (a CPU tensor without dimensions) goes into the kernel's arguments.
        from_host = any(tensor.device.type == "cpu" and tensor.ndim for tensor in here)
        if there and from_host:
            if any(frame.name == "to_device" for frame in traceback.extract_stack()):
                self.proper += 1
            else:
                self.copies[_line()] += 1
        if name in ("aten::_local_scalar_dense", "aten::nonzero"):
            self.reads[_line()] += 1
        return result


def _line() -> str:
    """The innermost line of the product that is running."""
    frames = [f for f in traceback.extract_stack() if "adapter_lab" in f.filename]
    return f"{Path(frames[-1].filename).name}: {frames[-1].line}" if frames else "?"


def test_the_watch_sees_copies_and_reads() -> None:
    host = torch.ones(2)
    with Watched() as watched:
        host.to(META)
        torch.zeros(2, device=META).copy_(host)
        torch.ones(3).sum().item()
    assert sum(watched.copies.values()) == 2 and sum(watched.reads.values()) == 1


@pytest.mark.parametrize("text", ["trained", "cached"])
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_step_copies_to_the_device_without_waiting_and_reads_nothing(
    family: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # torch knows no autocast for the meta device; the step switches it off wherever it is on.
    monkeypatch.setattr("torch.is_autocast_enabled", lambda *_: False)
    monkeypatch.setattr("torch.autocast", lambda *_, **__: nullcontext())
    config = tiny_config(tmp_path, family, network__train_te=text == "trained", network__algo="lokr")
    base = open_base(BaseConfig(checkpoint=str(tiny_base(family))))
    encoders = base.load_text_encoders(torch.float32)
    parts: dict[str, nn.Module] = {"unet": base.load_unet(torch.float32)}
    if text == "trained":
        parts |= encoders.parts
    network = build_network(config.network, targets(base.shapes), parts, 0)
    network.attach()
    dataset = scan(config.dataset, 64)
    batch = dataset.plan(0, 2, 0)[0]
    cached = CachedCaptions(None, base.captions, "", base.clip_skip, 1, torch.float32)
    if text == "cached":
        with torch.no_grad():
            cached.fill(batch.captions, encoders.encode)
        cached.device = META
    for module in (*parts.values(), *network.layers.values()):
        module.to(META)
    encoders.to(META)
    denoiser = Denoiser(
        unet=parts["unet"],
        objective=base.objective(),
        conditioning=EncodedNow(encoders, 1, True) if text == "trained" else cached,
        denoise=base.denoise,
        latents=base.latents,
        device=META,
        loss=LossConfig(min_snr_gamma=5.0),
    )
    latents = torch.zeros(len(batch), 4, batch.bucket[1] // 8, batch.bucket[0] // 8)
    whole = LatentBatch(batch, latents, latents, torch.ones(len(batch), 1, *latents.shape[2:]))
    with Watched() as watched:
        accumulate_gradients(denoiser, [whole], 0, 0, lambda loss: loss.backward())
    assert watched.copies == {}  # and a read of the meta device would have raised
    assert watched.proper >= 6  # latents, noise, levels, timesteps, text, mask


def test_nothing_is_made_on_the_device_from_values_of_the_host() -> None:
    """`torch.tensor(..., device=...)` copies and waits, inside of torch where no watch sees it."""
    found = []
    for path in sorted(Path(adapter_lab.training.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.tensor", "torch.as_tensor"):
                found += [f"{path.name}:{node.lineno}" for word in node.keywords if word.arg == "device"]
    assert found == []


def test_losses_of_a_team_are_put_together_without_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.distributed.all_reduce", lambda tensor: None)
    batch = LatentBatch("abc", torch.zeros(3), torch.zeros(3), None)  # type: ignore[arg-type]
    with Watched() as watched:
        Team(1, 2).all_losses(torch.zeros(2, 1, device=META), [batch])
    assert watched.copies == {}
    assert "aten::index_put_" not in watched.called  # with a list of places, which would be copied


def test_prodigys_later_steps_read_nothing_and_are_what_they_were() -> None:
    options = {"lr": 1.0, "betas": (0.9, 0.99), "weight_decay": 0.01, "decouple": True, "use_bias_correction": True}
    shapes = [(12, 10), (7,), ()]
    both = [[nn.Parameter(torch.full(shape, 0.5)) for shape in shapes] for _ in range(2)]
    ours, before = (Prodigy(parameters, stay_on_device=True, d0=1e-3, **options) for parameters in both)
    for step in range(4):
        for parameters in both:
            for index, parameter in enumerate(parameters):
                generator = torch.Generator().manual_seed(10 * step + index)
                parameter.grad = torch.randn(parameter.shape, generator=generator)
        with Watched() as watched:
            ours.step()
        assert step == 0 or watched.reads == {}  # the first step makes the state
        # The same sum with the number read from the device, as it was.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("adapter_lab.training.optim.prodigy._add_everywhere", torch._foreach_add_)
            before.step()
        for one, other in zip(*both):
            assert torch.equal(one, other)
