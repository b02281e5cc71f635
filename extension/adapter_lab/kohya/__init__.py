"""Import of kohya sd-scripts' TOML files and of the kohya_ss GUI's JSON files, with what was not carried over and why.

Settings that a file leaves out have sd-scripts' default there, so they get that value here where it changes the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapter_lab.config import TrainConfig
from adapter_lab.config_file import read_text
from adapter_lab.errors import ConfigError
from adapter_lab.kohya import gui
from adapter_lab.kohya.dataset import import_dataset_file, import_folders, list_the_rest
from adapter_lab.kohya.foreign import refuse_foreign
from adapter_lab.kohya.network import import_network
from adapter_lab.kohya.optimizer import import_optimizer
from adapter_lab.kohya.reading import Keys, LeftOut, about, flat, tables_of
from adapter_lab.kohya.repair import make_valid
from adapter_lab.kohya.schedule import import_schedule
from adapter_lab.kohya.table import GUI, NETWORK_ARGS, OPTIONS, UNKNOWN, row_of
from adapter_lab.kohya.training import import_training
from adapter_lab.validation import problems, without_ignored

__all__ = ["Imported", "LeftOut", "import_kohya", "import_texts"]


@dataclass
class Imported:
    """A configuration made from kohya's files, and what they said that it does not."""

    config: TrainConfig
    left_out: list[LeftOut] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)  # settings that had no effect there either
    missing: list[str] = field(default_factory=list)  # what a training still needs, which the files do not say


def import_kohya(*paths: Path) -> Imported:
    """The configuration in a training file (TOML, or the GUI's JSON), a dataset file, or one of each.

    The dataset file and the sample prompts that a training file names are read too. Raises ConfigError for files that
    are neither, and for networks or optimisers that cannot be trained here.
    """
    return import_texts({str(path): read_text(path) for path in paths}, lambda name: _named_file(name, paths))


def import_texts(files: Mapping[str, str], named: Callable[[str], str | None]) -> Imported:
    """As `import_kohya`, of files' texts by their names.

    `named` gives the text of a file that the training file names, or None where it is not to be had.
    """
    training: dict[str, Any] = {}
    dataset: dict[str, Any] | None = None
    names = {"dataset": "", "training": ""}
    for name, text in files.items():
        tables = tables_of(text, name)
        refuse_foreign(tables, name)
        if "datasets" in tables:
            dataset, names["dataset"] = tables, name
        else:
            training.update(flat(tables))
            names["training"] = " and ".join(filter(None, (names["training"], name)))
    if not training and dataset is None:
        raise ConfigError(f"{', '.join(files)} holds no settings, so there is nothing to import.")
    _refuse_unknown(training, names["training"])
    spelled: Mapping[str, str] = {}
    with about(names["training"]):
        if gui.is_gui_file(training):
            training, spelled = gui.as_scripts(training), gui.SPELLED
        config, keys = TrainConfig(), Keys(training, spelled=spelled)
        wanted = keys.text("dataset_config")
    beside = named(wanted) if wanted and dataset is None else None
    if beside is not None:
        dataset, names["dataset"] = tables_of(beside, wanted), wanted
    if wanted and dataset is None:
        keys.note("dataset_config", wanted, "this file was not given; import it together with the training file")
    if dataset is not None:
        for key in ("train_data_dir", "reg_data_dir"):
            keys.leave(key, "the dataset file names the folders")
        # What the dataset file leaves out may come from the training file.
        with about(" with ".join(filter(None, names.values()))):
            import_dataset_file(config, dataset, keys)
    with about(names["training"] or names["dataset"]):
        if dataset is None:
            import_folders(config, keys)
        import_training(config, keys, named)
        if names["training"]:
            _say_default_network(keys)
        import_network(config, keys)
        import_optimizer(config, keys)
        import_schedule(config, keys)
        list_the_rest(keys)
        config, ignored = without_ignored(config)
        make_valid(config, keys)
    missing = [problem.message for problem in problems(config)]
    return Imported(config, keys.left_out, ignored, missing)


def _refuse_unknown(training: Mapping[str, Any], name: str) -> None:
    """Refuse a file none of whose settings any program of kohya's has."""
    if training and all(row_of(key, OPTIONS, GUI, NETWORK_ARGS) is UNKNOWN for key in training):
        raise ConfigError(f"{name} holds no setting of kohya's sd-scripts or the kohya_ss GUI; check which file it is.")


def _say_default_network(keys: Keys) -> None:
    """A training file without a word about the network is one for another script more often than for a default LoRA."""
    if not {"network_module", "network_dim", "network_alpha", "network_args"} & set(keys.values):
        keys.note("network_module", None, "not given: a LoRA of dim 4, sd-scripts' default; check that this was meant")


def _named_file(name: str, paths: Sequence[Path]) -> str | None:
    wanted = Path(name)
    # A file that came from another machine names a place there; what it names usually lies beside it.
    for path in (wanted, *(path.parent / wanted.name for path in paths)):
        try:
            if path.is_file():
                return read_text(path)
        except OSError:  # no path that this system can have
            return None
    return None
