"""Whether a saved state may be gone on with: what has changed since, by name, and what of it a person may accept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from adapter_lab import files, jsonio
from adapter_lab.config import TrainConfig, default_of, type_of
from adapter_lab.errors import AdapterLabError
from adapter_lab.runs.run_folder import RunFolder
from adapter_lab.training.dataset import Dataset
from adapter_lab.training.dataset.changes import contents, differences
from adapter_lab.training.output.checkpoint import TrainingState
from adapter_lab.training.output.saving import PICTURES
from adapter_lab.upgrades import changed_settings

# What people are told of the part of a state's fingerprint that they may accept a change of.
IMAGES = "the images or captions"


def remember_pictures(folder: RunFolder, dataset: Dataset) -> None:
    """Write down which images and captions the run is trained on."""
    found = {"fingerprint": dataset.fingerprint, "pictures": contents(dataset)}
    files.write_json(folder.pictures, found, sync=False)


def check_state(
    state: TrainingState,
    present: Mapping[str, Any],
    folder: RunFolder,
    dataset: Dataset,
    accepted: bool,
    last: Path | None,
) -> str:
    """Raise AdapterLabError naming what has changed since `state` was saved, or give a sentence on what was accepted.

    `accepted`: changes of images and captions are. `last`: the newest adapter file, for a new run to start from.
    """
    changed = [name for found in (_changed(*entry, state.fingerprint) for entry in present.items()) for name in found]
    if not changed:
        return ""
    acceptable = changed == [PICTURES]
    if PICTURES in changed:
        known = _remembered(folder.pictures)
        found = ", ".join(differences(known.get("pictures", {}), contents(dataset)))
        # Or accepted before, by a session that saved no state of its own.
        if acceptable and (accepted or known.get("fingerprint") == dataset.fingerprint):
            return (
                f"The images or captions are not those of step {state.step} any more{found and f': {found}'}. As "
                "accepted, the run goes on with them; it is no longer, bit for bit, the run that it would have been."
            )
        changed[changed.index(PICTURES)] = f"{IMAGES} ({found})" if found else IMAGES
    accept = (
        f", accept it (tick that when resuming, or `adapter-lab resume {folder.path} --accept-pictures`)"
        if acceptable
        else ""
    )
    afresh = f" with network.start_from = {last}" if last else ""
    raise AdapterLabError(
        f"The run in {folder.path} cannot be resumed, because since it was saved there was a change of "
        f"{', '.join(changed)}; put it back as it was{accept}, or start a new run{afresh}."
    )


def _changed(name: str, value: Any, stored: Mapping[str, Any]) -> list[str]:
    """What of a part of the fingerprint is not as it was stored."""
    if not isinstance(value, dict):
        return [] if stored.get(name) == value else [name]
    section = name.rpartition(" ")[2]
    owner = type_of(TrainConfig, section)
    present = {entry.name: (value[entry.name], default_of(entry)) for entry in fields(owner)}
    return changed_settings(section, stored.get(name), present)


def _remembered(path: Path) -> dict[str, Any]:
    """What `remember_pictures` wrote; runs of older releases have nothing."""
    try:
        known = jsonio.read(path)
    except (OSError, ValueError):
        return {}
    pictures = known.get("pictures") if isinstance(known, dict) else None
    whole = isinstance(pictures, dict) and all(isinstance(p, list) and len(p) == 3 for p in pictures.values())
    return known if whole else {}
