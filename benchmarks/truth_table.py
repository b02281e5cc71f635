"""What real web UIs make of every kind of adapter file, alone and with Adapter Lab: docs/hosts.md.

    python benchmarks/truth_table.py measure NAME [--label TEXT]   # NAME: classic, a1111, forge, neo, reforge
    python benchmarks/truth_table.py images NAME                 # only the images and what is foretold
    python benchmarks/truth_table.py write                         # docs/hosts.md from docs/hosts/*.json, no web UI

`measure` starts the web UI of WEBUI_DIR (WEBUI_PYTHON, WEBUI_ARGS; CONTRIBUTING.md) twice, without and with this
checkout among its extensions, and writes docs/hosts/NAME.json and the images beside it. Run it with the interpreter
of `.runtime/`, on a machine with about 8 GB of free memory; it takes about 10 minutes on two cores.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import sys
import tempfile
from itertools import combinations
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "extension"))

from PIL import Image, ImageChops

from adapter_lab.adapters.file import AdapterFile
from adapter_lab.hosts.loading.verdict_table import HOSTS
from adapter_lab.hosts.loading.verdicts import APPLY, DROP, WRONG, verdict
from adapter_lab.hosts.settings import EVERY_FILE, ONLY_WRONG
from tests.support.host_cases import FOREIGN
from tests.support.host_measure import PROMPT, STACKED, Bench, Result
from tests.support.webui import started

DATA = ROOT / "docs" / "hosts"
STRENGTHS = ("1", "0.6", "-0.5", STACKED)
OK, UNCHANGED = 1e-4, 1e-3  # an error of 1 within UNCHANGED: the module was left as it is
ALONE = "alone"
# Kinds of files whose images are kept, to be compared between web UIs.
PICTURES = ("lora", "lokr tucker", "glora", "diag-oft", "boft", "lora dora-output", "ia3", "norm layers")
PICTURE = {
    "width": 128,
    "height": 128,
    "steps": 4,
    "cfg_scale": 4.0,
    "seed": 7,
    # Some web UIs have another default of the first. Forge-classic leaves guidance out of the first step for 0 of the
    # second, since it compares `0 <= step / steps <= setting`; below 0 none does.
    "override_settings": {"CLIP_stop_at_last_layers": 1, "skip_early_cond": -1},
}


def measure(name: str, label: str) -> None:
    """Measure one web UI without and with Adapter Lab."""
    folder, found = Path(os.environ["WEBUI_DIR"]), {}
    DATA.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        log = Path(temporary) / "console.txt"
        with started(folder, log, with_adapter_lab=False) as web_ui:
            bench = Bench(web_ui)
            version = re.search(r"Version: (.*)", web_ui.txt2img(PROMPT).infotext)
            found[ALONE] = every_case(bench, ALONE)
        with started(folder, log) as web_ui:
            bench.web_ui = web_ui
            for scope in (ONLY_WRONG, EVERY_FILE):
                with web_ui.options(adapter_lab_scope=scope):
                    found[scope] = every_case(bench, scope)
            foretold = {case: _foretold(bench, case, name) for case in FOREIGN}
            state = web_ui.state()
            about = {
                "label": label or HOSTS[name],
                "version": version[1] if version else "",
                "measured": datetime.date.today().isoformat(),
                **{key: state[key] for key in ("python", "torch", "versions", "dtypes")},
            }
            text = dumped({"about": about, "verdicts": foretold, "results": found})
            (DATA / f"{name}.json").write_text(text, encoding="utf-8")
            pictures(bench, name)
            bench.remove_files()


def measure_pictures(name: str) -> None:
    """Make the images again, with Adapter Lab, and foretell again what the web UI alone does."""
    folder = Path(os.environ["WEBUI_DIR"])
    with tempfile.TemporaryDirectory() as temporary, started(folder, Path(temporary) / "console.txt") as web_ui:
        bench = Bench(web_ui)
        pictures(bench, name)
        file = DATA / f"{name}.json"
        found = json.loads(file.read_text(encoding="utf-8"))
        found["verdicts"] = {case: _foretold(bench, case, name) for case in FOREIGN}
        file.write_text(dumped(found), encoding="utf-8")
        bench.remove_files()


def dumped(value: Any, depth: int = 3) -> str:
    """JSON with the outer `depth` levels a line each."""
    if depth == 0 or not isinstance(value, dict):
        return json.dumps(value)
    inner = ",\n".join(f"{json.dumps(key)}: {dumped(one, depth - 1).rstrip()}" for key, one in value.items())
    return f"{{\n{inner}\n}}\n"


def every_case(bench: Bench, setting: str) -> dict[str, dict[str, Any]]:
    """Raw results by case and strength."""
    found: dict[str, dict[str, Any]] = {}
    for strength in STRENGTHS:
        for case in FOREIGN:
            found.setdefault(case, {})[strength] = raw(bench.measure(case, strength, setting))
            print(setting, case, strength, cell({strength: found[case][strength]}), flush=True)
    return found


def raw(result: Result) -> dict[str, Any]:
    """A result for JSON: errors with two digits, by module."""
    if result.status != 200:
        return {"status": result.status, "message": result.message.splitlines()[0][:300]}
    return {"errors": {module: float(f"{error:.1e}") for module, error in result.errors.items()}}


def pictures(bench: Bench, name: str) -> None:
    """Keep the image of each of PICTURES, loaded by Adapter Lab, and of no adapter."""
    for case in (None, *PICTURES):
        tag = f" <lora:{bench.write(case).name}:1>" if case else ""
        picture = bench.web_ui.txt2img(PROMPT + tag, **PICTURE)
        picture.image.save(DATA / f"{name}-{_slug(case)}.png", optimize=True)


def _slug(case: str | None) -> str:
    return re.sub(r"\W+", "-", case or "no adapter")


def _foretold(bench: Bench, case: str, host: str) -> str:
    return verdict(AdapterFile.open(bench.folder / f"{bench.write(case).name}.safetensors"), host).outcome


def outcome(results: dict[str, Any]) -> str:
    """What became of a file at all strengths, as `hosts/loading/verdicts.py` calls it."""
    if any("errors" not in result for result in results.values()):
        return DROP
    errors = [error for result in results.values() for error in result["errors"].values()]
    if all(error <= OK for error in errors):
        return APPLY
    left = [error for strength, result in results.items() if strength != STACKED for error in result["errors"].values()]
    some = any(error > OK for error in left)
    return DROP if some and all(error <= OK or abs(error - 1) <= UNCHANGED for error in left) else WRONG


def cell(results: dict[str, Any]) -> str:
    """A cell of the table: the worst over all strengths, in words."""
    failed = next((result for result in results.values() if "errors" not in result), None)
    if failed is not None:
        return f"**fails**, HTTP {failed['status']}"
    worst = max(error for result in results.values() for error in result["errors"].values())
    what = outcome(results)
    if what == APPLY:
        return "ok"
    if what == WRONG:
        return f"**wrong**, {worst:.2g}"
    plain = next((result for strength, result in results.items() if strength != STACKED), None)
    errors = list((plain or next(iter(results.values())))["errors"].values())
    left_out = sum(error > OK for error in errors)
    return "**no effect**" if left_out == len(errors) else f"**{left_out} of {len(errors)} modules left out**"


def write() -> str:
    """docs/hosts.md from the measurements."""
    hosts = {
        name: json.loads((DATA / f"{name}.json").read_text()) for name in HOSTS if (DATA / f"{name}.json").exists()
    }
    lines = [
        _INTRODUCTION,
        "| web UI | version | python | torch | gradio | transformers | measured |",
        "|---" * 7 + "|",
    ]
    for found in hosts.values():
        about = found["about"]
        cells = [about["label"], about["version"], about["python"], about["torch"]]
        cells += [about["versions"]["gradio"], about["versions"]["transformers"], about["measured"]]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, _table(hosts), _largest(hosts), _verdicts(hosts), _pictures(list(hosts))])


_INTRODUCTION = """# What web UIs make of adapter files

    WEBUI_DIR=... python benchmarks/truth_table.py measure classic    # and a1111, forge, reforge, neo
    python benchmarks/truth_table.py write

