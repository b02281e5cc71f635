"""The names of all options of sd-scripts, its networks, LyCORIS and the kohya_ss GUI, read from checkouts of them.

    PYTHONPATH=. python .../benchmarks/kohya_names.py --scripts SD_SCRIPTS --networks WITH_LOHA --gui KOHYA_SS \
        --out tests/data/kohya/names.json

Run it in sd-scripts' own environment, with LyCORIS: its parsers are built by its own code. Names are kept and what kind
of value each takes. `tests/test_kohya_table.py` proves that each has a true row in `adapter_lab/kohya/table.py`.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

SCRIPTS = ("train_network", "sdxl_train_network")
NETWORKS = ("lora", "lora_fa", "dylora", "loha", "lokr")


def parser_options(folder: Path) -> dict[str, Any]:
    """Every argparse option of the two scripts: what kind of value it takes, and its choices."""
    sys.path.insert(0, str(folder))
    found: dict[str, Any] = {}
    for script in SCRIPTS:
        for action in importlib.import_module(script).setup_parser()._actions:
            kind = "flag" if action.nargs == 0 else getattr(action.type, "__name__", "str")
            if action.dest != "help":
                choices = [choice for choice in action.choices or () if choice]
                found[action.dest] = {"kind": "list" if action.nargs == "*" else kind, "choices": choices}
    return found


def dataset_options() -> list[str]:
    """Every option of a dataset file."""
    config = importlib.import_module("library.config_util").ConfigSanitizer
    schemas = [getattr(config, name) for name in dir(config) if name.endswith("_SCHEMA") and "ARGPARSE" not in name]
    return sorted({str(name) for schema in schemas for name in schema})


def network_arguments(folder: Path) -> list[str]:
    """Every name that the networks, and LyCORIS's one for kohya's scripts, ask their keyword arguments for."""
    files = [folder / "networks" / f"{name}.py" for name in NETWORKS]
    lycoris = importlib.util.find_spec("lycoris")
    if lycoris is not None and lycoris.origin:
        files.append(Path(lycoris.origin).parent / "kohya.py")
    found = set()
    for file in (file for file in files if file.is_file()):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("kwargs.get", "nw_kwargs.get"):
                found.add(ast.literal_eval(node.args[0]))
    return sorted(found)


def gui_fields(folder: Path) -> list[str]:
    """Every setting that the LoRA page of the GUI hands to a training."""
    source = (folder / "kohya_gui" / "lora_gui.py").read_text(encoding="utf-8")
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    (train,) = [node for node in functions if node.name == "train_model"]
    return sorted({argument.arg for argument in train.args.args} - {"headless", "print_only"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scripts", type=Path, required=True, help="checkout of sd-scripts")
    parser.add_argument("--networks", type=Path, help="another one, whose networks are read; default: the same")
    parser.add_argument("--gui", type=Path, required=True, help="checkout of kohya_ss")
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args()
    names = {
        "options": parser_options(chosen.scripts),
        "dataset": dataset_options(),
        "network_args": network_arguments(chosen.networks or chosen.scripts),
        "gui": gui_fields(chosen.gui),
    }
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(names, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
