"""What is wrong with a configuration: types, ranges, contradictions, and settings that nothing would use."""

from __future__ import annotations

import copy
import difflib
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import Field, dataclass, fields, is_dataclass
from functools import cache
from typing import Any, get_args, get_origin

from adapter_lab import library_optimizers
from adapter_lab.algorithms import LOW_RANK, SPELLINGS
from adapter_lab.config import (
    AVERAGING,
    OPTIMIZERS,
    PRODIGIES,
    SCHEDULE_FREE,
    LossConfig,
    NetworkConfig,
    TrainConfig,
    default_of,
    number_of,
    sections,
    settings,
    shown_choices,
    shown_optimizers,
    too_long,
    trained_network,
    trained_parts,
    type_of,
    words_of,
)
from adapter_lab.errors import SHOWN, ConfigError, shown
from adapter_lab.families import BASES, Family
from adapter_lab.jsonio import LARGEST
from adapter_lab.prospects import prospects
from adapter_lab.sample_prompts import prompt_advice

# Bytes of a name; those of files go on with steps and an ending, and file systems take 255.
LONGEST_NAME = 160
# Devices of Windows, which has no files of these names with any ending.
RESERVED = frozenset(
    {"CON", "PRN", "AUX", "NUL", *(f"{device}{number}" for device in ("COM", "LPT") for number in range(1, 10))}
)


@dataclass(frozen=True)
class Problem:
    """One thing wrong: the setting ("network.factor", "network.rules[0].dim") and a sentence that names it."""

    setting: str
    message: str


def validate(config: TrainConfig, complete: bool = True) -> list[str]:
    """Raise ConfigError with every problem of `config`; returns advice on what is allowed but rarely meant.

    `complete`: also ask for what a run needs and a prediction does not: checkpoint, images and budget.
    """
    found = problems(config, complete)
    if len(found) == 1:
        raise ConfigError(found[0].message)
    if found:
        lines = "\n".join(f"- {problem.message}" for problem in found)
        raise ConfigError(f"{len(found)} settings need a change:\n{lines}")
    return advice(config)


def problems(config: TrainConfig, complete: bool = True) -> list[Problem]:
    """Everything wrong with `config`, in the order of the form; nothing is raised."""
    found = list(_value_problems(config))
    if found:  # further checks may rely on types and choices
        return found
    found = [Problem(f"{s}.{n}", reason) for s, n, reason in _ignored(config)]
    found += [problem for check in CHECKS for problem in check(config)]
    if complete:
        found += _incomplete(config)
    order = [section for section, _ in sections()]
    return sorted(found, key=lambda problem: order.index(problem.setting.split(".")[0]))


def without_ignored(config: TrainConfig) -> tuple[TrainConfig, list[str]]:
    """A copy in which every ignored setting has its default again, and a sentence for each such setting."""
    config, dropped = copy.deepcopy(config), []
    # Setting one back can leave another without what it needs, such as conv_alpha without conv_dim.
    while ignored := list(_ignored(config)):
        for section, name, reason in ignored:
            setattr(getattr(config, section), name, default_of(_field(section, name)))
            dropped.append(reason)
    for index, rule in enumerate(config.network.rules):
        defaults = {entry.name: default_of(entry) for entry in fields(rule)}
        for name, reason in list(_ignored_in_rule(config.network, rule, f"network.rules[{index}]")):
            setattr(rule, name, defaults[name])
            dropped.append(reason)
    return config, dropped


# Types, ranges and choices


def _value_problems(config: TrainConfig) -> Iterator[Problem]:
    for section, owner in sections():
        yield from dataclass_problems(section, getattr(config, section), owner)


def dataclass_problems(where: str, value: Any, owner: type) -> Iterator[Problem]:
    """What is wrong with the types and ranges of the settings in a dataclass, each named from `where`."""
    if not isinstance(value, owner):
        yield Problem(where, f"{where} must hold settings, but is {shown(value)}.")
        return
    for entry in fields(owner):
        name = f"{where}.{entry.name}"
        for message in _problems_of(name, getattr(value, entry.name), type_of(owner, entry.name), entry):
            yield message if isinstance(message, Problem) else Problem(name, message)


