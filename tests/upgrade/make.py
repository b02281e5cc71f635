"""Writes what a release leaves behind, for the next ones to open: run by that release, from a checkout of it.

PYTHONPATH=CHECKOUT/extension:CHECKOUT python tests/upgrade/make.py tests/data/upgrade/NAME

A run after two of its steps, what it came to after four, a study of which one variant is trained, a preset and a queue.
Paths become @ROOT@, which the tests put a folder of theirs in.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

try:
    from adapter_lab.study.running.runner import run
    from adapter_lab.study.spec.definition import Variant
except ImportError:  # the first two releases
    from adapter_lab.study.definition import Variant  # type: ignore[import-not-found, no-redef]
    from adapter_lab.study.runner import run  # type: ignore[import-not-found, no-redef]

from adapter_lab.api.own_presets import OwnPresets
from adapter_lab.config import RuleConfig, TrainConfig
from adapter_lab.training.loop import resume, train
from adapter_lab.worker import Worker
from tests.support.study_runs import InProcess, tiny_study
from tests.support.training import losses_of, tiny_config

ROOT = "@ROOT@"
# Few modules, so that the files are small.
RULES = [RuleConfig("lora_unet_output_blocks_*", "none"), RuleConfig("lora_unet_input_blocks_[4-9]_*", "none")]
TEXTS = ("*.toml", "*.json", "*.jsonl", "*.txt", "*.log")


def main(out: Path) -> None:
    """Write everything into `out`, which must not exist."""
    root = out.resolve()
    config = tiny_config(root, pictures=5, run__steps=2, optimizer__schedule="cosine", network__rules=RULES)
    config.network.dim, config.network.alpha = 1, 1.0
    base = root / "base.safetensors"
    shutil.copyfile(config.base.checkpoint, base)
    config.base.checkpoint, config.run.name = str(base), "old"
    train(config, root / "run")
    shutil.copytree(root / "run", root / "further")
    resume(root / "further", {"run.steps": 4})
    (root / "expected.json").write_text(json.dumps({"losses": losses_of(root / "further")}), encoding="utf-8")
    shutil.rmtree(root / "further")
    study = tiny_study(root, Variant("LoRA", {"network.dim": 1, "network.alpha": 1.0}), network__rules=RULES)
    text = (study / "study.toml").read_text(encoding="utf-8")
    (study / "study.toml").write_text(text.replace(tiny_config(root).base.checkpoint, str(base)), encoding="utf-8")
    run(study, InProcess())
    for unwanted in root.rglob("tensorboard"):
        shutil.rmtree(unwanted)
    for numbered in (*root.glob("study/adapters/*-0*.safetensors"), root / "study/runs/LoRA-s1/state/step-00000004.pt"):
        numbered.unlink()
    _leave_waiting(root, base)
    base.unlink()  # the tests make it again
    for pattern in TEXTS:
        for path in root.rglob(pattern):
            text = path.read_text(encoding="utf-8")
            if str(root) in text:
                path.write_text(text.replace(str(root), ROOT), encoding="utf-8")


def _leave_waiting(root: Path, base: Path) -> None:
    """A preset of a person's own, and a run that waits in a queue that is paused."""
    own = TrainConfig()
    own.network.algo, own.network.dim, own.network.factor = "lokr", 12, 4
    own.optimizer.te1_lr, own.loss.min_snr_gamma = 1e-5, 5.0
    own.network.rules = [RuleConfig("lora_te*", dim=2)]
    OwnPresets(root / "presets").save("mine", own)
    config = tiny_config(root, pictures=5, run__steps=3)
    config.base.checkpoint, config.run.name = str(base), "waiting"
    worker = Worker(root / "runs")
    worker._starter.python = lambda: Path(sys.executable)  # type: ignore[method-assign]
    worker.pause(True)
    worker.submit(config)
    worker.close()
    (root / "runs" / ".queue.lock").unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
