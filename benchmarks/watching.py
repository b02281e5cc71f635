"""What watching a run costs: reading its log, and seconds per step with and without a watcher.

    python benchmarks/watching.py                        # reading 100,000 events
    python benchmarks/watching.py --train --rounds 5     # also trains a small base, watched and unwatched in turns

Reading: processor time of the first read of a log of 100,000 steps (state and series), of the first read by a program
started later, of looking again after one more step, of the series drawn with 1,000 points, and of the list of runs.
Training: two runs of the same settings go on beside each other's pauses: in every round each trains `--steps` steps,
one with nobody looking, one with a worker that does what the tab does (the list of runs once a second, new events
four times a second, the series every two seconds); figures are medians over rounds of the median of seconds per step.
The watcher runs in a process of its own as the web UI does. Also printed: how long the trainer's own look for
requests takes between two steps.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "extension"), str(ROOT)]

from adapter_lab.runs import requests
from adapter_lab.runs.events import read_events
from adapter_lab.worker import Worker

EVENTS = 100_000
OTHER_RUNS = 20  # finished ones beside it, of 2,000 steps


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", action="store_true", help="also train, watched and unwatched")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60, help="steps of each training in a round")
    parser.add_argument("--watch", nargs=2, metavar=("ROOT", "RUN"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.watch:
        watch(Path(chosen.watch[0]), chosen.watch[1])
        return
    with tempfile.TemporaryDirectory() as folder:
        figures = reading(Path(folder))
    if chosen.train:
        with tempfile.TemporaryDirectory() as folder:
            figures |= training(Path(folder), chosen.rounds, chosen.steps)
    for name, value in figures.items():
        print(f"{name:<44} {value}")


def reading(root: Path) -> dict[str, str]:
    """Processor time of reading a long log, in words."""
    write_run(root / "long", EVENTS)
    for index in range(OTHER_RUNS):
        write_run(root / f"other-{index:02d}", 2000)
    worker = Worker(root)
    figures = {f"first read of {EVENTS:,} events": seconds(lambda: worker.run("long"))}
    # From here on what was read lies beside the log, for every other program too.
    figures["first read by the next program"] = seconds(lambda: Worker(root).run("long"))
    figures[f"first list of it and {OTHER_RUNS} runs of 2,000"] = seconds(worker.runs)
    figures["the same by the next program"] = seconds(lambda: Worker(root).runs())
    with (root / "long" / "events.jsonl").open("a", encoding="utf-8") as file:
        file.write(step_line(EVENTS + 1))
    figures["after one more step"] = seconds(lambda: worker.summary("long"))
    figures["the list again"] = seconds(worker.runs)
    figures["series in 1,000 points"] = seconds(lambda: worker.series("long", 1000))
    count = 1000
    per_look = seconds_of(lambda: [requests.present(root / "long") for _ in range(count)]) / count
    figures["the trainer's look for requests"] = f"{1e6 * per_look:.0f} us a step"
    return figures


def step_line(step: int) -> str:
    """A "step" event as the trainer writes it."""
    rates = {part: {"lr": 1e-4, "d": 1.2e-4, "d_hat": 1.3e-4} for part in ("unet", "te1")}
    event = {"event": "step", "time": 1.7e9 + step, "step": step, "epoch": step // 100, "loss": 0.12345678 + step % 9}
    event |= {"rates": rates, "seconds_per_step": 0.2513, "memory_bytes": 8589934592, "progress": step / EVENTS / 2}
    return json.dumps(event, separators=(",", ":")) + "\n"


def write_run(folder: Path, steps: int) -> None:
    """The folder of a run of `steps` steps that has just finished."""
    folder.mkdir()
    started = {"event": "started", "time": 1.7e9, "name": folder.name, "algo": "lora", "adapters": str(folder)}
    finished = {"event": "finished", "time": 1.8e9, "step": steps, "reason": f"all {steps} steps done"}
    lines = [json.dumps(started) + "\n", *map(step_line, range(1, steps + 1)), json.dumps(finished) + "\n"]
    (folder / "events.jsonl").write_text("".join(lines), encoding="utf-8")


def seconds_of(work: Callable[[], Any]) -> float:
    """Processor time of one call."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def seconds(work: Callable[[], Any]) -> str:
    """The same in words."""
    return f"{1000 * seconds_of(work):.1f} ms"


def watch(root: Path, run_id: str) -> None:
    """Do what the tab does until the run has ended."""
    worker, offset, turn = Worker(root), 0, 0
    while True:
        _, offset = worker.tail(run_id, offset)
        if turn % 4 == 0:
            worker.runs()
            worker.queue()
        if turn % 8 == 0:
            worker.series(run_id, 1000)
            worker.run(run_id)
        turn += 1
        time.sleep(0.25)


def training(folder: Path, rounds: int, steps: int) -> dict[str, str]:
    """Median seconds per step of a run watched and of one unwatched."""
    from adapter_lab.training.loop import train
    from tests.support.training import tiny_config

    speeds: dict[str, list[float]] = {"unwatched": [], "watched": []}
    for turn in range(rounds):
        for kind in sorted(speeds, reverse=bool(turn % 2)):
            config = tiny_config(folder / f"{kind}-{turn}", run__steps=steps)
            run = folder / "runs" / f"{kind}-{turn}"
            command = [sys.executable, __file__, "--watch", str(run.parent), run.name]
            run.mkdir(parents=True)
            (run / "config.toml").touch()
            watcher = subprocess.Popen(command) if kind == "watched" else None
            try:
                result = train(config, run)
            finally:
                if watcher is not None:
                    watcher.kill()
                    watcher.wait()
            events = read_events(result.run_folder / "events.jsonl")
            own = [event["seconds_per_step"] for event in events if event["event"] == "step"][5:]
            speeds[kind].append(statistics.median(own))
    medians = {kind: statistics.median(values) for kind, values in speeds.items()}
    ratio = statistics.median(w / u for w, u in zip(speeds["watched"], speeds["unwatched"]))
    return {
        "seconds per step, unwatched": f"{medians['unwatched']:.4f}",
        "seconds per step, watched": f"{medians['watched']:.4f}",
        "watched / unwatched": f"{ratio:.4f}",
    }


if __name__ == "__main__":
    main()
