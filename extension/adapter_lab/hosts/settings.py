"""Our section of the web UI's Settings page, and what was chosen there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SECTION = ("adapter_lab", "Adapter Lab")
ASK, WAIT, GO_ON = "ask", "wait", "go on"
ONLY_WRONG, EVERY_FILE = "only those the web UI gets wrong", "all adapter files"

# Option -> (default, label, component in gradio, its arguments, what is said beside it).
OPTIONS: dict[str, tuple[Any, str, str, dict[str, Any], str]] = {
    "adapter_lab_loader": (True, "Load adapter files with Adapter Lab", "Checkbox", {}, "off: the web UI is alone"),
    "adapter_lab_scope": (
        ONLY_WRONG,
        "Which adapter files",
        "Radio",
        {"choices": [ONLY_WRONG, EVERY_FILE]},
        "all adapter files: the same image in every web UI, byte by byte the same code",
    ),
    "adapter_lab_verbosity": (
        "normal",
        "What the console says",
        "Radio",
        {"choices": ["quiet", "normal", "all"]},
        "quiet: warnings only; normal: a line per file; all: every module that was not applied",
    ),
    "adapter_lab_cache_mb": (
        1024,
        "Adapter files kept in memory, in MB",
        "Slider",
        {"minimum": 0, "maximum": 16384, "step": 64},
        "so that switching between files of a grid reads none twice",
    ),
    "adapter_lab_while_training": (
        ASK,
        "Generating while a training runs",
        "Radio",
        {"choices": [ASK, WAIT, GO_ON]},
        "ask: the page asks first, and API calls wait; wait: images are made when the training has ended; "
        "go on: both share the GPU",
    ),
    "adapter_lab_free_gpu": (
        True,
        "Unload the web UI's model before a training",
        "Checkbox",
        {},
        "it is loaded again for the next image; off: for those who train on another GPU",
    ),
    "adapter_lab_runs_folder": (
        "",
        "Folder of runs",
        "Textbox",
        {},
        "empty: adapter-lab/runs in the web UI's data folder; after a change reload the UI",
    ),
    "adapter_lab_folders": (
        "",
        "Further folders",
        "Textbox",
        {"lines": 3},
        "one a line: images and files there may be used when the web UI listens beyond this machine, as its own may",
    ),
    "adapter_lab_names": (
        "",
        "Names this web UI is reached by",
        "Textbox",
        {},
        "such as my-pc.example.org, with commas between; only for those who reach it through a tunnel or a proxy",
    ),
}


class Settings:
    """What a person chose, read from the web UI's options each time it is asked for."""

    def __init__(self, options: Any) -> None:
        self._options = options

    def _chosen(self, option: str) -> Any:
        return getattr(self._options, option, OPTIONS[option][0])

    @property
    def enabled(self) -> bool:
        """Whether we load anything."""
        return bool(self._chosen("adapter_lab_loader"))

    @property
    def every_file(self) -> bool:
        """Whether we load all adapter files, or only those the web UI alone gets wrong."""
        return self._chosen("adapter_lab_scope") == EVERY_FILE

    @property
    def verbosity(self) -> str:
        """ "quiet", "normal" or "all"."""
        return str(self._chosen("adapter_lab_verbosity"))

    @property
    def cache_bytes(self) -> int:
        """How many bytes of adapter files to keep in memory."""
        return int(self._chosen("adapter_lab_cache_mb")) * 2**20

    @property
    def while_training(self) -> str:
        """What a generation does while a training runs: ASK, WAIT or GO_ON."""
        return str(self._chosen("adapter_lab_while_training"))

    @property
    def free_gpu(self) -> bool:
        """Whether the web UI's model is unloaded before a training."""
        return bool(self._chosen("adapter_lab_free_gpu"))

    @property
    def runs_folder(self) -> str:
        """Folder of runs; empty: one in the web UI's data folder."""
        return str(self._chosen("adapter_lab_runs_folder") or "").strip()

    @property
    def folders(self) -> list[Path]:
        """Folders that requests may name although the web UI listens beyond this machine."""
        lines = str(self._chosen("adapter_lab_folders") or "").splitlines()
        return [Path(line.strip()) for line in lines if line.strip()]

    @property
    def names(self) -> list[str]:
        """Host names, beside this machine's own, by which the web UI is reached."""
        names = str(self._chosen("adapter_lab_names") or "").split(",")
        return [name.strip().lower() for name in names if name.strip()]


def add_options(shared: Any, gradio: Any) -> None:
    """Add our options to the Settings page. shared: the web UI's `modules.shared`."""
    for option, (default, label, component, arguments, said) in OPTIONS.items():
        info = shared.OptionInfo(default, label, getattr(gradio, component), arguments, section=SECTION)
        shared.opts.add_option(option, info.info(said))
