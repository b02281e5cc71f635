"""Saving adapters and resume states in the course of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adapter_lab import config_file
from adapter_lab.adapters.file import AdapterFile, save_adapter
from adapter_lab.config import TrainConfig
from adapter_lab.errors import FileFormatError, TrainingStopped
from adapter_lab.runs.run_folder import AdapterFiles, RunFolder
from adapter_lab.training.device.devices import FORMATS
from adapter_lab.training.optim.ema import MovingAverage
from adapter_lab.training.optim.optimizers import OptimizerSet
from adapter_lab.training.output import metadata
from adapter_lab.training.output.checkpoint import TrainingState, save_state
from adapter_lab.training.output.records import Records

# Sections whose settings a state belongs to; a resumed run with others would be another run.
FIXED_SECTIONS = ("network", "optimizer", "loss")

# What a fingerprint calls images and captions, in states since 0.1.
PICTURES = "the pictures or captions"


def fingerprint(config: TrainConfig, base_key: str, dataset_key: str) -> dict[str, Any]:
    """What a state belongs to, under names a person understands; settings of a section as {name: value}."""
    return {
        "the base model": base_key,
        PICTURES: dataset_key,
        "run.batch_size": str(config.run.batch_size),
        "run.seed": str(config.run.seed),
        **{f"the settings of {name}": asdict(getattr(config, name)) for name in FIXED_SECTIONS},
    }


class Saver:
    """Writes the adapters and states of one run."""

    def __init__(
        self,
        config: TrainConfig,
        folder: RunFolder,
        files: AdapterFiles,
        records: Records,
        network: Any,
        optimizer: OptimizerSet,
        average: MovingAverage | None,
        scaler: Any,
        describe: Callable[[int], dict[str, str]],
        fingerprint: dict[str, Any],
    ) -> None:
        """`describe(step)` gives the metadata of the adapter after that step; `scaler` is fp16's loss scaler if any."""
        self.config = config
        self.folder = folder
        self.files = files
        self.records = records
        self.network = network
        self.optimizer = optimizer
        self.average = average
        self.scaler = scaler
        self.fingerprint = fingerprint
        self._describe = describe

    @contextmanager
    def shown_weights(self) -> Iterator[None]:
        """Inside, the network has the weights that are saved and shown: averaged ones where the run averages."""
        with self.average.applied() if self.average is not None else self.optimizer.averaged():
            yield

    def adapter(self, step: int, final: bool = False, requested: bool = False) -> Path:
        """Save the adapter after `step` (`requested`: by a person); raises TrainingStopped where it is not finite."""
        self.records.catch_up(wait=True)
        with self.shown_weights():
            tensors = self.network.adapter_tensors()
        broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
        if broken:
            raise TrainingStopped(
                f"After step {step} the adapter has values that are not finite (first in {broken[0]}), so it is not "
                "saved. Adapters and states saved before are kept; start again with a lower learning rate."
            )
        path = self._written(tensors, None if final else step, self._describe(step))
        removed = self.files.add(path, self.config.save.keep_last)
        self.records.event(
            "saved",
            step=step,
            path=path,
            bytes=path.stat().st_size,
            final=final,
            requested=requested,
            removed=[str(p) for p in removed],
        )
        return path

    def _written(self, tensors: dict[str, Tensor], step: int | None, described: dict[str, str]) -> Path:
        """Write the file of a step, in the run's own folder from now on where the one for adapters fails."""
        path = self._own_path(self.files.path(step))
        try:
            save_adapter(path, self._in_file_format(tensors, path), described)
        except OSError as error:
            own = self.folder.path / "adapters"
            if self.files.folder == own:
                raise
            self.files.folder, self.files.saved = own, []
            self.records.warning(f"{error} Adapters of this run are saved in {own} from now on.")
            return self._written(tensors, step, described)
        return path

    def _in_file_format(self, tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
        wanted = FORMATS[self.config.save.dtype]
        converted = {name: tensor.to(wanted) for name, tensor in tensors.items()}
        if all(torch.isfinite(tensor).all() for tensor in converted.values()):
            return converted
        self.records.warning(
            f"{path.name} has values too large for {self.config.save.dtype} and is saved as fp32; the learning rate is "
            "probably too high."
        )
        return tensors

    def _own_path(self, path: Path) -> Path:
        """`path`, or beside it a free name where another run's file has appeared there meanwhile."""
        number, wanted = 2, path
        while path.exists() and path.name not in self.files.saved and not self._is_own(path):
            path = wanted.with_name(f"{wanted.stem}_{number}{wanted.suffix}")
            number += 1
        if path != wanted:
            self.records.warning(
                f"{wanted} was written by another run and is kept; this adapter is saved as {path.name}."
            )
        return path

    def _is_own(self, path: Path) -> bool:
        """Whether this run wrote the file, before it was interrupted."""
        try:
            theirs = AdapterFile.open(path).metadata
        except (FileFormatError, OSError):
            return False
        ours = self._describe(0)
        return all(theirs.get(key) == ours[key] for key in ("ss_training_started_at", "adapter_lab.run"))

    def state(self, step: int, seconds: float) -> Path:
        """Save the full state after `step` and `seconds` of training."""
        self.records.catch_up(wait=True)
        state = TrainingState(
            step=step,
            seconds=seconds,
            weights=raw_weights(self.network),
            optimizer=self.optimizer.state_dict(),
            average=self.average.state_dict() if self.average is not None else None,
            scaler=self.scaler.state_dict() if self.scaler is not None else None,
            adapters=list(self.files.saved),
            records=self.records.state_dict(),
            fingerprint=self.fingerprint,
        )
        path = save_state(self.folder.state, state, self.config.save.keep_states)
        self.records.event("state", step=step, path=path, seconds=round(seconds, 3))
        return path

    def restore(self, state: TrainingState) -> None:
        """Go on exactly where `state` was saved."""
        with torch.no_grad():
            for name, parameter in raw_weights(self.network).items():
                parameter.copy_(state.weights[name])
        self.optimizer.load_state_dict(state.optimizer)
        if self.average is not None and state.average is not None:
            self.average.load_state_dict(state.average)
        if self.scaler is not None and state.scaler is not None:
            self.scaler.load_state_dict(state.scaler)
        self.files.saved = [path.name for path in self.still_there(state)]
        self.records.load_state_dict(state.records)

    def still_there(self, state: TrainingState) -> list[Path]:
        """The adapters of `state` in the present output folder, which may hold another run's of these names."""
        return [path for name in state.adapters if self._is_own(path := self.files.folder / name)]


def raw_weights(network: Any) -> dict[str, Tensor]:
    """The trained parameters themselves by a name that depends on the settings alone."""
    return {
        f"{module}.{name}": parameter.detach()
        for module, layer in network.layers.items()
        for name, parameter in layer.named_parameters()
    }


def describe_adapter(
    config: TrainConfig,
    run: str,
    base_entries: dict[str, str],
    dataset_entries: dict[str, str],
    resolution: int,
    total_steps: int,
    steps_per_epoch: int,
    started_at: float,
) -> Callable[[int], dict[str, str]]:
    """The metadata of the adapter after each step of a run."""
    text = config_file.dumps(metadata.without_places(config), only_changed=True)
    fixed = {**dataset_entries, "adapter_lab.run": run}

    def describe(step: int) -> dict[str, str]:
        progress = metadata.Progress(
            step=step,
            epoch=-(-step // steps_per_epoch),
            total_steps=total_steps,
            total_epochs=-(-total_steps // steps_per_epoch),
            started_at=started_at,
        )
        return metadata.adapter_metadata(config, text, base_entries, fixed, progress, resolution)

    return describe