Written by `benchmarks/truth_table.py` from the raw results in [hosts/](hosts); the web UIs' own code was run.

Each file changes nine layers of an SD1.5 of random weights in fp32: linear layers with and without a bias, 1x1 and 3x3
convolutions of the UNet, and two layers of the text encoder (norms: three layers). An image is generated through the
web UI's API with `<lora:name:strength>`; then the weights it was made with are read from the live model, multiplied by
fixed inputs, and compared with what the layer puts out in the forward it was trained with, which is LyCORIS's own for
the files of LyCORIS 4.1.3. The error is relative to the change that is wanted. Every cell is the worst of all layers at
strengths 1.0, 0.6, -0.5 and of the file at 0.6 on top of a plain LoRA at 0.7. **ok**: at most 1e-4.

Ten files share an image, each with layers of its own; where the web UI then fails, they are tried one by one.
Forge-classic and Forge leave out a whole file with more than 12 unknown keys: a DoRA of nine layers has only nine, so
here it is applied without its magnitudes where they are unknown, while one of a whole model has no effect.
"""


def _table(hosts: dict[str, Any]) -> str:
    """One row per kind of file, two columns per web UI."""
    labels = [found["about"]["label"] for found in hosts.values()]
    head = ["file", *(f"{label} {what}" for label in labels for what in ("alone", "with Adapter Lab"))]
    lines = ["\n## Alone, and with Adapter Lab\n", "| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for case in FOREIGN:
        cells = [case]
        for found in hosts.values():
            both = [cell(found["results"][scope][case]) for scope in (ONLY_WRONG, EVERY_FILE)]
            cells += [cell(found["results"][ALONE][case]), next((one for one in both if one != "ok"), "ok")]
        lines.append("| " + " | ".join(cells) + " |")
    wide = "With Adapter Lab: the worse of both settings of which files it loads, the web UI's own failures or all."
    return "\n".join([*lines, "", wide])


def _largest(hosts: dict[str, Any]) -> str:
    """The largest error of each web UI with Adapter Lab."""
    lines = [
        "\n## Largest errors with Adapter Lab\n",
        "| web UI | its own failures only | all adapter files |",
        "|---|---|---|",
    ]
    for found in hosts.values():
        cells = [found["about"]["label"]]
        for scope in (ONLY_WRONG, EVERY_FILE):
            worst = max(
                (max(result.get("errors", {"": float("inf")}).values()), case)
                for case, results in found["results"][scope].items()
                for result in results.values()
            )
            cells.append(f"{worst[0]:.1e} ({worst[1]})")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _verdicts(hosts: dict[str, Any]) -> str:
    """Where `adapter-lab inspect` and the scope setting foretell something else than what was measured."""
    lines = ["\n## What `adapter-lab inspect` foretells\n"]
    lines.append("Of each kind of file it says whether a web UI alone would apply it, drop it or apply it wrongly.\n")
    for found in hosts.values():
        measured = {case: outcome(found["results"][ALONE][case]) for case in FOREIGN}
        other = {case: said for case, said in found["verdicts"].items() if said != measured[case]}
        missed = [case for case, said in other.items() if said == APPLY]
        sentence = f"- {found['about']['label']}: as measured for {len(FOREIGN) - len(other)} of {len(FOREIGN)} kinds"
        careful = [f"{case} ({said}; measured: {measured[case]})" for case, said in other.items() if case not in missed]
        sentence += f"; otherwise: {', '.join(careful)}" if careful else ""
        lines.append(sentence + (f"; **missed**: {', '.join(missed)}" if missed else "") + ".")
    return "\n".join(lines)


def _pictures(names: list[str]) -> str:
    """The largest difference between the images of two web UIs, in grey levels."""
    names = [name for name in names if all((DATA / f"{name}-{_slug(case)}.png").exists() for case in (None, *PICTURES))]
    pairs = list(combinations(names, 2))
    lines = ["\n## The same image everywhere\n"]
    lines.append(
        "Largest difference in grey levels (of 255) between the images of two web UIs with Adapter Lab for the same "
        "file at 1.0, prompt, seed and checkpoint; Euler, 4 steps, 128 px, fp32. The images are in [hosts/](hosts).\n"
    )
    lines.append(_CAUSE)
    lines.append("| file | " + " | ".join(f"{HOSTS[a]} / {HOSTS[b]}" for a, b in pairs) + " | changed by the file |")
    lines.append("|---" * (len(pairs) + 2) + "|")
    for case in (None, *PICTURES):
        cells = [
            case or "no adapter",
            *(str(_difference(f"{a}-{_slug(case)}", f"{b}-{_slug(case)}")) for a, b in pairs),
        ]
        cells.append(str(_difference(f"{names[0]}-{_slug(case)}", f"{names[0]}-{_slug(None)}")) if case else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


_CAUSE = """\
In all of them guidance counts in every step. Forge-classic has to be told: with its default of 0 for "Ignore negative
prompt during early steps" (`skip_early_cond`) it leaves guidance out of the first step, and its images are then 12 to
19 levels from the others', with an adapter or without; here the setting is -1. What is left is the noise schedule,
which A1111 takes from the checkpoint's `alphas_cumprod` in fp16 (noise from 14.612 down to 0.0313) and Forge-classic
computes (14.615 to 0.0292).
"""


def _difference(one: str, other: str) -> int:
    images = [Image.open(DATA / f"{name}.png").convert("RGB") for name in (one, other)]
    return max(high for _, high in ImageChops.difference(*images).getextrema())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("measure", help="measure the web UI of WEBUI_DIR")
    command.add_argument("name", choices=list(HOSTS))
    command.add_argument("--label", default="", help="what the table calls it")
    command = commands.add_parser("pictures", help="make the images of WEBUI_DIR and what is foretold again")
    command.add_argument("name", choices=list(HOSTS))
    commands.add_parser("write", help="write docs/hosts.md")
    options = parser.parse_args()
    if options.command == "measure":
        measure(options.name, options.label)
    if options.command == "pictures":
        measure_pictures(options.name)
    (ROOT / "docs" / "hosts.md").write_text(write() + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
