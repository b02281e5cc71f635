"""What watching a run costs: reading its log, and seconds per step with and without a watcher.

    python benchmarks/watching.py                        # reading 100,000 events
    python benchmarks/watching.py --train                # also trains a small base, watched and unwatched in turns

Reading: processor time of the first read of a log of 100,000 steps (state and series), of the first read by a program
started later, of looking again after one more step, of the series drawn with 1,000 points, and of the list of runs.
Training: one run, at which a process of its own, as the web UI is one, looks as the tab does (the list of runs once a
second, new events four times a second, the series every two seconds) for five seconds, and then not for five seconds,
until the run ends; figures are medians over the steps of either kind, the mean ratio of a turn to those beside it with
its standard error, and the processor time that looking takes. Also printed: how long the trainer's own look for
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
TURN_SECONDS, LOOK_SECONDS = 5.0, 0.25


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", action="store_true", help="also train, watched and unwatched")
    parser.add_argument("--steps", type=int, default=1500, help="steps of the training")
    parser.add_argument("--watch", nargs=2, metavar=("ROOT", "RUN"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.watch:
        watch(Path(chosen.watch[0]), chosen.watch[1])
        return
    with tempfile.TemporaryDirectory() as folder:
        figures = reading(Path(folder))
    if chosen.train:
        with tempfile.TemporaryDirectory() as folder:
            figures |= training(Path(folder), chosen.steps)
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
    """Do what the tab does, and nothing, in turns, until ended; prints when each turn began and what it took."""
    worker, offset, watching = Worker(root), 0, False
    while True:
        watching, began, busy = not watching, time.time(), time.process_time()
        for turn in range(int(TURN_SECONDS / LOOK_SECONDS)):
            if watching:
                _, offset = worker.tail(run_id, offset)
                if turn % 4 == 0:
                    worker.runs()
                    worker.queue()
                if turn % 8 == 0:
                    worker.series(run_id, 1000)
                    worker.run(run_id)
            time.sleep(LOOK_SECONDS)
        print(json.dumps([watching, began, time.time(), time.process_time() - busy]), flush=True)


def training(folder: Path, steps: int) -> dict[str, str]:
    """Median seconds per step of a run while it is watched and while it is not."""
    from adapter_lab.training.loop import train
    from tests.support.training import tiny_config

    run = folder / "runs" / "run"
    run.mkdir(parents=True)
    (run / "config.toml").touch()
    command = [sys.executable, __file__, "--watch", str(run.parent), run.name]
    with (folder / "turns").open("w") as said, subprocess.Popen(command, stdout=said) as watcher:
        try:
            result = train(tiny_config(folder, run__steps=steps), run)
        finally:
            watcher.kill()
    turns = [json.loads(line) for line in (folder / "turns").read_text().splitlines()]
    own = [event for event in read_events(result.run_folder / "events.jsonl") if event["event"] == "step"]
    speeds: dict[bool, list[float]] = {True: [], False: []}
    medians = []  # of each turn
    for watched, began, ended, _ in turns:
        inside = [event for event in own if began < event["time"] - event["seconds_per_step"] and event["time"] < ended]
        values = [event["seconds_per_step"] for event in inside]
        speeds[watched] += values
        medians.append(statistics.median(values) if values else None)
    # Each turn with someone looking by the mean of the turns before and after: machines change their speed.
    ratios = [
        2 * now / (before + after)
        for (watched, *_), before, now, after in zip(turns[1:], medians, medians[1:], medians[2:])
        if watched and before and now and after
    ]
    if len(ratios) < 2:
        raise SystemExit(
            f"{steps} steps ended before looking and not looking had two turns each: ask for more --steps."
        )
    error = statistics.stdev(ratios) / len(ratios) ** 0.5
    looking = sum(busy for watched, _, _, busy in turns if watched)
    shares = looking / sum(ended - began for watched, began, ended, _ in turns if watched)
    return {
        f"seconds per step, {len(speeds[False])} unwatched": f"{statistics.median(speeds[False]):.4f}",
        f"seconds per step, {len(speeds[True])} watched": f"{statistics.median(speeds[True]):.4f}",
        f"watched / unwatched, {len(ratios)} turns": f"{statistics.mean(ratios):.4f} +- {error:.4f}",
        "processor time of looking, of one core": f"{100 * shares:.2f} %",
    }


if __name__ == "__main__":
    main()
