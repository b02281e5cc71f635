"""What a study will come to, said before it starts: sizes, steps, minutes, and what will not fit into memory."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from adapter_lab.study.planning.plan import PlannedRun, plan, predict
from adapter_lab.study.spec.definition import Study


def forecast(study: Study, folder: Path, kind: str, available: int | None) -> dict[str, Any]:
    """The plan of a study whose folder is `folder`, for JSON; raises ConfigError with everything that is wrong.

    kind: of the devices, "cpu", "cuda" or "mps". available: bytes of memory that a training may take; None: memory is
    not predicted.
    """
    runs = plan(study, folder)
    seeds, points = len(study.general.seeds), study.budget.points
    variants = [_variant(entry, kind, available) for entry in runs[: len(study.variants)]]
    minutes = study.budget.amount * len(runs) if study.budget.unit == "minutes" else None
    return {
        "study": study.name,
        "variants": variants,
        "trainings": len(runs),
        "files": len(runs) * points,
        "bytes": sum(entry["file_bytes"] for entry in variants) * seeds * points,
        "minutes": minutes,
        "memory_bytes": available,
    }


def _variant(planned: PlannedRun, kind: str, available: int | None) -> dict[str, Any]:
    found = predict(planned.config, kind, memory=available is not None)
    network, run = planned.config.network, planned.config.run
    peak = found.peak_bytes
    return {
        "variant": planned.variant.name,
        "algo": network.algo,
        "dim": network.dim,
        "conv_dim": network.conv_dim,
        "alpha": network.alpha,
        "factor": network.factor,
        "steps": run.steps or None,
        "minutes": run.minutes or None,
        **asdict(found),
        "fits": None if available is None or peak is None else peak <= available,
    }
