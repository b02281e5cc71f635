"""Which device is current, what happens where memory runs out, and when a model's memory is given back.

CUDA is imitated: nothing here needs a GPU.
"""

from __future__ import annotations

import gc
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from adapter_lab.config import PrecisionConfig
from adapter_lab.errors import AdapterLabError, ConfigError
from adapter_lab.training import feedback as feedback_module
from adapter_lab.training import prepare as phases
from adapter_lab.training.device.deferred import DeferredValues
from adapter_lab.training.device.devices import choose_device, is_out_of_memory, make_accelerator
from adapter_lab.training.device.slots import Slot
from adapter_lab.training.loop import train
from tests.support.training import events_of, tiny_config

OUT_OF_MEMORY = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. See the documentation")


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A machine with two GPUs; the list holds what was made the current device."""
    current: list[str] = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.set_device", lambda device: current.append(str(device)))
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda *_, **__: True)
    return current


@pytest.mark.parametrize(("asked", "rank", "expected"), [
    ("cuda:1", None, "cuda:1"),
    ("cuda", None, "cuda:0"),
    ("auto", None, "cuda:0"),
    ("auto", "1", "cuda:1"),
    ("cuda", "1", "cuda:1"),
])  # fmt: skip
def test_the_device_of_a_run_is_the_current_one(
    asked: str, rank: str | None, expected: str, two_gpus: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    before: list[list[str]] = []
    # Joining a team asks NCCL for the current device, so it must be set by then.
    monkeypatch.setattr("adapter_lab.training.device.devices.Accelerator", lambda **_: before.append([*two_gpus]))
    device = choose_device(PrecisionConfig(device=asked))
    make_accelerator(device, "bf16")
    assert str(device) == expected
    assert before == [[expected]]


def test_several_processes_are_not_put_on_one_gpu(two_gpus: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"precision\.device is cuda:1.*auto"):
        choose_device(PrecisionConfig(device="cuda:1"))


def test_the_event_of_a_copy_is_recorded_where_the_copy_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: list[Any] = []

    class Event:
        def record(self, stream: Any = None) -> None:
            recorded.append(stream)

    monkeypatch.setattr("torch.cuda.Event", Event)
    monkeypatch.setattr("torch.cuda.current_stream", lambda device=None: f"stream of {device}")
    monkeypatch.setattr("torch.empty", lambda *_, **__: _OnGpu())
    DeferredValues[int]().push(_OnGpu(), 1)  # type: ignore[arg-type]
    assert recorded == ["stream of cuda:1"]


class _OnGpu:
    """As much of a tensor on the second GPU as a copy from it needs."""

    device = torch.device("cuda:1")
    shape, dtype = (2,), torch.float32

    def detach(self) -> _OnGpu:
        return self

    def copy_(self, other: Any, non_blocking: bool) -> None:
        assert non_blocking


def test_running_out_of_memory_is_known_by_its_exception_or_its_words() -> None:
    assert is_out_of_memory(OUT_OF_MEMORY) and is_out_of_memory(MemoryError())
    for words in (
        "[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes",
        "could not create a primitive",
        "MPS backend out of memory (MPS allocated: 9 GB)",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ):
        assert is_out_of_memory(RuntimeError(words))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))


@dataclass
class Failing:
    """Stands before a function and fails at its first `times` calls."""

    real: Any
    times: int
    error: BaseException
    calls: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.calls.append(named)
        if len(self.calls) <= self.times:
            raise self.error
        return self.real(*arguments, **named)


@pytest.mark.parametrize(("times", "error"), [(1, OUT_OF_MEMORY), (2, RuntimeError("could not create a primitive"))])
def test_sample_pictures_without_memory_do_not_end_the_training(
    times: int, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = Failing(feedback_module.sample, times, error)
    monkeypatch.setattr(feedback_module, "sample", failing)
    released: list[int] = []
    monkeypatch.setattr(feedback_module, "release_unused", lambda: released.append(len(failing.calls)))
    config = tiny_config(tmp_path, run__steps=1, preview__prompts=["a"], preview__steps=1, preview__baseline=False)
    result = train(config, tmp_path / "run")
    assert result.steps == 1
    assert [call["tile"] > 0 for call in failing.calls] == [False, True]
    assert len(released) == times
    drawn, warned = events_of(result.run_folder, "sample"), events_of(result.run_folder, "warning")
    assert len(drawn) == (1 if times == 1 else 0)
    assert any("memory" in event["message"] for event in warned) == (times == 2)


def test_a_validation_without_memory_is_computed_in_smaller_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(tmp_path, run__steps=1, dataset__validation_fraction=0.5)
    whole = train(config, tmp_path / "whole").run_folder
    sizes: list[int] = []
    real = feedback_module.validation_loss

    def loss(prepared: Any, dataset: Any, batch_size: int, seed: int) -> float:
        sizes.append(batch_size)
        if batch_size > 1:
            raise OUT_OF_MEMORY
        return real(prepared, dataset, batch_size, seed)

    monkeypatch.setattr(feedback_module, "validation_loss", loss)
    spared = train(config, tmp_path / "spared").run_folder
    assert sizes == [2, 1]
    expected = events_of(whole, "validation")[0]["loss"]
    assert events_of(spared, "validation")[0]["loss"] == pytest.approx(expected, rel=1e-5)


def test_other_prompts_without_memory_leave_the_old_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from adapter_lab.training.run import Run

    kept: list[Any] = []
    real = Run._set_up
    monkeypatch.setattr(Run, "_set_up", lambda self, prepared: (real(self, prepared), kept.append(self))[0])
    config = tiny_config(tmp_path, run__steps=1, preview__prompts=["a"], preview__steps=1, preview__baseline=False)
    train(config, tmp_path / "run")
    feedback = kept[0].feedback
    failing = Failing(None, 9, OUT_OF_MEMORY)
    feedback.prepared.encode = failing
    with pytest.raises(AdapterLabError, match="memory"):
        feedback.change_prompts(["b"])
    assert feedback.preview.prompts == ["a"]


def test_out_of_memory_in_a_step_is_said_in_a_sentence_for_the_device_at_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "adapter_lab.training.run.accumulate_gradients",
        Failing(None, 9, RuntimeError("could not create a primitive")),
    )
    with pytest.raises(AdapterLabError, match="The machine's memory is used up"):
        train(tiny_config(tmp_path), tmp_path / "run")


def test_a_slot_has_let_go_of_its_model_when_memory_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[bool] = []
    made: list[weakref.ref[nn.Module]] = []

    def load() -> nn.Module:
        model = nn.Linear(2, 2)
        made.append(weakref.ref(model))
        return model

    def note() -> None:
        alive.append(made[-1]() is not None)

    monkeypatch.setattr("adapter_lab.training.device.slots.release_unused", note)

    def caller(slot: Slot[nn.Module]) -> torch.Tensor:
        return slot.use(lambda model: model(torch.zeros(1, 2)).detach())

    caller(Slot(load))
    assert alive == [False]


def test_no_phase_and_no_sample_picture_holds_a_model_longer_than_it_uses_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole runs: whenever a slot gives memory back, nothing in it is alive any more."""
    freed: list[list[str]] = []
    real = phases.Slot.free

    def free(self: Any) -> None:
        model = self._model
        modules = [model] if isinstance(model, nn.Module) else [*getattr(model, "parts", {}).values()]
        references = [weakref.ref(module) for module in modules]
        del model, modules

        def note() -> None:
            gc.collect()  # as the real one does; what is alive after it is held by somebody
            freed.append([type(alive).__name__ for r in references if (alive := r()) is not None])

        monkeypatch.setattr("adapter_lab.training.device.slots.release_unused", note)
        real(self)

    monkeypatch.setattr(phases.Slot, "free", free)
    config = tiny_config(tmp_path, "sdxl", run__steps=1, preview__prompts=["a"], preview__steps=1)
    train(config, tmp_path / "run")
    assert len(freed) >= 5  # images, captions, prompts, the base's sample, the last sample
    assert all(alive == [] for alive in freed), freed
