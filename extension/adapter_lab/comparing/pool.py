"""Which runs can be meant: by type as people write it, by study, by the base model, by the prompt's own adapter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from adapter_lab.adapters.family import in_words
from adapter_lab.adapters.kind import fits, labels
from adapter_lab.adapters.library import Entry, Run, Shelf
from adapter_lab.comparing.cell import Cell
from adapter_lab.comparing.tags import tags
from adapter_lab.errors import AdapterLabError

NAMED = 8  # things an error lists


@dataclass
class Pool:
    """The adapter files there are. `prompt`: the one a grid starts from.

    `family` is that of the loaded base model, None if unknown; `studies`: the files of each study by its name.
    """

    shelf: Shelf
    prompt: str = ""
    family: str | None = None
    studies: Mapping[str, Sequence[Path]] = field(default_factory=dict)

    def type_names(self, runs: Sequence[Run]) -> list[str]:
        """The shortest name of each run by its type; several of one type have their own names added."""
        runs = list(runs)
        names = labels(run.kind for run in runs)
        count = Counter(names[run.kind] for run in runs)
        return [names[run.kind] + (f" · {run.name}" if count[names[run.kind]] > 1 else "") for run in runs]

    def runs(self, study: str | None = None, family: str | None = None) -> list[Run]:
        """The runs a type may mean: of a study, and for the base model."""
        found = self.shelf.runs
        if study is not None:
            paths = {path.resolve() for path in self.studies.get(study.partition(": ")[0], ())}
            names = {path.name for path in paths}
            found = [run for run in found if any(entry.path.resolve() in paths for entry in run.entries)] or [
                run for run in found if any(entry.path.name in names for entry in run.entries)
            ]
        return [run for run in found if run.fits(family or self.family)]

    def of_type(self, text: str, runs: Sequence[Run]) -> list[Run]:
        """The runs that a type as it is written means: by its label, by the words of the type, or by a run's name."""
        names = dict(zip(runs, self.type_names(runs)))
        kind, _, run_name = text.partition(" · ")
        found = [run for run in runs if names[run].lower() == text.lower()]
        found = found or [run for run in runs if run.name.lower() == text.lower()]
        if not found and run_name:
            found = [run for run in runs if run.name.lower() == run_name.lower() and fits(run.kind, kind)]
        return found or [run for run in runs if fits(run.kind, text)]

    def run_for(self, cell: Cell, family: str | None = None) -> Run:
        """The run a cell's adapter is from; raises AdapterLabError where none or several can be meant."""
        if cell.file is not None:
            return self.shelf.run_of(self.entry(cell.file))
        wanted = cell.type
        if wanted is None and cell.study is not None:
            wanted = cell.study.partition(": ")[2]
        if wanted is None:
            if self.prompt_run is None:
                raise AdapterLabError("The prompt has no tag of an adapter that is known, and no axis chooses one.")
            return self.prompt_run
        pool = self.runs(cell.study, family)
        found = self.of_type(wanted, pool)
        if len(found) > 1:
            found = self._like_the_prompts(found) or found
        if len(found) == 1:
            return found[0]
        if found:
            names = listed(f"{name}" for name in self.type_names(found))
            raise AdapterLabError(f"{wanted!r} can mean several: {names}; write one of these.")
        elsewhere = self.of_type(wanted, self.shelf.runs)
        if cell.study is not None or not elsewhere:
            raise AdapterLabError(f"There is no {wanted}" + (f" in the study {cell.study}." if cell.study else "."))
        base = in_words(filter(None, [family or self.family]))
        raise AdapterLabError(f"{elsewhere[0].name} is for {elsewhere[0].for_base}, but the base model is {base}.")

    def _like_the_prompts(self, runs: Sequence[Run]) -> list[Run]:
        group = {id(run) for run in self.group}
        return [run for run in runs if id(run) in group]

    @property
    def group(self) -> list[Run]:
        """The runs that were trained on the same images as the prompt's adapter, else those in its folder."""
        own = self.prompt_run
        if own is None:
            return []
        subject = own.last.subject
        alike = [run for run in self.runs() if subject and run.last.subject == subject]
        return alike if len(alike) > 1 else [run for run in self.runs() if run.folder == own.folder]

    @property
    def prompt_run(self) -> Run | None:
        """The run of the first tag in the prompt that names an adapter we know."""
        for tag in tags(self.prompt):
            run = self.run_named(tag.name)
            if run is not None:
                return run
        return None

    def run_named(self, name: str) -> Run | None:
        """The run of a tag's file, or whose own name the tag has."""
        entries = self.shelf.by_name.get(name.lower())
        if entries:
            return self.shelf.run_of(entries[0])
        return next((run for run in self.shelf.runs if run.name.lower() == name.lower()), None)

    def entry(self, name: str) -> Entry:
        """The file a prompt calls so; raises AdapterLabError if there is none."""
        entries = self.shelf.by_name.get(name.lower())
        if not entries:
            raise AdapterLabError(self.shelf.why_unread(name) or f"There is no adapter file called {name}.")
        return entries[0]


def listed(names: Iterable[str]) -> str:
    """Names in a sentence, the first few."""
    known = list(dict.fromkeys(names))
    more = f" and {len(known) - NAMED} more" if len(known) > NAMED else ""
    return (", ".join(known[:NAMED]) or "none") + more
