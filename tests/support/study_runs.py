"""Studies small enough to run in tests, and an executor that starts no processes, which take longer than they train."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from adapter_lab.cli import main
from adapter_lab.study.executors import Ended, Job, Tick
from adapter_lab.study.executors.processes import CONSOLE
from adapter_lab.study.spec.definition import DECIDED, Budget, General, Race, Study, Variant
from adapter_lab.study.spec.file import shared_from, write
from tests.support.training import tiny_config

LORA = Variant("LoRA", {"network.dim": 4, "network.alpha": 4.0})
LOKR = Variant("LoKr f2", {"network.algo": "lokr", "network.dim": 4, "network.alpha": 4.0, "network.factor": 2})
BROKEN = Variant("broken", {"network.dim": 4, "network.start_from": "missing.safetensors"})


class InProcess:
    """Runs each job as the command line would, in this process."""

    kind = "cpu"

    def __init__(self, memory: int | None = None) -> None:
        self.ran: list[str] = []
        self._memory = memory

    def memory_bytes(self) -> int | None:
        """What the test says there is."""
        return self._memory

    def map(self, jobs: Iterable[Job], tick: Tick) -> Iterator[Ended]:
        """One job after another."""
        for job in jobs:
            self.ran.append(job.name)
            tick()
            said = io.StringIO()
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                status = main(job.arguments)
            job.folder.mkdir(parents=True, exist_ok=True)
            (job.folder / CONSOLE).write_text(said.getvalue(), encoding="utf-8")
            tick()
            yield Ended(job, status)


def tiny_study(root: Path, *variants: Variant, **changes: Any) -> Path:
    """The folder of a study of 6 steps with 3 checkpoints on a tiny base; `changes` as in budget__amount=4."""
    config = tiny_config(root, pictures=5, run__steps=0, dataset__cache_latents="disk")
    config.network.dim, config.network.alpha = 16, 8.0  # the defaults, which suit every variant
    study = Study(General("tiny", [1], 1), Budget("steps", 6.0, 3), Race())
    study.shared, _ = shared_from(config, DECIDED)
    study.variants = list(variants or (LORA, LOKR))
    for name, value in changes.items():
        owner, setting = name.split("__")
        target = getattr(study, owner) if hasattr(study, owner) else getattr(study.shared, owner)
        assert hasattr(target, setting), name
        setattr(target, setting, value)
    folder = root / "study"
    folder.mkdir(parents=True, exist_ok=True)
    write(study, folder / "study.toml")
    return folder
