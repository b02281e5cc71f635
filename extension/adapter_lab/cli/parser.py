"""Commands and their options; what a command does is imported only when it runs, so that --help is quick."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable

from adapter_lab import __version__
from adapter_lab.cli.options import add_settings

Command = Callable[[argparse.Namespace], int]


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; the result of parsing has `command`, which runs it."""
    parser = argparse.ArgumentParser(
        prog="adapter-lab",
        description="Train, predict, inspect and apply adapters (LoRA, LoKr, OFT, ...) of Stable Diffusion models.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"adapter-lab {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, (description, add) in COMMANDS.items():
        command = commands.add_parser(name, help=description, description=description, allow_abbrev=False)
        add(command)
        command.add_argument("--traceback", action="store_true", help="also show where in the program an error arose")
        command.set_defaults(command=_later(name.replace("-", "_")))
    return parser


def _later(name: str) -> Command:
    def run(chosen: argparse.Namespace) -> int:
        module = importlib.import_module("adapter_lab.cli.commands")
        return getattr(module, name)(chosen)

    return run


def _json(parser: argparse.ArgumentParser, what: str = "print the result as JSON") -> None:
    parser.add_argument("--json", action="store_true", help=what)


def _train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run-folder", metavar="DIR", help="folder of this run; default: a new one below runs_folder")
    _json(parser, "print the result as JSON on standard output, all else on standard error")
    add_settings(parser)


def _resume(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN_FOLDER", help="the folder that train made")
    parser.add_argument(
        "--set", metavar="A.B=C", action="append", default=[], help="change a setting, as run.steps=2000"
    )
    _json(parser, "print the result as JSON on standard output, all else on standard error")


def _estimate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-memory", action="store_true", help="only file size and parameters, which takes a second")
    _json(parser)
    add_settings(parser)


def _settings_and_json(parser: argparse.ArgumentParser) -> None:
    _json(parser)
    add_settings(parser)


def _config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", metavar="FILE", help="file to write; default: standard output")
    parser.add_argument("--short", action="store_true", help="only settings that differ from their default")
    add_settings(parser)


def _inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("adapter", metavar="FILE", nargs="+", help="adapter file (.safetensors)")
    parser.add_argument("--modules", action="store_true", help="also list every module")
    _json(parser)


def _apply(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--base", metavar="CKPT", required=True, help="single-file checkpoint (.safetensors)")
    parser.add_argument(
        "--adapter",
        metavar="FILE[:STRENGTH]",
        action="append",
        required=True,
        help="adapter file and its strength, 1 unless given; repeated ones are applied in this order",
    )
    parser.add_argument("--out", metavar="OUT", required=True, help="checkpoint to write")
    parser.add_argument("--changed-only", action="store_true", help="write only the tensors that were changed")
    parser.add_argument("--dtype", default="same", help="number format to write: same, fp32, fp16 or bf16")
    _json(parser)


def _import_kohya(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", metavar="TOML", nargs="+", help="training file and, if separate, dataset file")
    parser.add_argument("--out", metavar="FILE", help="configuration to write; default: standard output")
    _json(parser)


def _demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", metavar="DIR", default="demo-output", help="folder for runs, table and grid")
    _json(parser)


COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "train": ("Train an adapter on a folder of pictures.", _train),
    "resume": ("Go on with a run that was stopped, interrupted or finished.", _resume),
    "estimate": ("Predict file size, parameters and peak memory of a run without training.", _estimate),
    "report": ("Report on a folder of pictures: buckets, skipped files, captions, tags, steps.", _settings_and_json),
    "inspect": ("Show what an adapter file holds.", _inspect),
    "apply": ("Write a checkpoint with adapters applied to it.", _apply),
    "import-kohya": ("Make a configuration from kohya sd-scripts' TOML files.", _import_kohya),
    "config": ("Write the configuration that the options make, with every setting explained.", _config),
    "presets": ("List the presets.", _json),
    "demo": ("Train three adapter types on a toy world and compare them.", _demo),
}
