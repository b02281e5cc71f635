"""The toy study: the study's eleven variants on two new characters of the toy world, scored exactly."""

from __future__ import annotations

from pathlib import Path

from adapter_lab.errors import AdapterLabError
from adapter_lab.study.spec.definition import Budget, General, Study
from adapter_lab.study.spec.file import write
from adapter_lab.study.spec.variants import eleven

from .bases import toy_of
from .dataset import write_demo_folder
from .evaluate import GUIDANCE, STEPS
from .run import BATCH

PICTURES = 44
HELD_OUT = 0.1
MINUTES, POINTS, SEEDS = 1.25, 3, (1, 2, 3)
# Enough to see that everything works, not to compare.
SMALL_MINUTES, SMALL_POINTS, SMALL = 0.4, 2, ("LoRA+TE", "LoKr f4", "diag-OFT")


def make_demo_study(folder: Path, small: bool = False, minutes: float = 0.0, base: str = "sdxl") -> Path:
    """Draws the images and writes the plan of the toy study into `folder`; returns the plan's file.

    `small`: three variants and one seed. `minutes`: training time of each, 0 for the usual. `base`: one of
    `bases.TOYS`. Raises AdapterLabError
    where `folder` holds another study.
    """
    plan = folder / "study.toml"
    if plan.exists():
        raise AdapterLabError(f"{plan} is there already; `adapter-lab study run {folder}` runs it.")
    pictures = folder / "training-pictures"
    write_demo_folder(pictures, PICTURES)
    write(demo_study(folder.resolve(), small, minutes, base), plan)
    return plan


def demo_study(folder: Path, small: bool = False, minutes: float = 0.0, base: str = "sdxl") -> Study:
    """The toy study whose images are in `folder`."""
    study = Study()
    # One thread each, so that as many trainings as there are cores share a processor fairly.
    study.general = General("toy", [SEEDS[0]] if small else list(SEEDS), threads=1)
    amount = minutes or (SMALL_MINUTES if small else MINUTES)
    study.budget = Budget("minutes", amount, SMALL_POINTS if small else POINTS)
    shared = study.shared
    shared.base.checkpoint = str(toy_of(base))
    shared.dataset.folder = str(folder / "training-pictures")
    shared.dataset.cache_folder = str(folder / "cache")
    shared.dataset.validation_fraction = HELD_OUT
    shared.precision.device = "cpu"
    shared.precision.gradient_checkpointing = False
    shared.run.batch_size = BATCH
    variants = eleven(dim=16, loha=8, small_loha=3, block=8, scale=1.0)
    study.variants = [variant for variant in variants if not small or variant.name in SMALL]
    study.scores = {
        "pictures": {"steps": STEPS, "guidance": GUIDANCE},
        "toy": {"pictures": 3 if small else 4},
    }
    return study
