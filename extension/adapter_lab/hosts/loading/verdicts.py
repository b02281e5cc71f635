"""What each web UI alone does with an adapter file: the rules that read `verdict_table`, and the words for people."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adapter_lab.adapters.file import AdapterFile
from adapter_lab.hosts.loading.verdict_table import HOSTS, READ, TABLE, Module

APPLY, DROP, WRONG, UNSEEN = "apply", "drop", "apply wrongly", "perhaps not apply"
SOURCE = "docs/hosts.md"


@dataclass(frozen=True)
class Verdict:
    """What one web UI alone does with a file, in the words of `outcome`, and why in one sentence."""

    outcome: str
    why: str = ""


def modules_of(file: AdapterFile) -> list[Module]:
    """The modules of a file, as rows look at them."""
    return [
        Module(file.algorithm_of(name), name, {**tensors, **file.unused.get(name, {})}, file)
        for name, tensors in file.modules.items()
    ]


def verdict(file: AdapterFile, host: str, by_name: bool = True) -> Verdict:
    """What the web UI `host` (a key of HOSTS) alone does with a file; what was not measured there is UNSEEN.

    `by_name=False` leaves out the rows about names, which hold for Stable Diffusion only.
    """
    return verdict_of(modules_of(file), host, by_name)


def verdict_of(modules: Sequence[Module], host: str, by_name: bool = True) -> Verdict:
    """`verdict` of these modules."""
    found = [row for row in TABLE if (by_name or not row.by_name) and any(map(row.is_it, modules))]
    said = {
        DROP: [f"{row.kind}: {row.drop[host]}" for row in found if host in row.drop],
        WRONG: [f"{row.kind}: {row.wrong[host]}" for row in found if host in row.wrong],
        UNSEEN: _unseen(modules, host),
    }
    return next((Verdict(outcome, "; ".join(why)) for outcome, why in said.items() if why), Verdict(APPLY))


def _unseen(modules: Sequence[Module], host: str) -> list[str]:
    """What of these modules a web UI was never seen to read, one sentence per algorithm."""
    found: dict[str, dict[str, None]] = {}
    for module in modules:
        read = {one for algorithm, hosts, names in READ if algorithm == module.algorithm and host in hosts
                for one in names.split()}  # fmt: skip
        for suffix in module.spelled:
            if suffix not in read:
                found.setdefault(module.algorithm, {})[suffix] = None
    return [f"{algorithm}: whether it reads {', '.join(names)} was not seen" for algorithm, names in found.items()]


def verdicts(file: AdapterFile) -> dict[str, Verdict]:
    """What each web UI alone does with a file."""
    return {host: verdict(file, host) for host in HOSTS}


def describe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """`verdicts` of the file at `path` in plain values, ready for JSON: "source", and "outcome" and "why" by web UI."""
    found = verdicts(AdapterFile.open(path))
    return {"source": SOURCE, **{HOSTS[host]: vars(one) for host, one in found.items()}}


def text(described: Mapping[str, Any], some: bool = False) -> str:
    """`describe`'s answer for people: a line per outcome and reason, with the web UIs it holds for.

    `some`: it holds for some of the file's modules only, since others cannot be used.
    """
    hosts: dict[tuple[str, str], list[str]] = {}
    for name in HOSTS.values():
        hosts.setdefault((described[name]["outcome"], described[name]["why"]), []).append(name)
    lines = [
        f"  {', '.join(names)}: would {outcome}" + (f" ({why})" if why else "")
        for (outcome, why), names in hosts.items()
    ]
    what = ", the modules that can be used" if some else ""
    return "\n".join([f"without Adapter Lab ({described['source']}){what}:", *lines])
