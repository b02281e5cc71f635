"""Training on checkpoints of real size: cases of every adapter type, and what must be right about each one's file.

Each case is trained some steps at 256 px on random weights in the real LDM layout. Its file is read back, its size
compared with the prediction, and it is applied to the checkpoint with `adapter-lab apply`; the patched model must
compute what the trained network computes.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adapter_lab.adapters.apply import apply_adapters
from adapter_lab.adapters.file import AdapterFile, file_bytes
from adapter_lab.adapters.keys import Target, targets
from adapter_lab.adapters.tensors import TensorFile
from adapter_lab.config import BaseConfig, NetworkConfig, TrainConfig
from adapter_lab.runs.events import read_events
from adapter_lab.training.bases import open_base
from adapter_lab.training.loop import train
from adapter_lab.training.network.modules import find_module
from adapter_lab.training.network.network import build_network, plan_network
from tests.support.checkpoints import write_random_checkpoint
from tests.support.training import draw_pictures

ROOT = Path(__file__).resolve().parents[2]
SIDE = 256
CONV = {"conv_dim": 8, "conv_alpha": 4.0}
STUDY = {"dim": 32, "alpha": 16.0, "train_te": True}  # the study's settings, of which file sizes are known


@dataclass(frozen=True)
class Case:
    """One adapter type on one family: its `NetworkConfig` settings, and the bytes of its file without metadata."""

    family: str
    network: dict[str, Any]
    bytes: int | None = None
    rate: float = 1e-2
    steps: int = 3


CASES: dict[str, Case] = {
    "lora": Case("sd15", {"algo": "lora", "dim": 16, "train_te": True}),
    "locon-tucker": Case("sd15", {"algo": "lora", "dim": 16, **CONV, "tucker": True}),
    "loha": Case("sd15", {"algo": "loha", "dim": 8, **CONV}),
    "lokr-4-tucker": Case("sd15", {"algo": "lokr", "dim": 16, **CONV, "factor": 4, "tucker": True, "train_te": True}),
    "lokr-full-matrix": Case("sd15", {"algo": "lokr", "factor": 8, "conv_dim": 8, "full_matrix": True}),
    "glora": Case("sd15", {"algo": "glora", "dim": 8, **CONV}),
    "diag-oft": Case("sd15", {"algo": "diag-oft", "dim": 8, "conv_dim": 8, "train_te": True}),
    "boft": Case("sd15", {"algo": "boft", "dim": 16, "conv_dim": 16}),
    "ia3": Case("sd15", {"algo": "ia3", "train_conv": True, "train_te": True}),
    # All modules in fp32 with AdamW would need more than 12 GB.
    "full-attention": Case("sd15", {"algo": "full", "feed_forward": False, "projections": False}, rate=1e-3),
    "dora": Case("sd15", {"algo": "lora", "dim": 16, **CONV, "dora": True, "train_norm": True}),
    "sdxl-lora": Case("sdxl", {"algo": "lora", **STUDY}, 228_447_308, steps=2),
    "sdxl-lokr-2": Case(
        "sdxl",
        {"algo": "lokr", **STUDY, "conv_dim": 32, "conv_alpha": 16.0, "tucker": True, "factor": 2},
        119_294_272,
        steps=2,
    ),
    "sdxl-diag-oft": Case("sdxl", {"algo": "diag-oft", "dim": 8}, steps=2),
}


@dataclass
class Measured:
    """What became of one case."""

    case: str
    modules: int = 0
    trainable: int = 0
    file_bytes: int = 0
    bytes_without_metadata: int = 0
    seconds_per_step: float = 0.0
    cpu_seconds_per_step: float = 0.0  # of one thread; on a busy machine the more telling number
    losses: list[float] = field(default_factory=list)
    peak_mib: float = 0.0  # resident memory of the whole process while training
    apply_seconds: float = 0.0  # the command, from its start to its end
    apply_cpu_seconds: float = 0.0
    patched: int = 0
    change: float = 0.0  # of the UNet's output by the adapter, relative
    apply_error: float = 0.0  # of the patched model's output, relative to that change
    complaints: list[str] = field(default_factory=list)


def configuration(case: Case, checkpoint: Path, folder: Path, side: int) -> TrainConfig:
    """The run of a case; SDXL computes in bf16, as its weights in fp32 would take 14 GB."""
    config = TrainConfig(network=NetworkConfig(**case.network))
    config.base.checkpoint = str(checkpoint)
    config.dataset.folder = str(pictures(folder, side))
    config.dataset.resolution = side
    config.optimizer.name, config.optimizer.lr = "adamw", case.rate
    config.precision.device = "cpu"
    config.precision.mixed = "bf16" if case.family == "sdxl" else "fp32"
    config.run.runs_folder = str(folder / "runs")
    config.run.steps = case.steps
    return config


def pictures(folder: Path, side: int) -> Path:
    """Four drawn images with captions, two of them wide; drawn once."""
    found = folder / "pictures"
    if not found.exists():
        draw_pictures(found / "square", 2, (side, side))
        draw_pictures(found / "wide", 2, (side * 3 // 2, side))
    return found


def measure(name: str, checkpoint: Path, folder: Path, side: int = SIDE) -> Measured:
    """Train, read back and apply one case; `complaints` is empty if all is as it should be."""
    case, measured = CASES[name], Measured(name)
    config = configuration(case, checkpoint, folder, side)
    table = targets(TensorFile.open(checkpoint).shapes)
    plans = plan_network(config.network, table)
    config.run.name = name
    clock: list[float] = []

    def note_time(event: Mapping[str, Any]) -> None:
        if event["event"] == "step":
            clock.append(time.process_time())

    result = train(config, on_event=note_time)
    events = list(read_events(result.run_folder / "events.jsonl"))
    measured.cpu_seconds_per_step = (clock[-1] - clock[0]) / (len(clock) - 1)
    measured.modules, measured.trainable = len(plans), sum(plan.trainable_parameters for plan in plans)
    measured.seconds_per_step = result.seconds_per_step
    measured.losses = [event["loss"] for event in events if event["event"] == "step"]
    measured.peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    adapter = result.adapters[-1]
    if result.steps != case.steps or len(measured.losses) != case.steps:
        measured.complaints.append(f"{result.steps} steps with {len(measured.losses)} losses instead of {case.steps}")
    if not all(map(math.isfinite, measured.losses)):
        measured.complaints.append(f"losses are not finite: {measured.losses}")
    check_size(measured, adapter, plans, case.bytes if side == SIDE else None)
    # te1's last layer does not reach SDXL's UNet, so nothing teaches it.
    idle = {n for n, t in table.items() if case.family == "sdxl" and t.part == "te1" and t.module in last_layer(table)}
    if side < 128 and case.family != "sdxl":  # one token in the middle block: queries and keys get no gradient
        idle |= {n for n in table if "middle_block" in n and n.endswith(("attn1_to_q", "attn1_to_k"))}
    trained = [plan.target for plan in plans]
    out = folder / f"{name}-applied.safetensors"
    try:
        apply_to_file(measured, checkpoint, adapter, out, trained, idle)
        compare_outputs(measured, config, adapter, out, trained)
    finally:
        out.unlink(missing_ok=True)
    return measured


def last_layer(table: Mapping[str, Target]) -> set[str]:
    """Module paths of the last layer of the first text encoder, and of the norm after it."""
    paths = {target.module for target in table.values() if target.part == "te1"}
    count = max(int(path.split(".")[3]) for path in paths if ".layers." in path)
    return {path for path in paths if f".layers.{count}." in path or "final_layer_norm" in path}


def check_size(measured: Measured, adapter: Path, plans: list[Any], known: int | None) -> None:
    """The file's modules and size must be the predicted ones, and without metadata the `known` one."""
    file = AdapterFile.open(adapter)
    if set(file.modules) != {plan.target.kohya for plan in plans}:
        measured.complaints.append("the file does not have the planned modules")
    if file.unknown:
        measured.complaints.append(f"unknown tensors: {[*file.unknown][:3]}")
    for module in file.modules:
        file.load(module)  # refuses values that are not finite
    layout = {key: (shape, torch.float16) for plan in plans for key, shape in plan.file_layout.items()}
    hashes = ("sshs_model_hash", "sshs_legacy_hash")
    metadata = {key: value for key, value in file.metadata.items() if key not in hashes}
    measured.file_bytes = adapter.stat().st_size
    predicted = file_bytes(layout, metadata)
    if measured.file_bytes != predicted:
        measured.complaints.append(f"the file has {measured.file_bytes} bytes, predicted were {predicted}")
    measured.bytes_without_metadata = measured.file_bytes - (predicted - file_bytes(layout, None))
    if known is not None and measured.bytes_without_metadata != known:
        measured.complaints.append(
            f"without metadata the file has {measured.bytes_without_metadata} bytes instead of {known}"
        )


