"""Import of kohya sd-scripts' TOML files, with a list of what was not carried over and why.

Settings that a file leaves out have sd-scripts' default there, so they get that value here where it changes the result.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from adapter_lab.config import TrainConfig
from adapter_lab.config_file import read_toml
from adapter_lab.errors import ConfigError
from adapter_lab.kohya.dataset import import_dataset_file, import_folders
from adapter_lab.kohya.network import import_network
from adapter_lab.kohya.optimizer import import_optimizer, import_schedule
from adapter_lab.kohya.reading import Keys, LeftOut, flat
from adapter_lab.kohya.training import import_training, list_the_rest
from adapter_lab.validation import without_ignored

__all__ = ["Imported", "LeftOut", "import_kohya"]


@dataclass
class Imported:
    """A configuration made from kohya's files, and what they said that it does not."""

    config: TrainConfig
    left_out: list[LeftOut] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)  # settings that had no effect there either


def import_kohya(*paths: Path) -> Imported:
    """The configuration in a training file, a dataset file, or one of each.

    A training file's `dataset_config` is read too. Raises ConfigError for files that are neither, and for networks or
    optimisers that cannot be trained here.
    """
    training: dict[str, object] = {}
    dataset: dict[str, object] | None = None
    for path in paths:
        tables = read_toml(path)
        if "datasets" in tables:
            dataset = tables
        else:
            training.update(flat(tables))
            dataset = dataset or _named_dataset(training, path)
    if not training and dataset is None:
        raise ConfigError(f"{', '.join(map(str, paths))} holds no settings, so there is nothing to import.")
    config, keys = TrainConfig(), Keys(training)
    if dataset is not None:
        for key in ("train_data_dir", "reg_data_dir"):
            keys.leave(key, "the dataset file names the folders")
        import_dataset_file(config, dataset, keys)
    else:
        import_folders(config, keys)
    import_training(config, keys)
    import_network(config, keys)
    import_optimizer(config, keys)
    import_schedule(config, keys)
    list_the_rest(keys)
    config, ignored = without_ignored(config)
    return Imported(config, keys.left_out, ignored)


def _named_dataset(training: dict[str, object], path: Path) -> dict[str, object] | None:
    name = training.pop("dataset_config", None)
    if not name:
        return None
    wanted = Path(str(name))
    beside = path.parent / wanted.name
    # A file that came from another machine names a place there; its dataset file usually lies beside it.
    return read_toml(wanted if wanted.exists() or not beside.exists() else beside)
