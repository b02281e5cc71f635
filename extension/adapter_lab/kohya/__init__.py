"""Import of kohya sd-scripts' TOML files and of the kohya_ss GUI's JSON files, with what was not carried over and why.

Settings that a file leaves out have sd-scripts' default there, so they get that value here where it changes the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from adapter_lab.config import TrainConfig
from adapter_lab.config_file import read_text
from adapter_lab.errors import ConfigError
from adapter_lab.kohya import gui
from adapter_lab.kohya.dataset import import_dataset_file, import_folders
from adapter_lab.kohya.network import import_network
from adapter_lab.kohya.optimizer import import_optimizer, import_schedule
from adapter_lab.kohya.reading import Keys, LeftOut, flat, tables_of
from adapter_lab.kohya.training import import_training, list_the_rest
from adapter_lab.validation import without_ignored

__all__ = ["Imported", "LeftOut", "import_kohya", "import_texts"]


@dataclass
class Imported:
    """A configuration made from kohya's files, and what they said that it does not."""

    config: TrainConfig
    left_out: list[LeftOut] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)  # settings that had no effect there either


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
    training: dict[str, object] = {}
    dataset: dict[str, object] | None = None
    for name, text in files.items():
        tables = tables_of(text, name)
        if "datasets" in tables:
            dataset = tables
        else:
            training.update(flat(tables))
    spelled: Mapping[str, str] = {}
    if gui.is_gui_file(training):
        training, spelled = gui.as_scripts(training), gui.SPELLED
    wanted = str(training.pop("dataset_config", None) or "")
    beside = named(wanted) if wanted and dataset is None else None
    if beside is not None:
        dataset = tables_of(beside, wanted)
    if not training and dataset is None:
        raise ConfigError(f"{', '.join(files)} holds no settings, so there is nothing to import.")
    config, keys = TrainConfig(), Keys(training, spelled=spelled)
    if wanted and dataset is None:
        keys.note("dataset_config", wanted, "this file was not given; import it together with the training file")
    if dataset is not None:
        for key in ("train_data_dir", "reg_data_dir"):
            keys.leave(key, "the dataset file names the folders")
        import_dataset_file(config, dataset, keys)
    else:
        import_folders(config, keys)
    import_training(config, keys, named)
    import_network(config, keys)
    import_optimizer(config, keys)
    import_schedule(config, keys)
    list_the_rest(keys)
    config, ignored = without_ignored(config)
    return Imported(config, keys.left_out, ignored)


def _named_file(name: str, paths: Sequence[Path]) -> str | None:
    wanted = Path(name)
    # A file that came from another machine names a place there; what it names usually lies beside it.
    found = (path for path in (wanted, *(path.parent / wanted.name for path in paths)) if path.is_file())
    path = next(found, None)
    return None if path is None else read_text(path)
