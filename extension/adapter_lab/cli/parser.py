"""Commands and their options; what a command does is imported only when it runs, so that --help is quick."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable

from adapter_lab import __version__
from adapter_lab.cli import grid, study, ui
from adapter_lab.cli.options import add_settings

Command = Callable[[argparse.Namespace], int]


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; the result of parsing has `command`, which runs it."""
    parser = argparse.ArgumentParser(
        prog="adapter-lab",
        description="Train, inspect, convert and apply adapters (LoRA, LoKr, OFT, ...) of Stable Diffusion models.",
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
    parser.add_argument(
        "--until-point", metavar="N", type=int, default=0, help="pause when the N-th adapter is saved; default: go on"
    )
    parser.add_argument(
        "--accept-pictures",
        action="store_true",
        help="go on although images or captions were changed; the result is then not that of an uninterrupted run",
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


def _convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("adapter", metavar="FILE", help="adapter file (.safetensors)")
    into = parser.add_mutually_exclusive_group(required=True)
    into.add_argument(
        "--to",
        choices=("lora", "full", "same"),
        help="lora: the nearest LoRA; full: the whole difference of the weights; same: as it is",
    )
    into.add_argument(
        "--for",
        dest="host",
        metavar="WEBUI",
        help="what classic, a1111, forge, reforge or neo applies correctly without Adapter Lab: each module in its own "
        "algorithm where that will do, else as LoRA of the size given, else as a difference",
    )
    parser.add_argument(
        "--names",
        choices=("ldm", "kohya", "comfy", "diffusers", "peft"),
        help="what the layers are called, with --to: docs/names.md says which programs read which; default: ldm",
    )
    _rank(parser)
    _new_file(parser, "checkpoint it was trained on: needed for DoRA, OFT, BOFT, OFTv2, IA3 and GLoRA")


def _merge(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "adapter", metavar="FILE[:STRENGTH]", nargs="+", help="adapter file and its strength, 1 unless given; in order"
    )
    parser.add_argument(
        "--to",
        choices=("full",),
        help="full: the whole difference; default: exact, LoRA where all files are LoRA and a difference elsewhere, or "
        "the nearest LoRA of the rank, error or energy given",
    )
    _rank(parser)
    _new_file(parser, "checkpoint they were trained on: needed for DoRA, OFT, BOFT, OFTv2, IA3 and GLoRA")


def _resize(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("adapter", metavar="FILE", help="LoRA file (.safetensors)")
    _rank(parser)
    _new_file(parser)


def _extract(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--base", metavar="CKPT", required=True, help="checkpoint to start from")
    parser.add_argument("--tuned", metavar="CKPT", required=True, help="checkpoint to arrive at")
    parser.add_argument(
        "--to", choices=("lora", "full"), default="lora", help="full: everything that differs; default: lora"
    )
    _rank(parser)
    _new_file(parser, dtype="fp16")


def _rank(parser: argparse.ArgumentParser) -> None:
    """Options of `adapters.svd.RankRule`."""
    size = parser.add_argument_group("size of LoRA", "At least one. Ranks are as small as the bound allows.")
    size.add_argument("--rank", metavar="N", type=int, help="largest rank")
    size.add_argument("--conv-rank", metavar="N", type=int, help="largest rank of larger kernels; default: as --rank")
    size.add_argument("--error", metavar="X", type=float, help="largest error per layer, as 0.05: |D - D'| <= 0.05 |D|")
    size.add_argument("--energy", metavar="X", type=float, help="share of the squared singular values to keep, as 0.95")


def _new_file(parser: argparse.ArgumentParser, base: str = "", dtype: str = "same") -> None:
    parser.add_argument("--out", metavar="OUT", required=True, help="adapter file to write")
    if base:
        parser.add_argument("--base", metavar="CKPT", help=base)
    known = "" if dtype != "same" else "same, "
    parser.add_argument("--dtype", default=dtype, help=f"number format: {known}fp32, fp16 or bf16; default: {dtype}")
    _json(parser)


def _import_kohya(parser: argparse.ArgumentParser) -> None:
    given = "training file (TOML, or the GUI's JSON) and, if separate, dataset file"
    parser.add_argument("files", metavar="FILE", nargs="+", help=given)
    parser.add_argument("--out", metavar="FILE", help="configuration to write; default: standard output")
    _json(parser)


def _demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", metavar="DIR", default="demo-output", help="folder for runs, table and grid")
    parser.add_argument("--base", choices=("sdxl", "anima"), default="sdxl", help="the toy to train on; default sdxl")
    _json(parser)


COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "train": ("Train an adapter on a folder of images.", _train),
    "resume": ("Go on with a run that was stopped, interrupted or finished.", _resume),
    "estimate": ("Predict file size, parameters and peak memory of a run without training.", _estimate),
    "report": ("Report on a folder of images: buckets, skipped files, captions, tags, steps.", _settings_and_json),
    "inspect": ("Show what an adapter file holds.", _inspect),
    "apply": ("Write a checkpoint with adapters applied to it.", _apply),
    "convert": ("Write an adapter file as LoRA, as a difference, or in the form a web UI needs.", _convert),
    "merge": ("Write several adapter files as one.", _merge),
    "resize": ("Write a LoRA file at another rank.", _resize),
    "extract": ("Write the difference of two checkpoints as an adapter file.", _extract),
    "import-kohya": ("Make a configuration from files of kohya's scripts or its GUI.", _import_kohya),
    "config": ("Write the configuration that the options make, with every setting explained.", _config),
    "presets": ("List the presets.", _json),
    "study": ("Train many variants at equal budget and compare them.", study.add),
    "ui": ("Open the tab in a page of its own, without a web UI.", ui.add),
    "grid": ("Draw images by type and step from adapter files, a run or a study.", grid.add),
    "demo": ("Train three adapter types on a toy world and compare them.", _demo),
}
