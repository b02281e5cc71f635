"""What newer ways to train learn on the toy world: likeness and drift over three seeds, as a table.

    python benchmarks/newer_types.py --flow toy-flow.safetensors    # `python -m adapter_lab.demo.make_flow` writes it
    python benchmarks/newer_types.py --table                        # what has been measured so far, as Markdown

T-LoRA, OFTv2, LoRA+ and a start from the weight's largest directions beside LoRA and diag-OFT on the toy SDXL, and
three types on the same toy as a rectified flow. Everything else is as the tab offers it, but for latents in memory and
no gradient checkpointing. A later call goes on from what is there.
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
from adapter_lab.demo.evaluate import Parts, generate, likeness_alone, ordinary_prompts
from adapter_lab.demo.run import load_parts, with_adapter
from adapter_lab.demo.scorer import ScorerNet, read_pictures, tag_accuracy
from adapter_lab.demo.toy_file import TOY_FILE, open_scorer
from adapter_lab.demo.world import Scene
from adapter_lab.training.loop import train

SEEDS = (1, 2, 3)
# Title -> base, type, and what differs from the type.
WAYS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "LoRA": ("diffusion", "lora", {}),
    "LoRA+ (ratio 16)": ("diffusion", "lora", {"network.lora_plus_ratio": 16.0}),
    "LoRA, AdamW": ("diffusion", "lora", {"optimizer.name": "adamw"}),
    "LoRA+ (ratio 16), AdamW": ("diffusion", "lora", {"network.lora_plus_ratio": 16.0, "optimizer.name": "adamw"}),
    "LoRA from the largest directions (PiSSA)": ("diffusion", "lora", {"network.init": "svd"}),
    "T-LoRA": ("diffusion", "t-lora", {}),
    "diag-OFT": ("diffusion", "diag-oft", {}),
    "OFTv2": ("diffusion", "oftv2", {}),
    "LoRA, rectified flow": ("flow", "lora", {}),
    "LoKr, rectified flow": ("flow", "lokr", {}),
    "OFTv2, rectified flow": ("flow", "oftv2", {}),
}


def adapter_of(title: str, seed: int, base: Path, steps: int, out: Path) -> Path:
    """The adapter of one training, trained if it is not there yet."""
    _, kind, changes = WAYS[title]
    config = TrainConfig()
    config.base.checkpoint, config.dataset.folder = str(base), str(out / "pictures")
    for name, value in ADAPTER_TYPES[kind].network.items():
        setattr(config.network, name, value)
    for path, value in changes.items():
        section, name = path.split(".")
        setattr(getattr(config, section), name, value)
    config.run.name, config.run.seed, config.run.steps = "adapter", seed, steps
    config.dataset.cache_latents, config.precision.gradient_checkpointing = "memory", False
    folder = out / f"{_slug(title)}-s{seed}-{steps}"
    file = folder / "adapters" / "adapter.safetensors"
    if not file.exists():
        train(config, folder)
    return file


def measure(title: str, seed: int, base: Path, chosen: argparse.Namespace) -> None:
    """Train and score one cell, if it is not there yet."""
    record = chosen.out / "scores" / f"{_slug(title)}-{seed}-{chosen.steps}.json"
    if record.exists():
        return
    scorer = open_scorer()
    parts = with_adapter(adapter_of(title, seed, base, chosen.steps, chosen.out), base)
    before = _ordinary(load_parts(base), scorer, chosen.images)
    found = {
        "likeness": likeness_alone(parts, scorer, chosen.images),
        "drift": drift(before, _ordinary(parts, scorer, chosen.images)),
    }
    record.write_text(json.dumps(found), encoding="utf-8")
    print(f"{title} seed {seed}: {found}", file=sys.stderr, flush=True)


def drift(before: list[Scene], after: list[Scene]) -> float:
    """The share of attributes of ordinary images that are no longer what the base draws from the same seed."""
    return 1 - fmean(tag_accuracy(was, now) for was, now in zip(before, after, strict=True))


def _ordinary(parts: Parts, scorer: ScorerNet, count: int) -> list[Scene]:
    prompts = [*ordinary_prompts(1, count, 103), *ordinary_prompts(2, count, 104)]
    return read_pictures(scorer, generate(parts, prompts))


def table(out: Path, steps: int) -> str:
    """What has been measured, in Markdown: means and ranges over seeds."""
    rows = [f"| after {steps} steps | likeness | drift |", "|---|---|---|"]
    for title in WAYS:
        files = sorted((out / "scores").glob(f"{_slug(title)}-?-{steps}.json"))
        found = [json.loads(path.read_text(encoding="utf-8")) for path in files]
        cells = [_cell([entry[name] for entry in found]) for name in ("likeness", "drift")]
        rows.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _cell(values: list[float]) -> str:
    if not values:
        return "-"
    return f"{fmean(values):.2f} ({min(values):.2f} to {max(values):.2f}, {len(values)} seeds)"


def _slug(title: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in title.lower()).strip("-")


def main() -> None:
    """Measure what is asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("newer-types"), help="output folder")
    parser.add_argument("--flow", type=Path, help="the toy base for rectified flow; without it that is left out")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--images", type=int, default=8, help="scored per character, and ordinary ones of each kind")
    parser.add_argument("--table", action="store_true", help="only print what has been measured")
    chosen = parser.parse_args()
    if not chosen.table:
        (chosen.out / "scores").mkdir(parents=True, exist_ok=True)
        write_demo_folder(chosen.out / "pictures")
        bases = {"diffusion": TOY_FILE, "flow": chosen.flow}
        for seed in chosen.seeds:
            for title, (kind, _, _) in WAYS.items():
                if bases[kind] is not None:
                    measure(title, seed, bases[kind], chosen)
    print(table(chosen.out, chosen.steps))


if __name__ == "__main__":
    main()
