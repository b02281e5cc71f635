"""The device and number format of a run, and accelerate's handle on both."""

from __future__ import annotations

import gc
import os
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs

from adapter_lab.config import PrecisionConfig
from adapter_lab.errors import ConfigError

PATIENCE = timedelta(hours=12)
FORMATS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def choose_device(config: PrecisionConfig) -> torch.device:
    """The device asked for, or the best there is; raises ConfigError where it does not exist here."""
    name = config.device
    if name in ("auto", "cuda") and torch.cuda.is_available():
        # A launcher of several processes says which GPU is whose.
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if name == "auto":
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"precision.device {name!r} is no device; use auto, cpu, cuda, cuda:1 or mps.") from error
    if device.type == "cuda":
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ConfigError(
                f"precision.device is {name}, but this run has several processes, each of which needs a GPU of its "
                "own; set it to auto."
            )
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise ConfigError(f"precision.device is {name}, but torch sees {count} CUDA devices here; use auto or cpu.")
        return torch.device("cuda", device.index or 0)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("precision.device is mps, but this machine has no Metal device; use auto or cpu.")
    return device


def choose_format(config: PrecisionConfig, device: torch.device) -> str:
    """The compute format: "bf16", "fp16" or "fp32"; raises ConfigError for fp16 on a CPU, where it does not train."""
    if config.mixed != "auto":
        if config.mixed == "fp16" and device.type == "cpu":
            raise ConfigError("precision.mixed is fp16, which cannot train on a CPU; use fp32 or bf16.")
        return config.mixed
    if device.type != "cuda":
        return "fp32"
    # Ampere (8.0) was the first with bf16 matrix units; before it, torch only emulates the format.
    return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"


def make_current(device: torch.device) -> None:
    """Let what names no device use this one: new events, NCCL's copies, libraries that ask for the current device."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def release_unused() -> None:
    """Give memory that torch holds without using it back to the GPU's other programs."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()


# What torch says where memory ran out: on a GPU it has an exception of its own, elsewhere only these words.
_SHORT_OF_MEMORY = ("out of memory", "can't allocate memory", "could not create a primitive", "alloc_failed")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that the device or the machine has no memory left."""
    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _SHORT_OF_MEMORY)


def brief(error: BaseException) -> str:
    """The first sentence of an exception's message; torch's go on with advice on its allocator."""
    return str(error).split(". ")[0].strip() or type(error).__name__


def make_accelerator(device: torch.device, number_format: str) -> Accelerator:
    """accelerate on this device and format; several runs in one process may differ in both."""
    # accelerate takes the device as given and does not make it the current one.
    make_current(device)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        # Its state is global and otherwise keeps the first run's device and format.
        AcceleratorState._reset_state(reset_partial_state=True)
    mixed = "no" if number_format == "fp32" else number_format
    # The others wait while one encodes images or draws samples.
    patience = [InitProcessGroupKwargs(timeout=PATIENCE)]
    if device.type == "cpu":
        return Accelerator(cpu=True, mixed_precision=mixed, kwargs_handlers=patience)
    before = os.environ.get("ACCELERATE_TORCH_DEVICE")
    os.environ["ACCELERATE_TORCH_DEVICE"] = str(device)
    try:
        return Accelerator(mixed_precision=mixed, kwargs_handlers=patience)
    finally:
        if before is None:
            del os.environ["ACCELERATE_TORCH_DEVICE"]
        else:
            os.environ["ACCELERATE_TORCH_DEVICE"] = before
