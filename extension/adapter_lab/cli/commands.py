"""What each command does. Each imports what it needs when it runs: torch and diffusers take seconds."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from adapter_lab import config_file
from adapter_lab.adapters.strength import file_and_strength
from adapter_lab.cli.options import chosen_config
from adapter_lab.config import TrainConfig
from adapter_lab.errors import AdapterLabError
from adapter_lab.runs.events import plain
from adapter_lab.validation import validate


def train(chosen: argparse.Namespace) -> int:
    """Train, showing settings and the report on the images first."""
    config = _config_of(chosen, complete=True, advise=False)  # the run itself does, and keeps it with its events
    from adapter_lab.cli.console import Console, settings_summary

    stream = sys.stderr if chosen.json else sys.stdout
    print(settings_summary(config), file=stream, flush=True)
    from adapter_lab.training.loop import train as train_adapter

    console = Console(stream)
    result = train_adapter(config, Path(chosen.run_folder) if chosen.run_folder else None, console)
    return _finished(result, chosen.json)


def resume(chosen: argparse.Namespace) -> int:
    """Go on with a run folder."""
    changes = config_file.parse_changes(chosen.set)
    from adapter_lab.cli.console import Console
    from adapter_lab.training.loop import resume as resume_run

    console = Console(sys.stderr if chosen.json else sys.stdout)
    result = resume_run(Path(chosen.run_folder), changes, console, chosen.until_point, chosen.accept_pictures)
    return _finished(result, chosen.json)


def _finished(result: Any, as_json: bool) -> int:
    values = {name: plain(getattr(result, name)) for name in (f.name for f in dataclasses.fields(result))}
    text = f"Ended after {result.steps} steps: {result.reason}."
    if result.steps:
        text += f" {result.seconds_per_step:.2f} s/it, loss {result.final_loss:.4f}."
    if result.adapters:
        text += f"\nAdapter: {result.adapters[-1]}"
    for sentence in result.findings:
        text += f"\nWarning: {sentence}"
    return _show(values, text, as_json)


def estimate(chosen: argparse.Namespace) -> int:
    """Predict file size, parameters and peak memory."""
    config = _config_of(chosen, complete=False)
    from adapter_lab.training.estimate.memory import estimate as predict

    predicted = predict(config, memory=not chosen.no_memory)
    return _show(predicted.to_dict(), predicted.text(), chosen.json)


def report(chosen: argparse.Namespace) -> int:
    """Report on the training folder."""
    config = _config_of(chosen, complete=False)
    resolution = config.dataset.resolution
    if not resolution and config.base.checkpoint:
        from adapter_lab.training.bases import open_base

        resolution = open_base(config.base).resolution
    elif not resolution and config.base.family != "auto":
        from adapter_lab.families import BASES

        resolution = BASES[config.base.family].resolution
    if not resolution:
        raise AdapterLabError(
            "The report needs a resolution: give --resolution, or --base with a checkpoint or family."
        )
    from adapter_lab.training.dataset.known_report import report_on

    found = report_on(config.dataset, resolution, config.run.batch_size, config.optimizer.gradient_accumulation)
    return _show(found.to_dict(), found.text(), chosen.json)


def inspect(chosen: argparse.Namespace) -> int:
    """Show what adapter files hold."""
    from adapter_lab.hosts.loading.described import described, in_words

    found: list[dict[str, Any]] = []
    errors: list[AdapterLabError] = []
    for path in chosen.adapter:
        try:
            found.append(described(path, modules=chosen.modules))
        except AdapterLabError as error:
            if len(chosen.adapter) == 1:
                raise
            errors.append(error)
            found.append({"path": path, "problem": str(error)})
    _show(found if len(found) > 1 else found[0], "\n\n".join(map(in_words, found)), chosen.json)
    if errors:
        raise AdapterLabError(f"{len(errors)} of {len(found)} files cannot be read: {' '.join(map(str, errors))}")
    return 0


def apply(chosen: argparse.Namespace) -> int:
    """Write a checkpoint with adapters applied."""
    from adapter_lab.adapters.apply import apply_adapters

    adapters = [file_and_strength(text) for text in chosen.adapter]
    done = apply_adapters(chosen.base, adapters, chosen.out, changed_only=chosen.changed_only, dtype=chosen.dtype)
    return _show(done.to_dict(), done.text(), chosen.json)


def convert(chosen: argparse.Namespace) -> int:
    """Write an adapter file in another form."""
    options = {"rule": _rank_rule(chosen), "base": chosen.base, "dtype": chosen.dtype}
    if chosen.host and chosen.names:
        raise AdapterLabError("--for chooses the names that the web UI reads; leave --names out, or use --to.")
    if chosen.host:
        from adapter_lab.hosts.standalone import convert_for

        done = convert_for(chosen.adapter, chosen.out, chosen.host, **options)
    else:
        from adapter_lab.adapters.convert import convert as convert_adapter

        done = convert_adapter(chosen.adapter, chosen.out, chosen.to, names=chosen.names or "ldm", **options)
    return _show(done.to_dict(), done.text(), chosen.json)


def merge(chosen: argparse.Namespace) -> int:
    """Write several adapter files as one."""
    from adapter_lab.adapters.merge import merge as merge_adapters

    adapters = [file_and_strength(text) for text in chosen.adapter]
    full = chosen.to == "full"
    done = merge_adapters(
        adapters, chosen.out, full=full, rule=_rank_rule(chosen), base=chosen.base, dtype=chosen.dtype
    )
    return _show(done.to_dict(), done.text(), chosen.json)


def resize(chosen: argparse.Namespace) -> int:
    """Write a LoRA file at another rank."""
    from adapter_lab.adapters.resize import resize as resize_adapter

    done = resize_adapter(chosen.adapter, chosen.out, _rank_rule(chosen), dtype=chosen.dtype)
    return _show(done.to_dict(), done.text(), chosen.json)


def extract(chosen: argparse.Namespace) -> int:
    """Write the difference of two checkpoints as an adapter file."""
    from adapter_lab.adapters.extract import extract as extract_adapter

    full = chosen.to == "full"
    done = extract_adapter(
        chosen.base, chosen.tuned, chosen.out, full=full, rule=_rank_rule(chosen), dtype=chosen.dtype
    )
    return _show(done.to_dict(), done.text(), chosen.json)


def _rank_rule(chosen: argparse.Namespace) -> Any:
    from adapter_lab.adapters.svd import RankRule

    return RankRule.of(chosen.rank, chosen.conv_rank, chosen.error, chosen.energy)


def import_kohya(chosen: argparse.Namespace) -> int:
    """Make a configuration from kohya's files, and list what it does not say."""
    from adapter_lab.kohya import import_kohya as import_files

    imported = import_files(*(Path(name) for name in chosen.files))
    text = config_file.dumps(imported.config)
    left_out = [str(entry) for entry in imported.left_out]
    if chosen.out:
        config_file.write(imported.config, chosen.out)
    values = {
        "config": config_file.parse_toml(text),
        "left_out": [dataclasses.asdict(entry) for entry in imported.left_out],
        "ignored": imported.ignored,
        "missing": imported.missing,
    }
    lines = [f"Not carried over as it is ({len(left_out)}):", *(f"  {line}" for line in left_out)] if left_out else []
    if imported.ignored:
        lines += [f"Had no effect there either ({len(imported.ignored)}):", *(f"  {line}" for line in imported.ignored)]
    if imported.missing:
        lines += [f"Still to be set before a training ({len(imported.missing)}):"]
        lines += [f"  {line}" for line in imported.missing]
    if not chosen.json:
        print("\n".join(lines or ["Everything was carried over."]), file=sys.stdout if chosen.out else sys.stderr)
    return _show(values, f"Wrote {chosen.out}." if chosen.out else text.rstrip("\n"), chosen.json)


