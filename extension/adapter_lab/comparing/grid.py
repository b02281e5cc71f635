"""One grid: which adapter file each of its cells is made with, the prompt with its tag, and what the labels say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from adapter_lab.adapters.family import FAMILY_NAMES, in_words
from adapter_lab.adapters.library import Entry, Run
from adapter_lab.comparing.best import Records
from adapter_lab.comparing.cell import FILE, STEP, STRENGTH, STUDY, TYPE, Cell
from adapter_lab.comparing.pool import Pool, listed
from adapter_lab.comparing.tags import Tag, rewrite, tags
from adapter_lab.comparing.values import ALL, BEST, LAST, NONE, step_values, strength_values
from adapter_lab.errors import AdapterLabError

Value = str | float


@dataclass
class Grid:
    """The files there are, the axes of this grid in any order, and what stands on them."""

    pool: Pool
    records: Records = field(default_factory=Records)
    axes: tuple[str, ...] = ()
    values: dict[str, list[Value]] = field(default_factory=dict)

    # Values

    def set_values(self, axis: str, written: Iterable[Value]) -> list[Value]:
        """What stands on an axis as single values; raises AdapterLabError with what cannot be meant."""
        texts = [str(value).strip() for value in written if str(value).strip()]
        expand: dict[str, Callable[[list[str]], Sequence[Value]]] = {
            TYPE: self._types,
            STEP: self._steps,
            STRENGTH: strength_values,
            FILE: self._files,
            STUDY: self._studies,
        }
        if axis in (STEP, STRENGTH) and not self._picks_by_axis and self.pool.prompt_run is None:
            raise AdapterLabError(
                f"The axis {axis} needs to know of which adapter: put a tag like <lora:name:1> into the prompt, or use "
                "the axis Type, File or Study as well."
            )
        found = list(dict.fromkeys(expand[axis](texts)))
        if not found:
            raise AdapterLabError(f"There is nothing on the axis {axis}; choose values, or write all.")
        self.values[axis] = found
        return found

    @property
    def _picks_by_axis(self) -> bool:
        return bool({TYPE, FILE, STUDY} & set(self.axes))

    def _types(self, texts: list[str]) -> list[str]:
        found: list[str] = []
        for text in texts:
            if text.lower() == ALL:
                found += self.pool.type_names(self.pool.group or self.pool.runs())
            else:
                if text.lower() != NONE and not self.pool.of_type(text, self.pool.shelf.runs):
                    known = ", ".join(sorted({run.kind.name for run in self.pool.runs()}, key=str.lower)) or "none"
                    raise AdapterLabError(f"There is no adapter of the type {text!r}; there are {known}.")
                found.append(text)
        return found

    def _steps(self, texts: list[str]) -> list[str]:
        return step_values(texts, self._compared_runs())

    def _files(self, texts: list[str]) -> list[str]:
        found: list[str] = []
        for text in texts:
            if text.lower() == ALL:
                runs = self.pool.group or self.pool.runs()
                found += [entry.name for run in runs for entry in run.entries]
            else:
                if text.lower() != NONE:
                    self.pool.entry(text)
                found.append(text)
        return found

    def _studies(self, texts: list[str]) -> list[str]:
        found: list[str] = []
        for text in texts:
            wanted = list(self.pool.studies) if text.lower() == ALL else [text]
            for name in wanted:
                if name.lower() != NONE and name.partition(": ")[0] not in self.pool.studies:
                    known = listed(self.pool.studies) if self.pool.studies else "none"
                    raise AdapterLabError(f"There is no study called {name!r}; there are {known}.")
                found += self._variants(name)
        return found

    def _variants(self, study: str) -> list[str]:
        """A study as it stands on the axis: one value for each of its runs where no other axis chooses among them."""
        if study.lower() == NONE or ": " in study or {TYPE, FILE} & set(self.axes):
            return [study]
        return [f"{study}: {name}" for name in self.pool.type_names(self.pool.runs(study))]

    # Cells

    def entry_for(self, cell: Cell, family: str | None = None) -> Entry | None:
        """The file of a cell, None for the image without one; raises AdapterLabError with why there is none."""
        if cell.is_baseline:
            return None
        if cell.file is not None and cell.step is None:
            entry = self.pool.entry(cell.file)
        elif self.axes == (STRENGTH,) and self._prompt_entry() is not None:
            entry = self._prompt_entry() or self.pool.entry("")
        else:
            entry = self._at_step(self.pool.run_for(cell, family), cell.step or LAST)
        known = family or self.pool.family
        if known is not None and known not in entry.families:
            wanted, base = in_words(entry.families), in_words([known])
            raise AdapterLabError(f"{entry.name} is for {wanted}, but the base model is {base}.")
        if not entry.path.is_file():
            raise AdapterLabError(f"{entry.path.name} is not there any more.")
        return entry

    def _prompt_entry(self) -> Entry | None:
        for tag in tags(self.pool.prompt):
            entries = self.pool.shelf.by_name.get(tag.name.lower())
            if entries:
                return entries[0]
        return None

    def _at_step(self, run: Run, step: str) -> Entry:
        if step == LAST:
            return run.last
        if step == BEST:
            return self.records.best(run).entry
        if step.endswith("%"):
            known = [entry.lineage.position for entry in run.entries if entry.lineage.position is not None]
            return run.nearest(round(max(known, default=0) * float(step[:-1]) / 100))
        return run.nearest(int(step))

    def write_prompt(self, prompt: str, cell: Cell, family: str | None = None) -> str:
        """The prompt with the tag of the cell's file, in the place of that of a run this grid compares, or added."""
        entry = self.entry_for(cell, family)
        compared = {id(run) for run in self._compared_runs()}
        placed = False

        def change(tag: Tag) -> Tag | None:
            nonlocal placed
            run = self.pool.run_named(tag.name)
            if run is None or id(run) not in compared:
                return tag
            if entry is None or placed:
                return None
            placed = True
            new = replace(tag, name=entry.name)
            return new if cell.strength is None else new.at(cell.strength)

        written = rewrite(prompt, change)
        if entry is None or placed:
            return written
        tag = Tag(entry.name) if cell.strength is None else Tag(entry.name).at(cell.strength)
        return f"{written.rstrip()} {tag}".lstrip()

    def _compared_runs(self) -> list[Run]:
        """Every run that some cell of this grid may be of."""
        found: list[Run] = [] if self._picks_by_axis or self.pool.prompt_run is None else [self.pool.prompt_run]
        families = {self.pool.family, *(FAMILY_NAMES if self.pool.family is None else ())}
        studies = self.values.get(STUDY, [None] if STUDY not in self.axes else list(self.pool.studies))
        for axis in (TYPE, FILE, STUDY):
            for value in self.values.get(axis, ()):
                for study in studies if axis == TYPE else [None]:
                    cell = Cell(study=None if study is None else str(study)).with_value(axis, value)
                    for family in families:
                        found += self._run_or_none(cell, family)
        if not found and self._picks_by_axis:  # the axis that chooses has not been read yet
            found = self.pool.group or self.pool.runs()
        return list({id(run): run for run in found}.values())

    def _run_or_none(self, cell: Cell, family: str | None) -> list[Run]:
        try:
            return [] if cell.is_baseline else [self.pool.run_for(cell, family)]
        except AdapterLabError:
            return []

    # Labels

    def label(self, axis: str, value: Value) -> str:
        """What stands beside a row or over a column."""
        if axis == STRENGTH:
            return f"strength {value:g}"
        text = str(value)
        if text.lower() == NONE:
            return "no adapter"
        if axis == STEP:
            return self._step_label(text)
        cell = Cell().with_value(axis, text)
        try:
            entry = self.entry_for(cell)
        except AdapterLabError:
            return text
        if entry is None or (axis == STUDY and {TYPE, FILE} & set(self.axes)):
            return text
        name = text if axis == TYPE else self._name_of(self.pool.shelf.run_of(entry), axis)
        return name if STEP in self.axes or not entry.at else f"{name} · {entry.at}"

    def _name_of(self, run: Run, axis: str) -> str:
        """A run among those of an axis, as short as it can be told from them."""
        runs = self._compared_runs()
        names = {id(one): name for one, name in zip(runs, self.pool.type_names(runs))}
        return names.get(id(run), self.pool.shelf.labels[run.kind])

    def _step_label(self, step: str) -> str:
        if step == "0":
            return "0 (no adapter)"
        runs = self._compared_runs()
        if not self._picks_by_axis and runs:
            return f"{self._name_of(runs[0], STEP)} · {self._at(runs[0], step)}"
        taken = dict(zip(self.pool.type_names(runs), (self._at(run, step) for run in runs)))
        others = {name: at for name, at in taken.items() if at != step}
        if not others:
            return step
        if len(set(taken.values())) == 1:
            return f"{step} ({next(iter(taken.values()))})"
        return f"{step} ({', '.join(f'{name} {at}' for name, at in others.items())})"

    def _at(self, run: Run, step: str) -> str:
        try:
            return self.records.best(run).label if step == BEST else self._at_step(run, step).at or "end"
        except AdapterLabError:
            return "unknown"