def apply_to_file(
    measured: Measured, checkpoint: Path, adapter: Path, out: Path, trained: list[Target], idle: set[str]
) -> None:
    """Apply as a person does, with the command line (timed), then in fp32, where every change shows."""
    command = [sys.executable, "-m", "adapter_lab", "apply", "--base", str(checkpoint), "--adapter", str(adapter)]
    command += ["--out", str(out), "--changed-only", "--json"]
    started, cpu = time.perf_counter(), children_cpu_seconds()
    done = subprocess.run(command, check=True, env=environment(), stdout=subprocess.PIPE, text=True)
    measured.apply_seconds = time.perf_counter() - started
    measured.apply_cpu_seconds = children_cpu_seconds() - cpu
    wanted = {target.key for target in trained}
    check_patched(measured, TensorFile.open(out), None, wanted, set())
    apply_adapters(checkpoint, [(adapter, 1.0)], out, changed_only=True, dtype="fp32")
    report = json.loads(done.stdout)["adapters"][0]
    if len(report["applied"]) != len(trained) or report["not_applied"] or report["unknown"]:
        measured.complaints.append(f"{len(report['applied'])} of {len(trained)} modules applied: {report}"[:500])
    unchanged = {target.key for target in trained if target.name in idle}
    check_patched(measured, TensorFile.open(out), TensorFile.open(checkpoint), wanted, unchanged)


