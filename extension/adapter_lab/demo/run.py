"""`adapter-lab demo`: trains three adapter types on two new characters of the toy world and scores them."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from adapter_lab.adapters.apply import apply_adapters
from adapter_lab.config import BaseConfig, TrainConfig
from adapter_lab.families import DiffusionTransformer
from adapter_lab.study.pictures.grid import label_grid
from adapter_lab.training.bases import open_base
from adapter_lab.training.bases.vae import decode
from adapter_lab.training.loop import RunResult, train

from .bases import other_parts, toy_of
from .dataset import write_demo_folder
from .drawing import SIZE
from .evaluate import Evaluation, Parts, Prompt, character_prompts, evaluate, generate
from .scorer import ScorerNet
from .toy_file import TOY_FILE, open_scorer

STEPS = 200
SAVE_EVERY = 50
BATCH = 8
PICTURES = 40
EVALUATED = 16  # images of each of the five groups per adapter
# The share of a character's attributes by which a trained adapter must beat the base, alone and together.
MARGIN = 0.35
# One network per row: name, settings of NetworkConfig.
TYPES: dict[str, dict[str, Any]] = {
    "LoRA": {"algo": "lora", "dim": 16, "alpha": 16.0},
    "LoKr": {"algo": "lokr", "dim": 16, "alpha": 16.0, "factor": 4},
    "diag-OFT": {"algo": "diag-oft", "dim": 8},
}

LEGEND = """\
vexa, orrin, both: likeness, the share of each new character's 7 attributes that is right, alone and together;
bleeding: the share that is the other character's; tags: the share of ordinary tags still drawn right with one and
with two figures. {images} images per row."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """One line of the table; the base alone has 0 steps."""

    type: str
    steps: int
    seconds_per_step: float
    peak_bytes: int
    file_bytes: int
    loss: float
    scores: Evaluation


@dataclass(frozen=True)
class DemoResult:
    """What the demo measured and where its grid lies."""

    rows: list[Row]
    grid: Path
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        rows = [{**asdict(row), "scores": row.scores.to_dict()} for row in self.rows]
        return {"rows": rows, "grid": str(self.grid), "seconds": round(self.seconds, 1), "learned": self.learned}

    @property
    def learned(self) -> bool:
        """Whether every type beats the base's likeness by `MARGIN`, each character alone and both together."""
        base, *trained = (row.scores for row in self.rows)
        return all(min(differences(base, scores)) >= MARGIN for scores in trained)

    def text(self) -> str:
        """For people: the table, what its columns mean, and the grid's place."""
        head = [
            "type",
            "steps",
            "s/it",
            "peak MiB",
            "file MiB",
            "loss",
            "vexa",
            "orrin",
            "both",
            "bleeding",
            "tags 1",
            "tags 2",
        ]
        lines = [head, *(_cells(row) for row in self.rows)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
        table = "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths)) for line in lines)
        verdict = "beats" if self.learned else "does NOT beat"
        explanation = LEGEND.format(images=self.rows[0].scores.pictures)
        return (
            f"{table}\n\n{explanation}\nEvery type {verdict} the base's likeness by {MARGIN:.2f} or more. "
            f"Took {self.seconds:.0f} s. Grid: {self.grid}"
        )


def differences(base: Evaluation, scores: Evaluation) -> tuple[float, float, float]:
    """How much likeness exceeds the base's: first character, second, both together."""
    return (
        scores.likeness_first - base.likeness_first,
        scores.likeness_second - base.likeness_second,
        scores.likeness_together - base.likeness_together,
    )


def _cells(row: Row) -> list[str]:
    s, mib = row.scores, 2**20
    measured = [s.likeness_first, s.likeness_second, s.likeness_together, s.bleeding, s.tags_one, s.tags_two]
    scores = [f"{value:.2f}" for value in measured]
    if row.steps == 0:
        return [row.type, "0", "-", "-", "-", "-", *scores]
    costs = [
        f"{row.seconds_per_step:.2f}",
        f"{row.peak_bytes / mib:.0f}",
        f"{row.file_bytes / mib:.2f}",
        f"{row.loss:.3f}",
    ]
    return [row.type, str(row.steps), *costs, *scores]


def run_demo(
    out: Path = Path("demo-output"), steps: int = STEPS, say: Say | None = None, base_name: str = "sdxl"
) -> DemoResult:
    """Draws the demo folder, trains every type of `TYPES` on it, scores and draws a type-by-step grid, all below `out`.

    `base_name`: one of `bases.TOYS`.
    Results of an earlier demo in `out` are replaced; other files there are left alone.
    """
    started, toy = time.monotonic(), toy_of(base_name)
    say = say or _to_stderr
    for name in ("pictures", "runs"):
        shutil.rmtree(out / name, ignore_errors=True)
    pictures = out / "pictures"
    write_demo_folder(pictures, PICTURES)
    say(f"Drew {PICTURES} images of two new characters in {pictures}.")
    scorer, shown = open_scorer(), _shown_prompts()
    base = load_parts(toy)
    rows = [Row("base", 0, 0.0, 0, 0, 0.0, evaluate(base, scorer, EVALUATED))]
    say(_progress(rows[-1]))
    columns = [0, *range(SAVE_EVERY, steps + 1, SAVE_EVERY)]
    first = generate(base, shown)
    cells: list[list[Image.Image]] = []
    for name in TYPES:
        result = train_apart(demo_config(name, pictures, out, steps, toy))
        drawn = [first, *(generate(with_adapter(path, toy), shown) for path in result.adapters)]
        cells.append([_cell(tensor) for tensor in drawn])
        rows.append(_row(name, result, scorer, toy))
        say(_progress(rows[-1]))
    grid = out / "grid.png"
    label_grid(cells, list(TYPES), ["base" if step == 0 else f"step {step}" for step in columns]).save(grid)
    return DemoResult(rows, grid, time.monotonic() - started)


def demo_config(name: str, pictures: Path, out: Path, steps: int = STEPS, toy: Path = TOY_FILE) -> TrainConfig:
    """The settings one type of `TYPES` is trained with."""
    config = TrainConfig()
    config.base.checkpoint = str(toy)
    config.dataset.folder = str(pictures)
    config.dataset.cache_latents = "memory"
    for key, value in TYPES[name].items():
        setattr(config.network, key, value)
    config.precision.gradient_checkpointing = False
    config.run.name, config.run.runs_folder = f"demo-{name.lower()}", str(out / "runs")
    config.run.steps, config.run.batch_size, config.run.seed = steps, BATCH, 1
    config.save.every_steps = SAVE_EVERY
    return config


def train_apart(config: TrainConfig) -> RunResult:
    """Trains in a process of its own, since memory that an earlier run left behind would hide this one's peak."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_train, config, torch.get_num_threads()).result()


def _train(config: TrainConfig, threads: int) -> RunResult:
    torch.set_num_threads(threads)
    return train(config)


def load_parts(checkpoint: Path, beside: Path | None = None) -> Parts:
    """The modules of a toy checkpoint, loaded as any base is; its other files, if any, lie beside `beside`."""
    config = BaseConfig(checkpoint=str(checkpoint))
    for setting, path in other_parts(beside or checkpoint).items():
        setattr(config, setting, str(path))
    base = open_base(config)
    encoders, objective, latents = base.load_text_encoders(torch.float32), base.objective(), base.latents
    unet, vae = base.load_unet(torch.float32), base.load_vae(torch.float32)
    # A UNet's flow is drawn as it was trained; a transformer's with the shift that programs draw it with.
    shift = base.row.shift if isinstance(base.row, DiffusionTransformer) else 1.0
    size = (SIZE, SIZE)
    return Parts(
        unet,
        vae,
        encoders.encode,
        lambda noisy, times, text: base.denoise(unet, noisy, times, text, [(size, (0, 0), size)] * len(noisy)),
        lambda found: decode(vae, latents.restore(found)),
        latents.channels,
        lambda steps: objective.sampler(steps, shift=shift),
    )


def with_adapter(adapter: Path, base: Path = TOY_FILE) -> Parts:
    """A toy base with an adapter file applied at strength 1, as `adapter-lab apply` does it."""
    with tempfile.TemporaryDirectory() as folder:
        patched = Path(folder) / "patched.safetensors"
        apply_adapters(base, [(adapter, 1.0)], patched, dtype="fp32")
        return load_parts(patched, base)


def _row(name: str, result: RunResult, scorer: ScorerNet, toy: Path) -> Row:
    final = result.adapters[-1]
    scores = evaluate(with_adapter(final, toy), scorer, EVALUATED)
    return Row(
        name,
        result.steps,
        result.seconds_per_step,
        result.peak_bytes,
        final.stat().st_size,
        result.final_loss,
        scores,
    )


def _shown_prompts() -> list[Prompt]:
    """What each cell of the grid shows: the first character, the second, both."""
    return [character_prompts(cast, 1, seed)[0] for cast, seed in (([0], 11), ([1], 12), ([0, 1], 13))]


def _cell(pictures: torch.Tensor) -> Image.Image:
    """Images (n, 3, h, w) in [-1, 1] side by side."""
    row = ((pictures + 1) * 127.5).round().byte().permute(2, 0, 3, 1).flatten(1, 2)
    return Image.fromarray(row.numpy())


def _progress(row: Row) -> str:
    together, s = row.scores.likeness_together, row.scores
    return f"{row.type}: likeness {s.likeness_first:.2f}, {s.likeness_second:.2f}, together {together:.2f}."


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
