"""Train, save, read back and apply every adapter type on checkpoints of real size: `python benchmarks/real_size.py`.

Writes checkpoints of random weights in the real LDM layout (SD1.5 2.1 GB, SDXL 6.9 GB, fp16) and a few drawn images,
then trains some steps at 256 px for each case, in a process of its own, through `adapter_lab.training.loop.train`. The
file is read back, its size compared with the prediction, and applied to the checkpoint with `adapter-lab apply`; the
patched models must compute what the trained network computes. Prints a table in Markdown; exits with 1 if anything
is not as it should be. `--keep DIR` keeps the checkpoints, `--tiny` tries the script with tiny models.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "extension"))

from tests.support.real_size import CASES, SIDE, Measured, checkpoint_of, in_own_process

HEADINGS = (
    "case | modules | parameters | file MiB | s/step | CPU s/step | peak MiB | apply s | CPU s | tensors patched | "
    "output changed by | applied ≠ trained"
)


def row(m: Measured) -> str:
    """A line of the Markdown table."""
    cells = [m.case, m.modules, f"{m.trainable:,}", f"{m.file_bytes / 2**20:.2f}", f"{m.seconds_per_step:.1f}"]
    cells += [f"{m.cpu_seconds_per_step:.1f}", f"{m.peak_mib:,.0f}", f"{m.apply_seconds:.1f}"]
    cells += [f"{m.apply_cpu_seconds:.1f}", m.patched, f"{m.change:.2g}", f"{m.apply_error:.1g}"]
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"default: all of {', '.join(CASES)}")
    parser.add_argument("--keep", metavar="DIR", help="folder for checkpoints, runs and results, which are kept")
    parser.add_argument("--tiny", action="store_true", help="tiny models at 64 px")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.keep or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        print(f"| {HEADINGS} |\n|{'---|' * (HEADINGS.count('|') + 1)}", flush=True)
        failed = 0
        for name in options.cases or CASES:
            checkpoint = checkpoint_of(CASES[name].family, folder, options.tiny)
            measured = in_own_process(name, checkpoint, folder, 64 if options.tiny else SIDE)
            with (folder / "results.jsonl").open("a") as file:
                file.write(json.dumps(vars(measured)) + "\n")
            print(row(measured), *(f"\n  WRONG: {sentence}" for sentence in measured.complaints), flush=True)
            failed += bool(measured.complaints)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
