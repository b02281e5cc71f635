"""Predicts every preset's file size and peak memory and writes docs/presets.md.

python benchmarks/presets.py            all presets, about half an hour on one core
python benchmarks/presets.py sdxl-lora  those whose name contains a text, printed only
"""

from __future__ import annotations

import sys
import time
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "extension"))

import torch

from adapter_lab.presets import STUDY, TIERS, TYPES, preset, preset_table
from adapter_lab.training.estimate.memory import Estimate, estimate

PAGE = ROOT / "docs" / "presets.md"
INTRODUCTION = """\
# Presets

<!-- Made by `python benchmarks/presets.py`. -->

`adapter-lab train --preset NAME --base CHECKPOINT --folder PICTURES --steps N`. Names are base, type and memory of the
GPU in GB, such as `sdxl-lokr-8gb`; `adapter-lab presets` lists them. Each cell is the peak that `adapter-lab estimate`
predicts in GB (10^9 bytes) with 400 MB for CUDA's context; what the screen and other programs use comes on top. All
save memory by gradient checkpointing and by encoding images first.
"""


def prediction(name: str) -> Estimate:
    """The preset's estimate, and its time on standard error."""
    started = time.process_time()
    found = estimate(preset(name))
    peak = (found.peak_bytes or 0) / 1e9
    print(
        f"{name:28} {peak:6.2f} GB {found.file_bytes / 2**20:8.2f} MiB {time.process_time() - started:6.1f} s",
        flush=True,
    )
    return found


def page() -> str:
    """The whole page: the study, then a table per base of types by memory."""
    study = prediction(STUDY)
    blocks = [
        INTRODUCTION,
        f"`{STUDY}` is the study's recipe (SDXL, 1024 px, batch 2, LoRA 32 with both text encoders, Prodigy): "
        f"{(study.peak_bytes or 0) / 1e9:.2f} GB.\n",
    ]
    for base in dict.fromkeys(base for base, _ in TIERS):
        memories = [memory for of, memory in TIERS if of == base]
        rows = ["| type | " + " | ".join(f"{memory} GB" for memory in memories) + " | file, MiB |"]
        rows.append("|---" * (len(memories) + 2) + "|")
        for kind in TYPES:
            if f"{base}-{kind}-{memories[0]}gb" not in preset_table():
                continue
            found = [prediction(f"{base}-{kind}-{memory}gb") for memory in memories]
            peaks = " | ".join(f"{(entry.peak_bytes or 0) / 1e9:.1f}" for entry in found)
            sizes = " / ".join(dict.fromkeys(f"{entry.file_bytes / 2**20:.0f}" for entry in found))
            rows.append(f"| `{kind}` | {peaks} | {sizes} |")
        config = [preset(f"{base}-lora-{memory}gb") for memory in memories]
        rows.append("| images per step | " + " | ".join(str(c.run.batch_size) for c in config) + " | |")
        rows.append("| text encoder | " + " | ".join("yes" if c.network.train_te else "no" for c in config) + " | |")
        rows.append("| base weights | " + " | ".join(c.precision.base_weights for c in config) + " | |")
        blocks.append(f"## {base}\n\n" + "\n".join(rows) + "\n")
    return "\n".join(blocks)


def main() -> None:
    """Predict the presets named, or all of them for the page."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    if len(sys.argv) > 1:
        for name in preset_table():
            if sys.argv[1] in name:
                prediction(name)
    else:
        PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
