"""What a run will come to before it starts: the adapter file's size to the byte, parameters, and peak memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from adapter_lab.adapters.file import file_bytes
from adapter_lab.adapters.keys import Target, targets
from adapter_lab.config import TrainConfig, trained_network
from adapter_lab.errors import ConfigError
from adapter_lab.families import BASES
from adapter_lab.prospects import prospects
from adapter_lab.runs.budget import RunBudget
from adapter_lab.training.bases.base import Base, open_base
from adapter_lab.training.dataset import largest_resolution, scan
from adapter_lab.training.device.devices import FORMATS
from adapter_lab.training.estimate.dry_run import DryRun, released_base
from adapter_lab.training.network.plan import LayerPlan, plan_network
from adapter_lab.training.output import metadata
from adapter_lab.training.output.saving import describe_adapter
from adapter_lab.validation import validate

MIB = 2**20
# What a GPU's memory holds beside tensors: CUDA's context with the kernels in use, 300 to 400 MB with CUDA 11.7 and
# newer, which load kernels lazily (PyTorch's maintainers in pytorch/pytorch issues 107667 and 109888), and cuBLAS's
# workspace, 8 MiB and 128 KiB by default (PyTorch's notes on CUDA semantics).
CUDA_CONTEXT = 400 * 10**6
CUBLAS_WORKSPACE = 8 * MIB + 128 * 2**10


@dataclass(frozen=True)
class Estimate:
    """What a run will come to, in bytes.

    `file_bytes` includes `metadata_bytes`: the metadata as far as it is known before training. `peak_bytes` is that of
    the phase that takes most, with what CUDA takes for itself on a GPU; `breakdown` adds up to it. `phases` has every
    phase's peak. `tensor_bytes` is the peak of tensors alone, what torch reports as allocated. All four are None or
    empty where memory was not asked for. `remarks`: what is known of the budget once the images are counted.
    """

    base: str
    algorithm: str
    modules: int
    trainable_parameters: int
    file_bytes: int
    metadata_bytes: int
    peak_bytes: int | None = None
    tensor_bytes: int | None = None
    breakdown: dict[str, int] = field(default_factory=dict)
    phases: dict[str, int] = field(default_factory=dict)
    assumptions: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def text(self) -> str:
        """For people."""
        lines = [
            f"{self.base}, {self.algorithm}: {self.modules} modules, {self.trainable_parameters:,} trained parameters",
            f"Adapter file: {_mib(self.file_bytes)} ({self.file_bytes:,} bytes; {self.metadata_bytes:,} are metadata)",
        ]
        if self.peak_bytes is not None:
            lines.append(f"Peak memory: {_gib(self.peak_bytes)} ({self.peak_bytes / 1e9:.2f} GB), of it")
            shown = sorted(self.breakdown.items(), key=lambda entry: -entry[1])
            lines += [f"  {label:<28}{_gib(size):>10}" for label, size in shown if size >= 5 * MIB]
            lines.append("Peak of each phase, tensors only:")
            lines += [f"  {label:<28}{_gib(size):>10}" for label, size in self.phases.items()]
        lines += [f"Assumed: {sentence}" for sentence in self.assumptions]
        return "\n".join([*lines, *(f"Note: {sentence}" for sentence in self.remarks)])


def estimate(config: TrainConfig, memory: bool = True) -> Estimate:
    """Predict a run; needs neither checkpoint nor images: a family name in `base.family` is enough.

    `memory=False` leaves out the peak, which takes a dry step of some seconds. Raises ConfigError for settings that
    cannot be trained.
    """
    validate(config, complete=False)
    base = _base(config)
    table = targets(base.shapes)
    plans = plan_network(trained_network(config), table)
    pictures = _scanned(config, base)
    size, without = _file_sizes(config, base, plans, pictures)
    said = prospects(config)
    result = Estimate(
        base=base.row.title,
        algorithm=config.network.algo,
        modules=len(plans),
        trainable_parameters=sum(plan.trainable_parameters for plan in plans),
        file_bytes=size,
        metadata_bytes=size - without,
        remarks=[sentence for sentence in prospects(config, pictures[1]) if sentence not in said],
    )
    return _with_memory(result, config, base, table) if memory else result


def _base(config: TrainConfig) -> Base:
    if config.base.checkpoint:
        base = open_base(config.base)
        base.check()
        return base
    if config.base.family == "auto":
        names = ", ".join(BASES)
        raise ConfigError(f"The estimate needs a base: give --base with a checkpoint, or a family's name ({names}).")
    return released_base(config.base.family)


# The file


def _scanned(config: TrainConfig, base: Base) -> tuple[dict[str, str], int]:
    """What the images add to the metadata, and optimiser steps per epoch, 0 where no images are given."""
    if not config.dataset.folder and not config.dataset.sources:
        return {}, 0
    batch = config.run.batch_size
    dataset = scan(config.dataset, config.dataset.resolution or base.resolution)
    steps_per_epoch = -(-dataset.batches_per_epoch(batch) // config.optimizer.gradient_accumulation)
    return metadata.dataset_entries(dataset, batch, steps_per_epoch), steps_per_epoch


def _file_sizes(
    config: TrainConfig, base: Base, plans: list[LayerPlan], pictures: tuple[dict[str, str], int]
) -> tuple[int, int]:
    """Bytes of the file with the metadata that are known by now, and without any."""
    dtype = FORMATS[config.save.dtype]
    layout = {key: (shape, dtype) for plan in plans for key, shape in plan.file_layout.items()}
    return file_bytes(layout, _metadata(config, base, *pictures)), file_bytes(layout, None)


def _metadata(config: TrainConfig, base: Base, entries: dict[str, str], steps_per_epoch: int) -> dict[str, str]:
    """The last file's metadata: with what the base and the images add where they are given."""
    steps_per_epoch = steps_per_epoch or 1
    largest = largest_resolution(config.dataset, base.resolution)
    total = RunBudget.of(config.run, steps_per_epoch).total_steps
    run = f"{config.run.name}-00000000-000000"  # as long as the name of a run folder
    known = base.metadata() if config.base.checkpoint else {}
    describe = describe_adapter(config, run, known, entries, largest, total, steps_per_epoch, metadata.run_clock())
    return describe(total)