def environment() -> dict[str, str]:
    """Variables of processes that use this source tree."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "extension"), str(ROOT)])}


def children_cpu_seconds() -> float:
    """CPU time of all processes that were started from here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def check_patched(
    measured: Measured, patched: TensorFile, base: TensorFile | None, wanted: set[str], unchanged: set[str]
) -> None:
    """Every trained module's tensor must be there and finite and, if `base` is given, differ where it was trained."""
    if missing := wanted - set(patched.tensors):
        measured.complaints.append(f"{len(missing)} tensors are missing, such as {min(missing)}")
    measured.patched = len(patched.tensors)
    for key in patched.tensors:
        values = patched.read(key).float()
        if not torch.isfinite(values).all():
            measured.complaints.append(f"{key} is not finite")
        if base is not None and torch.equal(values, base.read(key).float()) != (key in unchanged):
            measured.complaints.append(f"{key} is {'changed' if key in unchanged else 'unchanged'}")


@torch.no_grad()
def compare_outputs(
    measured: Measured, config: TrainConfig, adapter: Path, patched: Path, trained: list[Target]
) -> None:
    """The base with the patched tensors must predict what the base with the trained network predicts."""
    base = open_base(BaseConfig(checkpoint=config.base.checkpoint))
    dtype = torch.bfloat16 if config.precision.mixed == "bf16" else torch.float32
    parts: dict[str, Any] = {"unet": base.load_unet(dtype)}
    encoders = base.load_text_encoders(dtype)
    parts |= encoders.parts

    def predict() -> Tensor:
        text = encoders.encode(["sks, thing 1, red"])
        noise = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(1)).to(dtype)
        added = base.added_conditions([((256, 256), (0, 0), (256, 256))], text.pooled)
        timestep = torch.tensor([500])
        return parts["unet"](noise, timestep, text.hidden, added_cond_kwargs=added).sample.float()

    before = predict()
    network = build_network(
        dataclasses.replace(config.network, start_from=str(adapter)), targets(base.shapes), parts, config.run.seed
    )
    network.eval()
    network.attach()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        trained_output = predict()
    network.detach()
    del network
    put_into(parts, TensorFile.open(patched), trained)
    applied_output = predict()
    change = (trained_output - before).norm()
    measured.change = float(change / before.norm())
    measured.apply_error = float((applied_output - trained_output).norm() / change)
    # bf16 rounds the patched weights and each layer's output, in fp32 only the order of sums differs.
    allowed = 0.2 if dtype == torch.bfloat16 else 1e-3
    if not measured.apply_error <= allowed:
        measured.complaints.append(
            f"the patched model differs from the trained network by {measured.apply_error:.2g} of what the adapter does"
        )


def put_into(parts: Mapping[str, Any], file: TensorFile, trained: list[Target]) -> None:
    """Put a checkpoint's tensors into the loaded modules of these targets."""
    for target in trained:
        module: Any = find_module(parts[target.part], target)
        for key, parameter in ((target.key, module.weight), (target.bias_key, getattr(module, "bias", None))):
            if key not in file.tensors:
                continue
            values = file.read(key)
            if target.rows:
                values = values[slice(*target.rows)]
            values = values.T if target.transposed and values.ndim == 2 else values
            parameter.copy_(values.reshape(parameter.shape))


def in_own_process(name: str, checkpoint: Path, folder: Path, side: int = SIDE) -> Measured:
    """`measure` in a new process, so that its memory is its own."""
    arguments = [name, str(checkpoint.resolve()), str(folder.resolve()), str(side)]
    command = [sys.executable, "-m", "tests.support.real_size", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment())
    if done.returncode:
        return Measured(name, complaints=[f"the process ended with {done.returncode}"])
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def checkpoint_of(family: str, folder: Path, tiny: bool = False) -> Path:
    """The checkpoint of random weights of a family, written unless it is there."""
    path = folder / f"{'tiny-' if tiny else ''}{family}.safetensors"
    if not path.exists():
        unfinished = path.with_suffix(".part")
        write_random_checkpoint(unfinished, f"tiny-{family}" if tiny else family, torch.float16)
        unfinished.rename(path)
    return path


if __name__ == "__main__":
    name, checkpoint, folder, side = sys.argv[1:]
    print(json.dumps(vars(measure(name, Path(checkpoint), Path(folder), int(side)))))
