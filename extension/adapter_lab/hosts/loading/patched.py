"""What the live weights really got of each adapter file, written down as they are patched.

Between the patches we hand over and a weight stand other extensions: they take patches out, and give them strengths by
block or by step. So every report is made from here, by four kinds of entries:

- `WeightPatch.on_patched`, which `Ledger.open` sets, is called with a strength whenever a patch has been computed.
- `Ledger.patching(parts)` goes around what patches all weights of a model: patches that were not computed in it are no
  longer in the weights of these parts, however they got lost. The strengths of a file named twice add up in it.
- `Ledger.patched(key, strengths)` is the same for one weight, where a web UI patches layer by layer.
- `Ledger.without(parts, holds)` looks for patches that are gone where a web UI may compute weights later, or never.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from adapter_lab.hosts.loading.plan import Plan, WeightPatch

SAME = 1e-6  # strengths that differ by less are one


@dataclass
class History:
    """The strengths one weight was patched with in the current image, each with the sampling step it was for.

    None: the weight was patched without the file. Empty: it has not been patched yet.
    """

    part: str  # "unet", "te1" or "te2"
    modules: tuple[str, ...]  # of the file
    entries: list[tuple[int, float | None]] = field(default_factory=list)

    @property
    def strengths(self) -> list[float]:
        """Those it was patched with the file at, in order."""
        return [strength for _, strength in self.entries if strength is not None]

    def add(self, step: int, strength: float | None) -> None:
        """Another strength from this step on; what was noted for the same step was not used."""
        if self.entries and self.entries[-1][0] == step:
            self.entries.pop()
        if not self.entries or not _same(self.entries[-1][1], strength):
            self.entries.append((step, strength))

    def begin_picture(self) -> None:
        """Keep the strength the weight has now: it may be patched again before the first step, or stay."""
        self.entries = [(0, strength) for _, strength in self.entries[-1:]]


@dataclass
class Patched:
    """What became of one file's patches. `asked`: the strength the prompt gives each part, None if it is not known."""

    plan: Plan
    weights: dict[str, History]
    asked: Callable[[str], float | None] = lambda part: None

    def begin_picture(self) -> None:
        """Forget the last image's strengths but for those that are in the weights."""
        for history in self.weights.values():
            history.begin_picture()

    @property
    def is_known(self) -> bool:
        """Whether any of its weights has been patched since it was read."""
        return any(history.entries for history in self.weights.values())

    def lost(self) -> set[str]:
        """Modules that are in no weight though the prompt asks for them: something took their patches out."""
        asked = self._modules(lambda history: self.asked(history.part) != 0.0)
        return asked - self._modules(lambda history: not history.entries or bool(history.strengths))

    def without_effect(self) -> set[str]:
        """Modules that were at strength 0 for the whole image, or in no weight."""
        return self._modules(lambda history: True) - self._modules(
            lambda history: not history.entries or any(history.strengths)
        )

    def _modules(self, which: Callable[[History], bool]) -> set[str]:
        return {name for history in self.weights.values() if which(history) for name in history.modules}

    def remark(self) -> str:
        """How the strengths differ from the prompt's: "strength 0.6", "strength 0 to 1"; empty if they do not."""
        found = [history for history in self.weights.values() if history.strengths]
        if all(len(history.entries) == 1 and self._as_asked(history) for history in found):
            return ""
        over_time = {tuple(history.entries) for history in found if len(history.entries) > 1}
        strengths = [strength for history in found for strength in history.strengths]
        if len(over_time) == 1 and len(next(iter(over_time))) <= SHOWN:
            return _course(next(iter(over_time)), [h for h in found if len(h.entries) == 1 and not self._as_asked(h)])
        steps = sorted({step for entries in over_time for step, _ in entries[1:]})
        changes = f", changed {_times(steps)}" if steps else ""
        return f"strength {_range(strengths)}{changes}"

    def _as_asked(self, history: History) -> bool:
        asked = self.asked(history.part)
        return asked is None or _same(history.entries[-1][1], asked)


SHOWN = 4  # strengths, or steps, that are written out


