"""The `adapter-lab` command: train, resume, estimate, inspect, apply and more.

Exit status: 0 done, 1 an error of ours (its traceback is in a log), 2 something the person can mend, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path

from adapter_lab import files
from adapter_lab.cli.parser import make_parser
from adapter_lab.errors import AdapterLabError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):  # replaced streams need not have it
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    if os.environ.get("RANK", "0") != "0":  # one of several processes of one run, whose first speaks for all
        os.environ["TQDM_DISABLE"] = "1"
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if os.environ.pop("ADAPTER_LAB_JOB", ""):
        threading.Thread(target=_end_with_parent, daemon=True).start()
    chosen = make_parser().parse_args(arguments)
    try:
        return chosen.command(chosen)
    except AdapterLabError as error:
        if chosen.traceback:
            traceback.print_exc()
        print(f"adapter-lab: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("adapter-lab: interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe has gone, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if chosen.traceback:
            traceback.print_exc()
        print(f"adapter-lab: {files.in_words(error)}", file=sys.stderr)
        return 2
    except Exception as error:
        if chosen.traceback:
            traceback.print_exc()
        print(f"adapter-lab: {type(error).__name__}: {error} ({_log()})", file=sys.stderr)
        return 1


def _end_with_parent() -> None:
    """End when the program whose job this is has ended, even if it was killed: its end of our input is closed then."""
    while os.read(0, 1):
        pass
    os._exit(130)


def _log() -> str:
    """Write the traceback of the error in hand to a file, and say where."""
    path = Path(tempfile.gettempdir()) / f"adapter-lab-{os.getpid()}.log"
    try:
        path.write_text(traceback.format_exc(), encoding="utf-8")
    except OSError:
        return "run again with --traceback to see where"
    return f"the traceback is in {path}"