def config(chosen: argparse.Namespace) -> int:
    """Write the configuration that the options make."""
    made = _config_of(chosen, complete=False)
    if chosen.out:
        config_file.write(made, chosen.out, chosen.short)
        print(f"Wrote {chosen.out}.")
    else:
        print(config_file.dumps(made, chosen.short), end="")
    return 0


def presets(chosen: argparse.Namespace) -> int:
    """List the presets."""
    from adapter_lab.presets import preset_table

    rows = preset_table()
    width = max(map(len, rows))
    return _show(rows, "\n".join(f"{name:<{width}}  {about}" for name, about in rows.items()), chosen.json)


def study(chosen: argparse.Namespace) -> int:
    """A command of studies."""
    return chosen.study_command(chosen)


def ui(chosen: argparse.Namespace) -> int:
    """Serve the tab."""
    from adapter_lab.cli.ui import run

    return run(chosen)


def grid(chosen: argparse.Namespace) -> int:
    """Draw adapter files by type and step."""
    from adapter_lab.cli.grid import command

    return command(chosen)


def demo(chosen: argparse.Namespace) -> int:
    """Train on the toy world and compare."""
    from adapter_lab.demo.run import run_demo

    result = run_demo(Path(chosen.out), base_name=chosen.base)
    _show(result.to_dict(), result.text(), chosen.json)
    if not result.learned:
        raise AdapterLabError("The demo ran, but not every type learned as much as it should; see the table above.")
    return 0


# Shared


def _config_of(chosen: argparse.Namespace, complete: bool, advise: bool = True) -> TrainConfig:
    made, remarks = chosen_config(chosen)
    advice = validate(made, complete)
    for sentence in [*remarks, *(advice if advise else ())]:
        print(f"Note: {sentence}", file=sys.stderr)
    return made


def _show(values: Any, text: str, as_json: bool) -> int:
    print(json.dumps(plain(values), indent=2, ensure_ascii=False) if as_json else text)
    return 0
