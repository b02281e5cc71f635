"""What all trainings of a study share, made once before them: encoded images and captions."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from adapter_lab.config import TrainConfig, trained_network
from adapter_lab.runs.run_folder import RunFolder
from adapter_lab.training.interrupt import StopRequests
from adapter_lab.training.output.records import Records
from adapter_lab.training.prepare import Machine, Preparation, StopEarly

FOLDER = "preparation"  # events and log of it, inside the study's folder


def fill_caches(configs: Sequence[TrainConfig], folder: Path, on_event: Callable[[Any], None] | None = None) -> bool:
    """Encode the images and captions that trainings of `configs` would, each once; returns whether all are there.

    Events are written to `folder`. Settings that keep nothing on disk (`dataset.cache_latents` memory or off) are left
    to the trainings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    records = Records(RunFolder(folder), on_event)
    try:
        with StopRequests(folder) as stop:
            for config in distinct(configs):
                Preparation(config, Machine.of(config), records, stop.reason).fill_caches()
    except StopEarly:
        return False
    finally:
        records.close()
    return True


def distinct(configs: Sequence[TrainConfig]) -> list[TrainConfig]:
    """One configuration of each kind that needs entries of its own in the cache."""
    found: dict[str, TrainConfig] = {}
    for config in configs:
        if config.dataset.cache_latents == "disk":
            network = config.network
            parts = [asdict(config.base), asdict(config.dataset), config.precision.mixed, network.frozen_adapters]
            found.setdefault(json.dumps([*parts, trained_network(config).train_te], sort_keys=True), config)
    return list(found.values())