# Memory


def _with_memory(result: Estimate, config: TrainConfig, base: Base, table: Mapping[str, Target]) -> Estimate:
    on_cuda = config.precision.device not in ("cpu", "mps")
    # A GPU that is not here is taken for one of the last years.
    number_format = config.precision.mixed if config.precision.mixed != "auto" else "bf16" if on_cuda else "fp32"
    side = largest_resolution(config.dataset, base.resolution)
    tokens = base.captions.tokens(config.dataset.token_chunks)
    phases = DryRun(config, base, table, FORMATS[number_format], side, on_cuda).phases()
    worst = max(phases, key=lambda phase: phase.total)
    overhead = {"CUDA context": CUDA_CONTEXT, "cuBLAS workspace": CUBLAS_WORKSPACE} if on_cuda else {}
    return replace(
        result,
        peak_bytes=worst.total + sum(overhead.values()),
        tensor_bytes=worst.total,
        breakdown={**worst.breakdown, **overhead},
        phases={phase.name: phase.total for phase in phases},
        assumptions=[
            f"computes in {number_format} on {'a CUDA GPU' if on_cuda else config.precision.device}",
            f"images fill a bucket of {side} x {side} px; captions have {tokens} tokens",
            *([CUDA_REMARK] if on_cuda else []),
        ],
    )


CUDA_REMARK = (
    "CUDA's context takes 400 MB, which PyTorch's maintainers name for CUDA 11.7 and newer; other programs and the "
    "screen come on top"
)


def _mib(size: int) -> str:
    return f"{size / MIB:.2f} MiB"


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
