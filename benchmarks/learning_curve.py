"""How well runs of different lengths learn with untouched defaults: likeness on the demo's folder, as a table.

python benchmarks/learning_curve.py                                  all of it: hours on two cores
python benchmarks/learning_curve.py --steps 60 200 --seeds 1         some of it
python benchmarks/learning_curve.py --table                          what has been measured so far, as Markdown

Whatever was measured stays in the output folder, and a later call goes on from there. Where two lengths come to the
same settings, the longer run is the shorter one gone on with, which gives the same file as a run from the start. Only
what changes cost alone is set: no gradient checkpointing, and latents in memory.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "extension"))

from adapter_lab.algorithms import ADAPTER_TYPES
from adapter_lab.config import TrainConfig
from adapter_lab.demo.dataset import write_demo_folder
from adapter_lab.demo.evaluate import likeness_alone
from adapter_lab.demo.run import load_parts, with_adapter
from adapter_lab.demo.toy_file import TOY_FILE, open_scorer
from adapter_lab.prospects import fitted
from adapter_lab.training.loop import resume, train

TYPES = ("lora", "lokr", "diag-oft")
STEPS = (60, 200, 300, 1000, 8000)
SEEDS = (1, 2, 3)
# The optimiser's settings by recipe; "before" are the defaults up to the release that measured this.
RECIPES: dict[str, dict[str, Any]] = {"now": {}, "before": {"growth_rate": 1.01, "d0": 1e-6, "d_coef": 0.5}}


def configured(recipe: str, kind: str, seed: int, steps: int, out: Path) -> TrainConfig:
    """The tab's settings after choosing base, folder, type and steps."""
    config = TrainConfig()
    config.base.checkpoint, config.dataset.folder = str(TOY_FILE), str(out / "pictures")
    for section, values in (("network", ADAPTER_TYPES[kind].network), ("optimizer", RECIPES[recipe])):
        for name, value in values.items():
            setattr(getattr(config, section), name, value)
    config.run.name, config.run.seed, config.run.steps = kind, seed, steps
    config.dataset.cache_latents, config.precision.gradient_checkpointing = "memory", False
    return config


def adapter_after(recipe: str, kind: str, seed: int, steps: int, out: Path) -> Path:
    """The adapter of a run of so many steps, trained, or gone on with, if it is not there yet."""
    # Every length with the same settings is a stretch of one run.
    settings = fitted(configured(recipe, kind, seed, steps, out), steps)
    folder = out / f"{recipe}-{kind}-s{seed}-d_coef-{settings.d_coef:g}"
    last, numbered = (
        folder / "adapters" / f"{kind}.safetensors",
        folder / "adapters" / f"{kind}-{steps:06d}.safetensors",
    )
    if numbered.exists():
        return numbered
    if not last.exists():
        train(configured(recipe, kind, seed, steps, out), folder)
    else:
        resume(folder, {"run.steps": steps})
    return last


def measure(recipe: str, kind: str, seed: int, steps: int, out: Path, pictures: int) -> None:
    """Train and score one cell, if it is not there yet."""
    record = out / "scores" / f"{recipe}-{kind}-{seed}-{steps}.json"
    if record.exists():
        return
    adapter = adapter_after(recipe, kind, seed, steps, out)
    found = likeness_alone(with_adapter(adapter), open_scorer(), pictures)
    record.write_text(json.dumps({"likeness": found, "pictures": pictures}), encoding="utf-8")
    print(f"{recipe} {kind} seed {seed} step {steps}: likeness {found:.3f}", file=sys.stderr, flush=True)


def table(out: Path) -> str:
    """What has been measured, in Markdown: mean and, of several seeds, the range."""
    rows = ["| type | steps | before | now |", "|---|---|---|---|"]
    base = out / "scores" / "base.json"
    if base.exists():
        value = f"{json.loads(base.read_text(encoding='utf-8'))['likeness']:.2f}"
        rows.append(f"| no adapter | 0 | {value} | {value} |")
    for kind in TYPES:
        rows += [
            f"| {kind} | {steps:,} | {_cell(out, 'before', kind, steps)} | {_cell(out, 'now', kind, steps)} |"
            for steps in STEPS
        ]
    return "\n".join(rows)


def _cell(out: Path, recipe: str, kind: str, steps: int) -> str:
    files = sorted((out / "scores").glob(f"{recipe}-{kind}-*-{steps}.json"))
    values = [json.loads(path.read_text(encoding="utf-8"))["likeness"] for path in files]
    if len(values) < 2:
        return "".join(f"{value:.2f} (one seed)" for value in values) or "-"
    return f"{fmean(values):.2f} ({min(values):.2f} to {max(values):.2f}, {len(values)} seeds)"


def main() -> None:
    """Measure what is asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("learning-curve"), help="output folder")
    parser.add_argument("--types", nargs="+", choices=TYPES, default=list(TYPES))
    parser.add_argument("--steps", nargs="+", type=int, default=list(STEPS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--pictures", type=int, default=16, help="scored per character")
    parser.add_argument("--table", action="store_true", help="only print what has been measured")
    chosen = parser.parse_args()
    if not chosen.table:
        (chosen.out / "scores").mkdir(parents=True, exist_ok=True)
        write_demo_folder(chosen.out / "pictures")
        base = chosen.out / "scores" / "base.json"
        if not base.exists():
            found = likeness_alone(load_parts(TOY_FILE), open_scorer(), chosen.pictures)
            base.write_text(json.dumps({"likeness": found, "pictures": chosen.pictures}), encoding="utf-8")
        for recipe in chosen.recipes:
            for seed in chosen.seeds:
                for kind in chosen.types:
                    for steps in sorted(chosen.steps):
                        measure(recipe, kind, seed, steps, chosen.out, chosen.pictures)
    print(table(chosen.out))


if __name__ == "__main__":
    main()
