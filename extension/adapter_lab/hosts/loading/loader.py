"""Loading as all web UIs share it: which files are ours, their patches, and what became of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from adapter_lab.adapters.results import guessed_scale
from adapter_lab.errors import AdapterLabError
from adapter_lab.hosts.console import say
from adapter_lab.hosts.loading.base_model import BaseModel, BaseModels
from adapter_lab.hosts.loading.cache import AdapterCache, CachedFile, Signature, signature_of
from adapter_lab.hosts.loading.patched import Ledger
from adapter_lab.hosts.loading.plan import Plan
from adapter_lab.hosts.loading.report import FileReport, algorithms
from adapter_lab.hosts.loading.verdicts import APPLY, verdict

ALL_REASONS = 10_000
READS_EMBEDDINGS = "a1111"  # and gives them to its prompts itself, from files of ours too


class LoaderSettings(Protocol):
    """What a person chose on the Settings page."""

    @property
    def enabled(self) -> bool:
        """Whether we load anything."""

    @property
    def every_file(self) -> bool:
        """Whether we load all adapter files, or only those the web UI alone gets wrong."""

    @property
    def verbosity(self) -> str:
        """ "quiet": warnings only; "normal": a line per file; "all": every module that was not applied."""

    @property
    def cache_bytes(self) -> int:
        """How many bytes of adapter files to keep in memory."""


@dataclass(frozen=True)
class Request:
    """One adapter a prompt asks for. path None: there is no such file."""

    name: str
    path: str | None
    te_strength: float = 1.0
    unet_strength: float = 1.0
    dyn: int | None = None


class Loader:
    """One per web UI process. `host` is its name in `verdict_table.HOSTS`, `step` tells the sampling step."""

    def __init__(self, settings: LoaderSettings, host: str, step: Callable[[], int] = lambda: 0) -> None:
        self.settings = settings
        self.host = host
        self.ledger = Ledger(step)
        self.cache = AdapterCache(lambda: settings.cache_bytes)
        self.bases = BaseModels()
        self._requests: list[Request] = []
        self._reports: dict[str, FileReport] = {}
        self._seen: dict[str, Signature | None] = {}
        self._chosen: tuple[bool, bool] | None = None

    def begin(self, requests: Sequence[Request]) -> bool:
        """Start a generation; whether the web UI must forget what it has applied and cached.

        It must where a file is new here or has changed on disk since it was last asked for, and when our own settings
        have changed. Reports of files that are still the same stay, as the web UI may then apply nothing again.
        """
        self._requests = list(requests)
        now = {request.path: signature_of(request.path) for request in requests if request.path is not None}
        changed = {path for path, signature in now.items() if self._seen.get(path, ()) != signature}
        self._seen.update(now)
        chosen = (self.settings.enabled, self.settings.every_file)
        forget = bool(changed) or (self._chosen is not None and chosen != self._chosen)
        self._chosen = chosen
        for path in changed:
            self._reports.pop(path, None)
        for request in requests:
            if request.path is None and chosen[0]:
                say(FileReport(request.name, "", refused=_missing(request.name)).line())
        self.cache.trim(now)
        self.ledger.keep(now.keys())
        return forget

    def takes(self, path: str, base: BaseModel | None) -> bool:
        """Whether this file is ours to load: always with "all adapter files", else where the web UI alone fails.

        Files of other formats, among them all pickles, stay the web UI's; broken files are ours, to be refused.
        """
        return bool(self.choose([path], base))

    def choose(self, paths: Collection[str], base: BaseModel | None, together: bool = False) -> set[str]:
        """Those of these files that are ours to load; `together`: all that can be as soon as one is."""
        mine = set(paths) if self.settings.enabled and base is not None else set()
        entries = {path: self.cache.get(path) for path in mine if Path(path).suffix.lower() == ".safetensors"}
        every = self.settings.every_file
        ours = {path for path, entry in entries.items() if base and self._is_ours(entry, base, every)}
        if together and ours:
            ours = {path for path, entry in entries.items() if base and self._is_ours(entry, base, all_files=True)}
        for path in set(paths) - ours:
            self._reports.pop(path, None)
        for path, entry in entries.items():
            entry.is_the_hosts = path not in ours
        return ours

    def tensors(self, path: str) -> dict[str, Tensor]:
        """All tensors of a file by key, for the web UI to use: from memory, so that they stay what they are.

        Raises FileFormatError if the file cannot be read or changes meanwhile.
        """
        return self.cache.get(path).tensors()

    def read_ahead(self, path: str) -> None:
        """Read and parse a file that the next generation asks for; what is wrong with it is said then. Any thread."""
        if self.settings.enabled:
            with suppress(AdapterLabError):
                self.cache.get(path).read_ahead()

    def _is_ours(self, entry: CachedFile, base: BaseModel, all_files: bool) -> bool:
        if entry.file is None:
            return not entry.foreign
        try:
            if verdict(entry.file, self.host, by_name=base.family is not None).outcome != APPLY or not entry.sound:
                return True
            if base.names is not None and any(base.only_the_web_ui_has(name) for name in entry.file.modules):
                return False
            # What the web UI would leave out without a word is ours, to be applied or named.
            left_out = bool(entry.matched(base).not_applied) or not base.names_all(entry.file.modules)
            return all_files or left_out or entry.is_spread(base)
        except Exception:  # `plan` says what it is
            return True

    def plan(self, path: str, base: BaseModel, dyn: int | None = None) -> Plan | None:
        """The patches of a file for a base, and a line about it on the console; None: refused, as the line says."""
        start = time.perf_counter()
        report = FileReport(self._name_of(path), path)
        self._reports[path] = report
        plan: Plan | None = None
        try:
            entry = self.cache.get(path)
            plan = entry.plan(base, dyn)
            assert entry.file is not None
            report.algorithms, report.total = algorithms(entry.file), len(entry.file.modules)
            report.applied, report.reasons = len(plan.modules), entry.reasons(base)
            report.remark = entry.remark(base)
            guessed = [name for name in sorted(plan.modules) if not entry.file.states_scale(name)]
            report.note = "".join(guessed_scale(guessed))
            if self.host != READS_EMBEDDINGS:
                report.reasons |= dict.fromkeys(entry.file.carried, "it reads no embeddings out of adapter files")
        except AdapterLabError as error:
            plan, report.refused = None, str(error)
        except Exception as error:  # a mistake of ours costs this file, not the image
            plan = None
            report.refused = f"{path} made Adapter Lab stumble ({type(error).__name__}: {error}); please report this."
        report.seconds = time.perf_counter() - start
        self._say(report)
        if plan is not None:
            self._watch(plan, report)
        return plan

    def refuse(self, path: str, sentence: str) -> None:
        """Say that a file could not be loaded, whoever tried."""
        self._reports[path] = FileReport(self._name_of(path), path, refused=sentence)
        self._say(self._reports[path])

    def reports(self) -> list[FileReport]:
        """What became of the files of the last `begin` that were ours, or are missing, in the prompt's order."""
        if not self.settings.enabled:
            return []
        found: dict[str, FileReport] = {}
        for request in self._requests:
            if request.path is None:
                found[request.name] = FileReport(request.name, "", refused=_missing(request.name))
            elif request.path in self._reports:
                found[request.path] = self._reports[request.path]
        return list(found.values())

    def finish(self) -> list[FileReport]:
        """`reports` when an image is made; says what its weights got other than asked, once while it is the same."""
        found = self.reports()
        for report in found:
            if report.differs and report.said != report.summary():
                report.said = report.summary()
                if report.lost or self.settings.verbosity != "quiet":
                    say(report.warning() or report.said)
        return found

    def _watch(self, plan: Plan, report: FileReport) -> None:
        """Let the strengths that its weights get, and modules that fail meanwhile, reach the report."""
        report.patched = self.ledger.open(report.path, plan)
        report.patched.asked = lambda part: self._asked(report.path, part)

        def failed(module: str, reason: str) -> None:
            if report.fail(module, reason):
                say(f"{report.name}: {module} was not applied: {reason}.")

        for patch in plan.patches.values():
            patch.on_failure = failed

    def _asked(self, path: str, part: str) -> float | None:
        """The strength the prompt gives a part of the model; None if it has another prompt by now."""
        strengths = [
            request.unet_strength if part == "unet" else request.te_strength
            for request in self._requests
            if request.path == path
        ]
        return sum(strengths) if strengths else None

    def _name_of(self, path: str) -> str:
        return next((request.name for request in self._requests if request.path == path), Path(path).stem)

    def _say(self, report: FileReport) -> None:
        verbosity = self.settings.verbosity
        warning = report.warning(ALL_REASONS) if verbosity == "all" else report.warning()
        if verbosity != "quiet" and not report.refused:
            say(report.line())
        if warning is not None and not report.complete:
            say(warning)


def _missing(name: str) -> str:
    return f"There is no adapter called {name}; check its name in the prompt."