def _problems_of(name: str, value: Any, kind: Any, entry: Field[Any]) -> Iterator[str | Problem]:
    if get_origin(kind) is list:
        (item_kind,) = get_args(kind)
        if not isinstance(value, list):
            yield f"{name} must be a list, but is {shown(value)}."
            return
        if too_long(value):
            yield f"{name} {too_long(value)}"
            return
        for index, item in enumerate(value):
            item_name = f"{name}[{index}]"
            if is_dataclass(item_kind):
                yield from dataclass_problems(item_name, item, item_kind)  # type: ignore[arg-type]
            else:
                yield from _problems_of(item_name, item, item_kind, entry)
        return
    words, kind = words_of(kind), number_of(kind)
    if isinstance(value, str) and value in words:
        return
    if not _is_a(value, kind):
        yield f"{name} must be {' or '.join((TYPE_NAMES[kind], *words))}, but is {shown(value)}."
        return
    if too_long(value):
        yield f"{name} {too_long(value)}"
        return
    if type(value) is int and not -LARGEST < value < LARGEST:
        yield f"{name} must lie between -2^63 and 2^63, but is {shown(value)}."
        return
    yield from _range_problems(name, value, entry)


def _range_problems(name: str, value: Any, entry: Field[Any]) -> Iterator[str]:
    choices, low, high = (entry.metadata[key] for key in ("choices", "minimum", "maximum"))
    unit = f" {entry.metadata['unit']}" if entry.metadata["unit"] else ""
    if choices is OPTIMIZERS and value in library_optimizers.REFUSED:
        yield f"{name} is {value}, which cannot train adapters: {library_optimizers.REFUSED[value]}; choose another."
    elif choices is not None and value not in choices:
        near = difflib.get_close_matches(str(value)[:SHOWN], choices, n=1)
        hint = OTHER_WORDS.get(str(value).lower(), f"; did you mean {near[0]}?" if near else ".")
        yield f"{name} is {shown(value)}, but must be one of {', '.join(filter(None, shown_choices(entry)))}{hint}"
    elif low is not None and value < low:
        yield f"{name} is {value}{unit}, but must be at least {low}{unit}."
    elif high is not None and value > high:
        yield f"{name} is {value}{unit}, but must be at most {high}{unit}."


# Names that other trainers use for one of our choices.
OTHER_WORDS = {
    "locon": "; LoCon is lora with conv_dim above 0.",
    "dora": "; DoRA is an option, network.dora, of lora, loha, lokr and glora.",
    **{spelling: f"; did you mean {algorithm}?" for spelling, algorithm in SPELLINGS.items()},
    "l2": "; did you mean mse?",
}

TYPE_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def _is_a(value: Any, kind: type) -> bool:
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    if kind is float:
        return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    return isinstance(value, kind)


# Settings without effect


def algorithms_in_use(network: NetworkConfig) -> tuple[str, ...]:
    """The network's algorithm and those of its rules, without repeats."""
    named = [network.algo, *(rule.algo for rule in network.rules)]
    return tuple(dict.fromkeys(algo for algo in named if algo not in ("", "none")))


def ignored_because(config: TrainConfig, section: str, name: str) -> str | None:
    """Why a setting has no effect beside the others, as a sentence; None where it has one."""
    entry, full = _field(section, name), f"{section}.{name}"
    used = algorithms_in_use(config.network)
    users = entry.metadata["algorithms"]
    if users is not None and used and not set(users) & set(used):
        return _misfit(full, users, used, "algo")
    users = entry.metadata["optimizers"]
    if users is not None and config.optimizer.name not in users:
        return _misfit(full, shown_optimizers(entry), (config.optimizer.name,), "optimizer")
    if section == "network" and name in WHOLE_MATRIX_IGNORES and used == ("lokr",) and config.network.full_matrix:
        return f"{full} has no effect with network.full_matrix: remove one of them."
    for condition in entry.metadata["needs"]:
        if not any(_holds(config, part) for part in condition.split(" or ")):
            return f"{full} has no effect without {_spoken(condition)}: add that or remove {full}."
    family = BASES.get(config.base.family)
    return without_effect(family, full) if family and full in family.without else None


