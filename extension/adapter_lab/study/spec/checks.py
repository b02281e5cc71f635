"""What is wrong with a study, as far as it can be said without its base model; imports no torch."""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from adapter_lab.config import TrainConfig, default_of, settings
from adapter_lab.config_file import from_tables, raise_all
from adapter_lab.errors import shown
from adapter_lab.sample_prompts import FLAGS, read_prompt
from adapter_lab.study.spec import race_checks
from adapter_lab.study.spec.definition import DECIDED, SHARED, Study, Variant
from adapter_lab.validation import dataclass_problems, problems

LONGEST_VARIANT = 80
NO_NAME = re.compile(r"^\s*[=+\-@]|[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def settings_of(study: Study, variant: Variant) -> TrainConfig:
    """A variant's settings put on those that all share; raises ConfigError for what is not understood."""
    tables: dict[str, dict[str, Any]] = {}
    for path, value in variant.settings.items():
        section, name = path.split(".")
        tables.setdefault(section, {})[name] = copy.deepcopy(value)
    return from_tables(tables, variant.name, study.shared)


def check(study: Study) -> None:
    """Raise ConfigError with everything that is wrong with a study, whatever its base is."""
    raise_all("The study", [study.too_large()] if study.too_large() else [])
    problems = [
        problem.message
        for name, values in (("study", study.general), ("budget", study.budget), ("race", study.race))
        for problem in dataclass_problems(name, values, type(values))
    ]
    raise_all("The study", problems)
    raise_all(
        "The study",
        [*_budget_problems(study), *_name_problems(study), *_setting_problems(study), *race_checks.problems(study)],
    )


def _budget_problems(study: Study) -> list[str]:
    budget, problems = study.budget, []
    if budget.amount <= 0:
        problems.append(f"budget.amount is {budget.amount:g}, so nothing would be trained: set it above 0.")
    elif budget.unit == "steps" and (budget.amount % budget.points or budget.amount % 1):
        fitting = max(1, round(budget.amount / budget.points)) * budget.points
        problems.append(
            f"budget.amount {budget.amount:g} steps cannot be divided into {budget.points} equal parts: take {fitting}."
        )
    if not study.general.seeds or len(set(study.general.seeds)) < len(study.general.seeds):
        problems.append(f"study.seeds is {shown(study.general.seeds)}, but must be one or more different numbers.")
    return problems


def _name_problems(study: Study) -> list[str]:
    if not study.variants:
        return ["A study needs variants: add [[variants]], each with a name and its settings."]
    odd = [variant.name for variant in study.variants if NO_NAME.search(variant.name)]
    long = [variant.name for variant in study.variants if len(variant.name) > LONGEST_VARIANT]
    if odd or long:
        return [
            f"Variant {shown((odd or long)[0])} cannot be called so: take up to {LONGEST_VARIANT} letters, no control "
            "characters, and begin with none of = + - @, which tables take for a formula."
        ]
    counts = Counter(variant.slug.lower() for variant in study.variants)
    return [
        f"Variant {variant.name} has the same name as another one, or one that is the same in file names: rename it."
        for variant in study.variants
        if counts[variant.slug.lower()] > 1 or variant.slug.lower() == "base"
    ]


def _setting_problems(study: Study) -> list[str]:
    shared = [
        f"{section}.{entry.name} is decided by the study (its name, seeds and budget): remove it."
        for section, name, entry in settings()
        if f"{section}.{name}" in DECIDED and getattr(getattr(study.shared, section), name) != default_of(entry)
    ]
    own = [
        f"Variant {variant.name} sets {path}, which "
        + ("the study decides: remove it." if path in DECIDED else "must be the same for all: set it for all of them.")
        for variant in study.variants
        for path in variant.settings
        if path in DECIDED or path.startswith(SHARED)
    ]
    return shared + own


def remarks(study: Study) -> list[str]:
    """Sentences on what a study states that it does not do."""
    return [*race_checks.remarks(study), *_unused_flags(study.shared.preview.prompts)]


def _unused_flags(prompts: Sequence[str]) -> list[str]:
    """Size and seed of a sample prompt, which are those of all images where files are compared."""
    flags = {name: flag for flag, name in FLAGS.items() if name in ("width", "height", "seed")}
    found = []
    for number, prompt in enumerate(prompts, start=1):
        if stated := [f"--{flags[name]}" for name in read_prompt(prompt).own if name in flags]:
            what = f"Sample prompt {number}: {', '.join(stated)}"
            found.append(f"{what} is not used in a study, whose images all have the same size and seeds.")
    return found


def variant_problems(study: Study) -> list[str]:
    """What is wrong with each variant's settings, as sentences; of settings that all share, once."""
    found: dict[str, list[str]] = {}
    for variant in study.variants:
        config = settings_of(study, variant)
        config.run.name, config.run.steps = study.name, 1  # the budget is the study's
        for problem in problems(config):
            found.setdefault(problem.message.replace("run.name", "study.name"), []).append(variant.name)
    return [
        message if len(names) == len(study.variants) > 1 else f"Variant {', '.join(names)}: {message}"
        for message, names in found.items()
    ]
