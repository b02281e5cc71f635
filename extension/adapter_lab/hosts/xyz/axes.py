"""Our axes in the web UI's own X/Y/Z plot: type, step, strength, file and study of adapters.

The script asks an `AxisOption` for the values of its drop-down (`choices`), lets it check them once (`confirm`, on the
list itself), and then, per cell, applies each axis to a copy of the processing object and generates. Applying only
notes what the axes say; the tag is written just before the image is made, when all axes are known.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from adapter_lab.adapters.checkpoint import open_checkpoint
from adapter_lab.adapters.layouts import family_of
from adapter_lab.adapters.library import Library, Shelf
from adapter_lab.adapters.tensors import PICKLES
from adapter_lab.comparing.best import Records
from adapter_lab.comparing.cell import AXES, FILE, PREFIX, STEP, STRENGTH, STUDY, TYPE, Cell
from adapter_lab.comparing.grid import Grid
from adapter_lab.comparing.pool import Pool
from adapter_lab.comparing.studies import adapter_files, studies_in
from adapter_lab.comparing.values import ALL, BEST, LAST, NONE, saved_positions
from adapter_lab.errors import AdapterLabError
from adapter_lab.hosts.console import say
from adapter_lab.hosts.families.hooks import Hooks
from adapter_lab.hosts.families.webui import data_folder, file_of_tag
from adapter_lab.hosts.guard import guarded
from adapter_lab.hosts.loading.loader import Loader
from adapter_lab.hosts.protocol import CheckpointEntry, Host
from adapter_lab.hosts.xyz.session import BLANK, CELL, COSTS, SESSION, Session, blank_picture, in_words, written_values

# What the X/Y/Z script must have for our axes to work.
NEEDED = ("AxisOption", "axis_options", "process_images", "Processed")


class Axes:
    """Our axes in one web UI. `install` may be called again after `remove`, as on "Reload UI"."""

    def __init__(self, host: Host, loader: Loader) -> None:
        self.host = host
        self.loader = loader
        data = data_folder()
        self.library = Library(data / "adapter-lab" / "library.json" if data else None)
        self._hooks = Hooks()
        self._families: dict[tuple[str, int], str | None] = {}

    def install(self) -> list[str]:
        """Add the axes to the X/Y/Z plot; sentences about what it lacks, empty if nothing or if it has no such plot."""
        self._hooks.undo()
        module = self.host.xyz_module()
        if module is None:
            return []
        script = _script_class(module)
        lacking = [name for name in NEEDED if not hasattr(module, name)] + ([] if script else ["a script to run"])
        if lacking:
            return [f"The X/Y/Z plot has no {', '.join(lacking)}, so the axes of Adapter Lab are off."]
        for option in self._options(module):
            self._hooks.insert(module.axis_options, option, len(module.axis_options))
        self._hooks.replace(script, "run", self._run)
        self._hooks.replace(module, "process_images", lambda original: self._process(original, module))
        owner = module if hasattr(module, "create_infotext") else sys.modules.get("modules.processing")
        if owner is not None:
            self._hooks.replace(owner, "create_infotext", _infotext)
        return list(self._hooks.messages)

    def remove(self) -> None:
        """Take the axes out again."""
        self._hooks.undo()

    def _options(self, module: Any) -> list[Any]:
        choices: dict[str, Callable[[], list[str]] | None] = {
            TYPE: self._type_choices,
            STEP: self._step_choices,
            STRENGTH: None,
            FILE: self._file_choices,
            STUDY: self._study_choices,
        }
        return [
            module.AxisOption(
                PREFIX + axis,
                str,
                _note(axis),
                format_value=_label(axis),
                confirm=self._confirm(axis),
                cost=COSTS[axis],
                choices=choices[axis],
            )
            for axis in AXES
        ]

    def title(self) -> str | None:
        """What the web UI calls its X/Y/Z plot; None if our axes are not in one."""
        module = self.host.xyz_module()
        script = _script_class(module) if module is not None else None
        return None if script is None or len(self._hooks) == 0 else str(script().title())

    # What there is

    def shelf(self, studies: dict[str, list[Path]] | None = None) -> Shelf:
        """The adapter files the web UI has, and those of the studies that lie elsewhere."""
        folders = list(self.host.adapter_folder())
        elsewhere = {path.parent for paths in (studies or {}).values() for path in paths}
        return self.library.scan([*folders, *sorted(elsewhere)])

    def studies(self) -> dict[str, Path]:
        """The study folders the web UI knows, by name: those of the tab, beside its runs, and those put elsewhere."""
        data, runs = data_folder(), self._runs_folder()
        return studies_in([*([runs] if runs else []), *([data / "adapter-lab" / "studies"] if data else [])])

    def _runs_folder(self) -> Path | None:
        own, data = getattr(self.loader.settings, "runs_folder", ""), data_folder()
        return Path(own) if own else data / "adapter-lab" / "runs" if data else None

    def grid(self, prompt: str = "", axes: tuple[str, ...] = ()) -> Grid:
        """All there is to choose from, for the loaded base model."""
        folders = self.studies()
        files = {name: adapter_files(folder) for name, folder in folders.items()} if STUDY in axes else {}
        runs = self._runs_folder()
        records = Records([runs] if runs else [], folders)
        return Grid(Pool(self.shelf(files), prompt, self._family(None), files), records, axes)

    def _type_choices(self) -> list[str]:
        pool = self.grid().pool
        return [NONE, *sorted(set(pool.type_names(pool.runs())), key=str.casefold), ALL]

    def _step_choices(self) -> list[str]:
        return [NONE, LAST, BEST, *map(str, saved_positions(self.grid().pool.runs())), ALL]

    def _file_choices(self) -> list[str]:
        return [NONE, *sorted({entry.name for entry in self.shelf().entries}, key=str.casefold), ALL]

    def _study_choices(self) -> list[str]:
        return [NONE, *self.studies(), ALL]

    # The base model

    def _family(self, p: Any) -> str | None:
        """The family of the base model an image is made with, None where it cannot be told from a file's header."""
        entries = self.host.checkpoints()
        wanted = (getattr(p, "override_settings", None) or {}).get("sd_model_checkpoint")
        if wanted is None and not any(entry.loaded for entry in entries):
            options = getattr(sys.modules.get("modules.shared"), "opts", None)
            wanted = getattr(options, "sd_model_checkpoint", None)
        chosen = [entry for entry in entries if (_is_called(entry, wanted) if wanted else entry.loaded)]
        return self._family_of_file(chosen[0].path) if chosen else None

    def _family_of_file(self, path: Path) -> str | None:
        if path.suffix.lower() in PICKLES:  # it would have to be read as a whole
            return None
        try:
            key = (str(path), path.stat().st_mtime_ns)
            if key not in self._families:
                self._families[key] = family_of(open_checkpoint(path).shapes)
        except (AdapterLabError, OSError):
            return None
        return self._families[key]

    # The script

    def _confirm(self, axis: str) -> Callable[[Any, list[Any]], None]:
        def confirm(p: Any, xs: list[Any]) -> None:
            session = getattr(p, SESSION, None)
            grid = session.grid if session else self.grid(p.prompt, (axis,))
            xs[:] = grid.set_values(axis, xs)

        return confirm

    def _run(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def run(script: Any, p: Any, *arguments: Any, **named: Any) -> Any:
            session = None
            with guarded("preparing the axes of the X/Y/Z plot"):
                session = self._begin(script, p, arguments)
            if session is None:
                return original(script, p, *arguments, **named)
            setattr(p, SESSION, session)
            try:
                for axis in session.grid.axes:  # those that choose files before those that depend on them
                    session.grid.set_values(axis, session.grid.values.get(axis, []))
                return original(script, p, *arguments, **named)
            finally:
                delattr(p, SESSION)
                if self.loader.settings.verbosity != "quiet" or session.blank:
                    say(session.summary())

        return run

    def _begin(self, script: Any, p: Any, arguments: tuple[Any, ...]) -> Session | None:
        """The grid these arguments of the script ask for; None if it has no axis of ours."""
        written = written_values(arguments, script.current_axis_options)
        order = [axis for axis in (TYPE, FILE, STUDY, STEP, STRENGTH) if PREFIX + axis in written]
        if not order:
            return None
        prompt = p.prompt[0] if isinstance(p.prompt, list) else p.prompt
        grid = self.grid(prompt, tuple(order))
        grid.values = {axis: list(written[PREFIX + axis]) for axis in order}
        return Session(grid, self._family, file_of_tag, self.loader.read_ahead)

    def _process(self, original: Callable[..., Any], module: Any) -> Callable[..., Any]:
        def process_images(p: Any, *arguments: Any, **named: Any) -> Any:
            session, cell = getattr(p, SESSION, None), getattr(p, CELL, None)
            if session is None or cell is None:
                return original(p, *arguments, **named)
            try:
                session.prepare(p, cell)
            except AdapterLabError as error:
                session.blank[in_words(cell)] = str(error)
                setattr(p, BLANK, str(error))
                return module.Processed(p, [blank_picture(p.width, p.height, str(error))], p.seed, str(error))
            return original(p, *arguments, **named)

        return process_images


def _note(axis: str) -> Callable[[Any, Any, Any], None]:
    """`AxisOption.apply`: the image is made in `process_images`, when all axes have been applied."""

    def apply(p: Any, x: Any, xs: Any) -> None:
        setattr(p, CELL, getattr(p, CELL, Cell()).with_value(axis, x))

    return apply


def _label(axis: str) -> Callable[[Any, Any, Any], str]:
    """`AxisOption.format_value`."""

    def format_value(p: Any, option: Any, x: Any) -> str:
        session = getattr(p, SESSION, None)
        return session.grid.label(axis, x) if session else str(x)

    return format_value


def _infotext(original: Callable[..., Any]) -> Callable[..., Any]:
    """The web UI asks for that of a grid's first cell, and a cell that was not made has nothing it could look at."""

    def create_infotext(p: Any, *arguments: Any, **named: Any) -> Any:
        reason = getattr(p, BLANK, None)
        return original(p, *arguments, **named) if reason is None else reason

    return create_infotext


def _script_class(module: Any) -> type | None:
    scripts = importlib.import_module("modules.scripts")
    return next((data.script_class for data in scripts.scripts_data if data.module is module), None)


def _is_called(entry: CheckpointEntry, wanted: str) -> bool:
    """Whether a checkpoint has this title, file name or name, with or without its hash."""
    names = (entry.title, entry.path.name, entry.path.stem, str(entry.path), entry.title.rpartition(" [")[0])
    return wanted in names