def without_effect(family: Family, setting: str) -> str:
    """A sentence on a setting that a family's models have nothing for."""
    return f"{setting} has no effect on {family.title}, whose models have nothing for it: remove it."


WHOLE_MATRIX_IGNORES = ("dim", "alpha", "conv_alpha", "tucker", "decompose_both", "rs_lora", "rank_dropout")


def _ignored(config: TrainConfig) -> Iterator[tuple[str, str, str]]:
    """(section, name, reason) of every setting that differs from its default and has no effect."""
    for (section, name), entry in _by_path().items():
        if getattr(getattr(config, section), name) != default_of(entry):
            reason = ignored_because(config, section, name)
            if reason is not None:
                yield section, name, reason


def _misfit(name: str, users: tuple[str, ...], used: tuple[str, ...], what: str) -> str:
    ignores = "ignores" if len(used) == 1 else "ignore"
    choose = f"{what} {users[0]}" if len(users) == 1 else f"one of these as {what}"
    return f"{name} is used by {_and(users)} only; {_and(used)} {ignores} it: remove it or choose {choose}."


def _and(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def _holds(config: TrainConfig, condition: str) -> bool:
    path, _, wanted = condition.partition("=")
    section, name = path.split(".")
    value = getattr(getattr(config, section), name)
    return value in wanted.split("|") if wanted else bool(value)


def _spoken(condition: str) -> str:
    return re.sub(r"=(\S+)", lambda found: f" {found[1].replace('|', ' or ')}", condition)


@cache
def _by_path() -> dict[tuple[str, str], Field[Any]]:
    return {(section, name): entry for section, name, entry in settings()}


def _field(section: str, name: str) -> Field[Any]:
    try:
        return _by_path()[section, name]
    except KeyError:
        raise ConfigError(f"There is no setting {section}.{name}.") from None


# Settings against each other


def unused_by(family: Family, config: TrainConfig) -> list[str]:
    """Sentences on settings that differ from their defaults and that a base of this family has nothing for."""
    found = []
    for full in family.without:
        section, name = full.split(".")
        if getattr(getattr(config, section), name) != default_of(_field(section, name)):
            found.append(without_effect(family, full))
    network = config.network
    if not family.convolutions and network.algo in ("lora", "t-lora") and (network.conv_dim or network.train_conv):
        found.append(
            f"{family.title} has no convolutions, which is all that LoCon trains beside LoRA's layers: this is a LoRA."
        )
    return found


def _nothing_trained(config: TrainConfig) -> Iterator[Problem]:
    n = config.network
    trained = trained_network(config)
    if any(trained_parts(n).values()) and not any(trained_parts(trained).values()):
        yield Problem(
            "optimizer.lr",
            f"The learning rate of everything that would be trained is 0 (optimizer.lr is {_shown(config.optimizer.lr)}"
            "), so nothing would be trained: take auto for the optimiser's usual rate.",
        )
    if not (n.train_unet or n.train_te or n.train_conditioner):
        yield Problem(
            "network.train_unet", "network.train_unet and network.train_te are both off, so nothing would be trained."
        )
    if n.train_te and not (n.train_te1 or n.train_te2):
        yield Problem(
            "network.train_te",
            "network.train_te is on, but train_te1 and train_te2 are both off: turn one on or remove train_te.",
        )
    convolutions = n.train_unet and (n.conv_dim or n.train_conv)
    if not (n.attention or n.feed_forward or (n.projections and n.train_unet) or convolutions or n.train_norm):
        yield Problem(
            "network.attention",
            "network.attention, feed_forward and projections are all off and no convolution is trained: turn one on.",
        )


def _rules(config: TrainConfig) -> Iterator[Problem]:
    for index, rule in enumerate(config.network.rules):
        where = f"network.rules[{index}]"
        if not rule.match.strip():
            yield Problem(where, f"{where}.match is empty: give a pattern such as lora_unet_*attn1*.")
        for name, reason in _ignored_in_rule(config.network, rule, where):
            yield Problem(f"{where}.{name}", reason)


def _ignored_in_rule(network: NetworkConfig, rule: Any, where: str) -> Iterator[tuple[str, str]]:
    algo = rule.algo or network.algo
    for entry in fields(rule):
        if entry.name in ("match", "algo") or getattr(rule, entry.name) == default_of(entry):
            continue
        # A rule's dim, alpha and factor are used by the algorithms that use the network's.
        owner = {own.name: own for own in fields(NetworkConfig)}.get(entry.name)
        users = owner.metadata["algorithms"] if owner else None
        if algo == "none":
            yield entry.name, f"{where}.{entry.name} has no effect with algo none: remove it."
        elif users is not None and algo not in users:
            yield entry.name, _misfit(f"{where}.{entry.name}", users, (algo,), "algo")


def _starts(config: TrainConfig) -> Iterator[Problem]:
    """A limit of norms, which would scale what is trained but not what is subtracted of it."""
    if config.network.init != "usual" and config.network.max_norm > 0:
        yield Problem(
            "network.max_norm",
            f"network.max_norm does not go with network.init {config.network.init}: set one of them back.",
        )


def _alphas(config: TrainConfig) -> Iterator[Problem]:
    """An alpha of 0 where an algorithm uses it."""
    instead = {"alpha": "dim for an update that is not scaled", "conv_alpha": "same for that of network.alpha"}
    for name, words in instead.items():
        if getattr(config.network, name) == 0 and ignored_because(config, "network", name) is None:
            yield _zero_alpha(f"network.{name}", words)
    for index, rule in enumerate(config.network.rules):
        if rule.alpha == 0 and (rule.algo or config.network.algo) in LOW_RANK:
            yield _zero_alpha(f"network.rules[{index}].alpha", instead["conv_alpha"])


def _zero_alpha(name: str, instead: str) -> Problem:
    return Problem(name, f"{name} is 0, which scales the whole update to 0: take {instead}, or a number above 0.")


def _ranges(config: TrainConfig) -> Iterator[Problem]:
    loss, data = config.loss, config.dataset
    if loss.timestep_min > loss.timestep_max:
        yield Problem(
            "loss.timestep_min",
            f"loss.timestep_min {loss.timestep_min} is above loss.timestep_max {loss.timestep_max}: swap them.",
        )
    if data.bucket_min and data.bucket_max and data.bucket_min > data.bucket_max:
        yield Problem(
            "dataset.bucket_min",
            f"dataset.bucket_min {data.bucket_min} is above dataset.bucket_max {data.bucket_max}: swap them.",
        )
    if len(config.optimizer.betas) != 2 or not all(0 <= beta < 1 for beta in config.optimizer.betas):
        yield Problem(
            "optimizer.betas",
            f"optimizer.betas is {config.optimizer.betas}, but must be two numbers from 0 to below 1.",
        )


def _multiples_of_8(config: TrainConfig) -> Iterator[Problem]:
    for section, name in (
        ("dataset", "resolution"),
        ("dataset", "bucket_step"),
        ("preview", "width"),
        ("preview", "height"),
    ):
        yield from _multiple_of_8(f"{section}.{name}", getattr(getattr(config, section), name))
    for index, source in enumerate(config.dataset.sources):
        if not isinstance(source.resolution, str):
            yield from _multiple_of_8(f"dataset.sources[{index}].resolution", source.resolution)


def _multiple_of_8(name: str, value: int) -> Iterator[Problem]:
    if value % 8:
        yield Problem(
            name,
            f"{name} is {value} px, but must be a multiple of 8, the side of one latent value: "
            f"take {round(value / 8) * 8 or 8}.",
        )


def _schedule(config: TrainConfig) -> Iterator[Problem]:
    o = config.optimizer
    if o.name in SCHEDULE_FREE and o.schedule != "constant":
        yield Problem(
            "optimizer.schedule",
            f"optimizer.schedule is {o.schedule}, but {o.name} averages instead of decaying its rate: choose constant.",
        )
    if o.name in library_optimizers.NAMES:
        for sentence in library_optimizers.arguments(o.name, o.args)[1]:
            yield Problem("optimizer.args", f"optimizer.args: {sentence}")
    if o.warmup_steps and o.warmup_ratio:
        yield Problem(
            "optimizer.warmup_ratio",
            "optimizer.warmup_steps and optimizer.warmup_ratio are two lengths of one warm-up: set one of them to 0.",
        )


def _averages(config: TrainConfig) -> Iterator[Problem]:
    name = config.optimizer.name
    if config.save.ema > 0 and name in AVERAGING:
        yield Problem(
            "save.ema",
            f"save.ema has no use with {name}, which saves an average of its own: set it to 0.",
        )
    if config.loss.min_snr_gamma > 0 and config.loss.debiased:
        yield Problem(
            "loss.debiased",
            "loss.min_snr_gamma and loss.debiased weight the same thing in two ways: choose one of them.",
        )


# Weightings that are made for diffusion.
BY_SNR = ("min_snr_gamma", "debiased", "v_as_epsilon", "v_like")


def useless_weighting(prediction: str, loss: LossConfig) -> list[Problem]:
    """Weightings that do nothing on a base that predicts `prediction` ("auto": not known yet)."""
    found = []
    if loss.v_as_epsilon and prediction == "epsilon":
        sentence = "loss.v_as_epsilon is for v-prediction, but the base predicts epsilon: remove it."
        found.append(Problem("loss.v_as_epsilon", sentence))
    if prediction == "flow":
        for name in BY_SNR:
            if getattr(loss, name):
                sentence = f"loss.{name} weighs by the noise of diffusion, but the base is a rectified flow: remove it."
                found.append(Problem(f"loss.{name}", sentence))
    if loss.v_like > 0 and prediction == "v_prediction":
        sentence = "loss.v_like is for bases that predict epsilon, but this one predicts v: set it to 0."
        found.append(Problem("loss.v_like", sentence))
    return found


def _weighting(config: TrainConfig) -> Iterator[Problem]:
    yield from useless_weighting(config.base.prediction, config.loss)


def is_reserved(name: str) -> bool:
    """Whether Windows keeps a file name for a device, whatever its ending."""
    return name.split(".")[0].strip().upper() in RESERVED


def _names(config: TrainConfig) -> Iterator[Problem]:
    name = config.run.name
    # Hosts write adapters as <lora:name:strength>, and Windows allows none of these in a file name.
    if not name.strip() or re.search(r'[\\/:*?"<>|\x00-\x1f]', name) or name != name.strip(" ."):
        yield Problem(
            "run.name",
            f'run.name is {shown(name)}, but must be a plain file name, without any of \\ / : * ? " < > | and without '
            "spaces or dots at its ends.",
        )
    elif is_reserved(name):
        yield Problem("run.name", f"run.name is {shown(name)}, a name that Windows keeps for itself: choose another.")
    elif len(name.encode("utf-8", "replace")) > LONGEST_NAME:
        yield Problem("run.name", f"run.name has {len(name)} letters, too many for the names of its files: shorten it.")
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", config.precision.device):
        yield Problem(
            "precision.device",
            f"precision.device is {shown(config.precision.device)}, but must be auto, cpu, cuda, cuda:N or mps.",
        )
    for index, source in enumerate(config.dataset.sources):
        if not source.folder.strip():
            yield Problem(
                f"dataset.sources[{index}].folder", f"dataset.sources[{index}].folder is empty: name a folder."
            )
    for index, adapter in enumerate(config.network.frozen_adapters):
        if not adapter.strip():
            yield Problem(
                f"network.frozen_adapters[{index}]", f"network.frozen_adapters[{index}] is empty: name an adapter file."
            )


CHECKS: tuple[Callable[[TrainConfig], Iterator[Problem]], ...] = (
    _nothing_trained,
    _rules,
    _starts,
    _alphas,
    _ranges,
    _multiples_of_8,
    _schedule,
    _averages,
    _weighting,
    _names,
)


def _incomplete(config: TrainConfig) -> Iterator[Problem]:
    if not config.base.checkpoint.strip():
        yield Problem(
            "base.checkpoint", "base.checkpoint is empty: name a checkpoint file or a diffusers folder to train on."
        )
    if not config.dataset.folder.strip() and not config.dataset.sources:
        yield Problem("dataset.folder", "dataset.folder is empty: name the folder of images to learn from.")
    if not (config.run.steps or config.run.epochs or config.run.minutes):
        yield Problem(
            "run.steps", "The run has no end: set at least one of run.steps, run.epochs and run.minutes above 0."
        )


# Allowed, but rarely meant


def clip_skip_advice(family: str, clip_skip: int) -> str:
    """What to say about `base.clip_skip` on a base of `family` (of `BASES`); "" for what is usual there."""
    if family not in BASES or BASES[family].family != "sdxl" or clip_skip in (0, 2):
        return ""
    return (
        f"base.clip_skip is {clip_skip}, but SDXL was trained on the last layer but one, which sd-scripts and web UIs "
        "read: there the adapter would meet other encodings than it was trained on. Set it to 0."
    )


def advice(config: TrainConfig, steps_per_epoch: int = 0) -> list[str]:
    """Sentences about settings that are allowed but that people seldom mean.

    `steps_per_epoch`: optimiser steps, for what a budget of epochs comes to; 0: not known.
    """
    o, found = config.optimizer, _parts_at_rest(config)
    found += prompt_advice(config.preview.prompts)
    if sentence := clip_skip_advice(config.base.family, config.base.clip_skip):
        found.append(sentence)
    # What is smaller by far is no matter of taste, and is among the prospects.
    if o.name in PRODIGIES and o.lr != "auto" and o.lr >= 0.1 and o.lr != 1.0:
        found.append(
            f"optimizer.lr is {_shown(o.lr)}; {o.name} finds its rate itself and expects 1: change d_coef to learn "
            "faster or slower."
        )
    if o.name == "prodigy" and o.schedule == "cosine-restarts":
        found.append(
            "optimizer.schedule is cosine-restarts; Prodigy's estimate does not follow a rate that rises again: "
            "constant or cosine suit it."
        )
    network = config.network
    if network.algo in ("lora", "loha", "glora") and network.alpha != "dim" and network.alpha > 2 * network.dim:
        found.append(
            f"network.alpha {network.alpha:g} is more than twice network.dim {network.dim}: updates are scaled up, "
            "which often diverges."
        )
    return found + prospects(config, steps_per_epoch)


def _lacks(config: TrainConfig, setting: str) -> bool:
    return config.base.family in BASES and setting in BASES[config.base.family].without


def _parts_at_rest(config: TrainConfig) -> list[str]:
    """A sentence for each part that is on and whose learning rate is 0."""
    n, moved = config.network, trained_network(config)
    second = n.train_te2 and not _lacks(config, "network.train_te2")
    parts = [
        ("the UNet", "optimizer.lr", n.train_unet and not moved.train_unet),
        ("the first text encoder", "optimizer.te1_lr", n.train_te and n.train_te1 and not moved.train_te1),
        ("the second text encoder", "optimizer.te2_lr", n.train_te and second and not moved.train_te2),
        ("the text conditioner", "optimizer.conditioner_lr", n.train_conditioner and not moved.train_conditioner),
    ]
    return [
        f"The learning rate of {what} is 0 ({setting}), so it is not trained and the file has no modules for it."
        for what, setting, at_rest in parts
        if at_rest
    ]


def _shown(value: float | str) -> str:
    """A number or a word as people write it."""
    return value if isinstance(value, str) else f"{value:g}"