class Ledger:
    """What the weights of the live model got of each file, by its path; `step` tells the current sampling step."""

    def __init__(self, step: Callable[[], int] = lambda: 0) -> None:
        self._step = step
        self._files: dict[str, Patched] = {}
        self._noted: list[dict[tuple[str, str], float]] = []  # of the passes that run, by path and key

    def open(self, path: str, plan: Plan) -> Patched:
        """Begin to note what becomes of a plan, or go on with it where this plan is in use already."""
        known = self._files.get(path)
        if known is not None and known.plan is plan:
            return known
        weights = {
            key: History(patch.part, tuple(module.name for module in patch.modules))
            for key, patch in plan.patches.items()
        }
        found = self._files[path] = Patched(plan, weights)
        for patch in plan.patches.values():
            patch.on_patched = self._noter(path)
        return found

    def keep(self, paths: Collection[str]) -> None:
        """Go on with these files only; what was noted of the others stays as it is."""
        self._files = {path: file for path, file in self._files.items() if path in paths}

    def _noter(self, path: str) -> Callable[[WeightPatch, float], None]:
        def note(patch: WeightPatch, strength: float) -> None:
            if self._noted:
                noted = self._noted[-1]
                noted[path, patch.key] = noted.get((path, patch.key), 0.0) + strength
            else:
                self._set(path, patch.key, strength)

        return note

    def _set(self, path: str, key: str, strength: float | None) -> None:
        file = self._files.get(path)
        if file is not None and key in file.weights:
            file.weights[key].add(self._step(), strength)

    @contextmanager
    def patching(self, *parts: str) -> Iterator[None]:
        """While all weights of these parts ("unet", "te1", "te2") are patched; no part: while some weight is.

        Nothing is noted of what ends in an error, since it is then tried once more. Passes may be nested.
        """
        noted: dict[tuple[str, str], float] = {}
        self._noted.append(noted)
        try:
            yield
        finally:
            self._noted.pop()
        if self._noted:
            outer = self._noted[-1]
            for each, strength in noted.items():
                outer[each] = outer.get(each, 0.0) + strength
            if not parts:
                return
        for path, file in self._files.items():
            for key, history in file.weights.items():
                if (path, key) in noted:
                    history.add(self._step(), noted[path, key])
                elif history.part in parts:
                    history.add(self._step(), None)

    def without(self, parts: Collection[str], holds: Callable[[WeightPatch], bool]) -> None:
        """Note which weights of these parts have no patch (`holds` tells): they are used as the base has them."""
        for file in self._files.values():
            for key, patch in file.plan.patches.items():
                if patch.part in parts and not holds(patch):
                    file.weights[key].add(self._step(), None)

    def gone(self, path: str) -> None:
        """Note that a file is in no weight: it has been unloaded."""
        for history in self._files[path].weights.values() if path in self._files else ():
            history.add(self._step(), None)

    def patched(self, key: str, strengths: Mapping[str, float]) -> None:
        """A weight was patched with these files (by path) and no others."""
        for path, file in self._files.items():
            if key in file.weights:
                file.weights[key].add(self._step(), strengths.get(path))


def _same(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) < SAME


def _range(strengths: Collection[float]) -> str:
    lowest, highest = min(strengths), max(strengths)
    return f"{highest:.3g}" if _same(lowest, highest) else f"{lowest:.3g} to {highest:.3g}"


def _course(entries: tuple[tuple[int, float | None], ...], others: Collection[History]) -> str:
    """ "strength 1, 0.2 from step 10"; `others` kept one strength that was not asked for."""
    (_, first), *rest = entries
    later = "".join(f", {strength or 0:.3g} from step {step}" for step, strength in rest)
    kept = [strength for history in others for strength in history.strengths]
    return f"strength {first or 0:.3g}{later}" + (f"; of other layers {_range(kept)}" if kept else "")


def _times(steps: list[int]) -> str:
    if len(steps) > SHOWN:
        return f"{len(steps)} times up to step {steps[-1]}"
    *most, last = steps
    return f"at step {last}" if not most else f"at steps {', '.join(map(str, most))} and {last}"
