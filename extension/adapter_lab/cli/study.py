"""`adapter-lab study`: make, run, resume, look at and report studies."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from adapter_lab.cli.options import METAVARS, add_settings, chosen_config
from adapter_lab.config import default_of, type_of
from adapter_lab.config_file import literal, parse_value, remark
from adapter_lab.errors import AdapterLabError, ConfigError, shown

Command = Callable[[argparse.Namespace], int]
FLAGS = {("general", "name"): "--study-name", ("race", "enabled"): "--race"}
PREFIX = "study "


def add(parser: argparse.ArgumentParser) -> None:
    """Add the commands of `study`."""
    commands = parser.add_subparsers(title="commands of study", required=True, metavar="COMMAND")
    for name, (description, options, command) in COMMANDS.items():
        # Commands a study gives itself are not for people.
        shown: dict[str, Any] = {} if description is None else {"help": description}
        one = commands.add_parser(name, description=description, allow_abbrev=False, **shown)
        options(one)
        one.add_argument("--traceback", action="store_true", help="also show where in the program an error arose")
        one.set_defaults(study_command=command)


def _new_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", metavar="STUDY", help="folder of the new study")
    variants = parser.add_argument_group("variants")
    variants.add_argument(
        "--variants", choices=("eleven",), help="eleven: LoRA, LoRA+TE, LoCon, LoHa, LoKr, GLoRA and diag-OFT as known"
    )
    variants.add_argument("--types", metavar="ALGO", nargs="+", default=[], help="these algorithms, with every --dims")
    variants.add_argument("--dims", metavar="N", nargs="+", type=int, default=[16], help="dims for --types")
    variants.add_argument(
        "--text-encoders", choices=("off", "on", "both"), default="off", help="train them, with --types"
    )
    variants.add_argument("--convolutions", action="store_true", help="train them too, with --types")
    own = parser.add_argument_group("study, budget and race")
    for attribute, owner in _own().items():
        for entry in dataclasses.fields(owner):
            _add_flag(own, attribute, owner, entry)
    add_settings(parser)
    parser.usage = "%(prog)s STUDY [--variants eleven] [--types ALGO ...] [--unit UNIT] [--amount X] [--FLAG VALUE ...]"


def _own() -> dict[str, Any]:
    from adapter_lab.study.spec.definition import Budget, General, Race

    return {"general": General, "budget": Budget, "race": Race}


def _add_flag(group: Any, attribute: str, owner: type, entry: dataclasses.Field[Any]) -> None:
    flag = FLAGS.get((attribute, entry.name)) or f"--{'race-' if attribute == 'race' else ''}{entry.name}"
    kind, default = type_of(owner, entry.name), default_of(entry)
    details = "; ".join(part for part in (remark(entry), f"default {literal(default, kind)}") if part)
    options: dict[str, Any] = {
        "dest": f"{PREFIX}{attribute}.{entry.name}",
        "default": argparse.SUPPRESS,
        "help": f"{entry.metadata['help']} [{details}]".replace("%", "%%"),
    }
    if kind is bool:
        options["action"] = "store_true"
    elif get_args(kind):
        options |= {"nargs": "+", "type": get_args(kind)[0], "metavar": "N"}
    else:
        options["metavar"] = METAVARS[kind]
    group.add_argument(flag.replace("_", "-"), **options)


def _plan_options(parser: argparse.ArgumentParser) -> None:
    _folder_and_json(parser)
    parser.add_argument("--no-memory", action="store_true", help="do not predict peak memory, which takes seconds each")
    parser.add_argument(
        "--memory-bytes", metavar="N", type=int, help="memory of the GPU to plan for; default: what is free on this one"
    )


def _run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", metavar="STUDY", help="folder with a study.toml; or demo: the toy study")
    parser.add_argument("--out", metavar="DIR", default="demo-study", help="with demo: its folder; default demo-study")
    parser.add_argument(
        "--small", action="store_true", help="with demo: three types, one seed, in a few minutes, to see that it works"
    )
    parser.add_argument("--minutes", metavar="X", type=float, default=0.0, help="with demo: of each training")
    parser.add_argument(
        "--base", choices=("sdxl", "anima"), default="sdxl", help="with demo: the toy to train on; default sdxl"
    )
    _executor_options(parser)


def _executor_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--executor", choices=("local", "ray"), default="local", help="local: this machine; ray: a Ray cluster"
    )
    parser.add_argument(
        "--devices", metavar="DEVICE", nargs="+", default=[], help="such as cpu, cuda:0 cuda:1; default: all GPUs"
    )
    parser.add_argument("--jobs", metavar="N", type=int, default=1, help="trainings at a time on each device")
    parser.add_argument("--ray-address", metavar="ADDRESS", default="auto", help="of the cluster; default: auto")
    parser.add_argument(
        "--processes", metavar="N", type=int, default=1, help="GPUs per training, driven by accelerate; default 1"
    )
    parser.add_argument("--try-all", action="store_true", help="also train what is predicted not to fit into memory")
    parser.add_argument("--json", action="store_true", help="print how far the study is as JSON on standard output")


def _folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", metavar="STUDY", help="folder of the study")


def _resume_options(parser: argparse.ArgumentParser) -> None:
    _folder(parser)
    _executor_options(parser)


def _folder_and_json(parser: argparse.ArgumentParser) -> None:
    _folder(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


# What the commands do


def new(chosen: argparse.Namespace) -> int:
    """Write a study.toml."""
    from adapter_lab.study.planning.plan import plan
    from adapter_lab.study.record.study_folder import StudyFolder
    from adapter_lab.study.spec import checks
    from adapter_lab.study.spec import file as study_file
    from adapter_lab.study.spec import variants as presets
    from adapter_lab.study.spec.definition import DECIDED, Study

    folder = StudyFolder(Path(chosen.study))
    if folder.plan.exists():
        raise AdapterLabError(f"{folder.plan} is there already; edit it, or give the new study another folder.")
    config, remarks = chosen_config(chosen)
    study = Study()
    study.shared, more = study_file.shared_from(config, DECIDED)
    study.general.name = folder.path.resolve().name
    _set_own(study, chosen)
    study.variants = presets.eleven() if chosen.variants else []
    text = {"off": (False,), "on": (True,), "both": (False, True)}[chosen.text_encoders]
    study.variants += presets.product(chosen.types, chosen.dims, text, chosen.convolutions)
    plan(study, folder.path)
    folder.path.mkdir(parents=True, exist_ok=True)
    study_file.write(study, folder.plan)
    for sentence in [*remarks, *more, *checks.remarks(study)]:
        print(f"Note: {sentence}", file=sys.stderr)
    trainings = len(study.variants) * len(study.general.seeds)
    print(f"Wrote {folder.plan}: {len(study.variants)} variants, {trainings} trainings of {_length(study.budget)}.")
    return 0


def _set_own(study: Any, chosen: argparse.Namespace) -> None:
    owners = _own()
    for key, given in vars(chosen).items():
        if not key.startswith(PREFIX):
            continue
        attribute, name = key.removeprefix(PREFIX).split(".")
        kind = type_of(owners[attribute], name)
        try:
            value = parse_value(given, kind) if isinstance(given, str) else given
        except ValueError as error:
            raise ConfigError(f"{name} must be {error}, but is {shown(given)}.") from error
        setattr(getattr(study, attribute), name, value)


def _length(budget: Any) -> str:
    return f"{budget.amount:g} {budget.unit} each"


def plan(chosen: argparse.Namespace) -> int:
    """Show what a study will come to."""
    from adapter_lab.study.executors.local import LocalExecutor
    from adapter_lab.study.planning.forecast import forecast
    from adapter_lab.study.record.study_folder import StudyFolder
    from adapter_lab.study.spec import file as study_file

    folder = StudyFolder(Path(chosen.study))
    kind, available = "cuda", chosen.memory_bytes
    if available is None:
        executor = LocalExecutor()
        kind, available = executor.kind, None if chosen.no_memory else executor.memory_bytes()
    found = forecast(study_file.load(folder.plan), folder.path, kind, None if chosen.no_memory else available)
    print(json.dumps(found, indent=2, ensure_ascii=False) if chosen.json else _planned_text(found))
    return 0


def _planned_text(found: dict[str, Any]) -> str:
    lines = [["variant", "parameters", "MiB", "steps", "minutes", "peak MiB", ""]]
    for entry in found["variants"]:
        peak = entry["peak_bytes"]
        lines.append(
            [
                entry["variant"],
                f"{entry['trainable_parameters']:,}",
                f"{entry['file_bytes'] / 2**20:.2f}",
                str(entry["steps"] or "-"),
                f"{entry['minutes']:g}" if entry["minutes"] else "-",
                "-" if peak is None else f"{peak / 2**20:,.0f}",
                "does not fit" if entry["fits"] is False else "",
            ]
        )
    total = f"{found['trainings']} trainings, {found['files']} files of {found['bytes'] / 2**20:,.1f} MiB in all"
    return "\n".join([*_aligned(lines), total])


def run(chosen: argparse.Namespace) -> int:
    """Run a study from the start."""
    from adapter_lab.study.record.study_folder import StudyFolder

    folder = StudyFolder(Path(chosen.study))
    if chosen.study == "demo":
        from adapter_lab.demo.study import make_demo_study

        folder = StudyFolder(Path(chosen.out))
        if not folder.state.exists():
            make_demo_study(folder.path, chosen.small, chosen.minutes, chosen.base)
        # Its trainings take a thread each.
        chosen.devices = chosen.devices or ["cpu"] * (os.cpu_count() or 1)
    if folder.state.exists():
        raise AdapterLabError(f"{folder.path} was started before; `adapter-lab study resume {folder.path}` goes on.")
    return _run(chosen, folder.path)


def resume(chosen: argparse.Namespace) -> int:
    """Go on with a study."""
    return _run(chosen, Path(chosen.study))


def _run(chosen: argparse.Namespace, folder: Path) -> int:
    from adapter_lab.study.analysis import results
    from adapter_lab.study.running.runner import run as run_study

    state = run_study(folder, _executor(chosen), _tell, chosen.try_all, chosen.processes)
    found = results.load(folder)
    if state.finished and found.study.scores:
        from adapter_lab.study.report import write

        write(found, folder)
    _show(found, chosen.json)
    return 0 if state.finished and not any(run.state == "failed" for run in state.runs.values()) else 2


def _executor(chosen: argparse.Namespace) -> Any:
    if chosen.executor == "ray":
        from adapter_lab.study.executors.ray import RayExecutor

        return RayExecutor(chosen.ray_address)
    from adapter_lab.study.executors.local import LocalExecutor, default_devices

    if chosen.jobs < 1 or chosen.processes < 1:
        raise ConfigError("--jobs and --processes must be at least 1.")
    devices = (chosen.devices or default_devices()) * chosen.jobs
    return LocalExecutor(devices, chosen.processes)


def status(chosen: argparse.Namespace) -> int:
    """Show how far a study is."""
    from adapter_lab.study.analysis import results

    return _show(results.load(Path(chosen.study)), chosen.json)


def report(chosen: argparse.Namespace) -> int:
    """Write the report."""
    from adapter_lab.study.analysis import results
    from adapter_lab.study.report import write

    written = write(results.load(Path(chosen.study)), Path(chosen.study))
    print(json.dumps([str(path) for path in written]) if chosen.json else "\n".join(f"Wrote {p}." for p in written))
    return 0


def prepare(chosen: argparse.Namespace) -> int:
    """Encode what all trainings of a study share."""
    from adapter_lab.cli.console import Console
    from adapter_lab.study.planning.plan import plan
    from adapter_lab.study.record.study_folder import StudyFolder
    from adapter_lab.study.running.preparing import FOLDER, fill_caches
    from adapter_lab.study.spec import file as study_file

    folder = StudyFolder(Path(chosen.study))
    configs = [planned.config for planned in plan(study_file.load(folder.running), folder.path)]
    fill_caches(configs, folder.path / FOLDER, Console())
    return 0


def score(chosen: argparse.Namespace) -> int:
    """Score every adapter of a study that has no scores yet."""
    from adapter_lab.demo.toy_scores import toy_scorer
    from adapter_lab.study.running.scoring import score_study

    failures = score_study(Path(chosen.study), {"toy": toy_scorer}, print)
    if failures:
        raise AdapterLabError("Not everything could be scored: " + "; ".join(failures))
    return 0


COMMANDS: dict[str, tuple[str | None, Callable[[argparse.ArgumentParser], None], Command]] = {
    "new": ("Write the plan of a study, study.toml, for you to look at and edit.", _new_options, new),
    "plan": ("Show what a study will come to before it starts: sizes, steps, memory.", _plan_options, plan),
    "run": ("Train every variant of a study, score and report.", _run_options, run),
    "resume": (
        "Go on with a study that was stopped or interrupted, or to which variants were added.",
        _resume_options,
        resume,
    ),
    "status": ("Show how far a study is.", _folder_and_json, status),
    "report": ("Write the report of what a study has come to so far.", _folder_and_json, report),
    "prepare": (None, _folder, prepare),
    "score": (None, _folder, score),
}


# What a person sees


LINES = {
    "training": "{training}: training",
    "done": "{training}: done",
    "paused": "{training}: paused ({reason})",
    "failed": "{training} failed: {message}",
    "skipped": "{training} is left out: {message}",
    "dropped": "{variant} is out of the race: {message}",
    "note": "Note: {message}",
    "finished": "Study ended: {reason}.",
}


def _tell(event: dict[str, Any]) -> None:
    """Tell an event of a study on standard error, in a line."""
    # Why the whole study ended is an error, which is told as such.
    if event["event"] in LINES and (event["event"] != "failed" or "training" in event):
        print(LINES[event["event"]].format_map(event), file=sys.stderr, flush=True)


def _show(found: Any, as_json: bool) -> int:
    if as_json:
        print(json.dumps({**_as_dict(found), "recommendation": _advice(found)}, indent=2, ensure_ascii=False))
    else:
        print(_as_text(found))
    return 0


def _as_dict(found: Any) -> dict[str, Any]:
    variants = []
    for entry in found.variants:
        last = entry.points[-1] if entry.points else None
        variants.append(
            {
                "variant": entry.variant.name,
                "state": entry.state,
                "why": entry.why,
                "point": last.point if last else 0,
                "steps": last.steps if last else 0,
                "minutes": round(last.minutes, 3) if last else 0.0,
                "seconds_per_step": entry.seconds_per_step.value if entry.seconds_per_step else None,
                "peak_bytes": entry.peak_bytes,
                "file_bytes": entry.file_bytes,
                "loss": last.loss.value if last and last.loss else None,
                "validation_loss": last.validation_loss.value if last and last.validation_loss else None,
                "scores": {
                    f"{metric} {concept}".strip(): {"value": mean.value, "error": mean.error}
                    for (metric, concept), mean in (last.scores if last else {}).items()
                },
                "trainings": [
                    {"name": t.name, "seed": t.seed, "state": t.state, "why": t.why, "steps": t.steps}
                    for t in entry.trainings
                ],
            }
        )
    decisions = [vars(decision) for decision in found.decisions]
    return {"study": found.study.name, "state": found.state, "variants": variants, "decisions": decisions}


def _advice(found: Any) -> dict[str, Any]:
    from adapter_lab.study.analysis.recommend import recommend

    advice = recommend(found)
    names = ("variant", "point", "headline", "reasons", "cautions", "wasteful", "not_measured")
    values = {name: getattr(advice, name) for name in names}
    return {**values, "adapter": str(advice.adapter) if advice.adapter else None}


def _as_text(found: Any) -> str:
    points = found.study.budget.points
    lines = [["variant", "state", "point", "steps", "minutes", "s/it", "MiB", "loss"]]
    for entry in _as_dict(found)["variants"]:
        speed, size, loss = entry["seconds_per_step"], entry["file_bytes"], entry["loss"]
        lines.append(
            [
                entry["variant"],
                entry["state"],
                f"{entry['point']}/{points}",
                f"{entry['steps']:g}",
                f"{entry['minutes']:.1f}",
                "-" if speed is None else f"{speed:.2f}",
                "-" if size is None else f"{size / 2**20:.2f}",
                "-" if loss is None else f"{loss:.4f}",
            ]
        )
    text = _aligned(lines)
    text += [f"{v.variant.name}: {v.why}" for v in found.variants if v.why]
    return "\n".join([f"Study {found.study.name}: {found.state}", *text])


def _aligned(lines: list[list[str]]) -> list[str]:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]
