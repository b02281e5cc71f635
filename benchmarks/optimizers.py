"""Which optimisers of pytorch-optimizer can train adapters, measured one by one on parameters as adapters have them.

    PYTHONPATH=extension .runtime/bin/python benchmarks/optimizers.py --out measured.json           # all: minutes
    PYTHONPATH=extension .runtime/bin/python benchmarks/optimizers.py came --out measured.json      # again for one
    PYTHONPATH=extension .runtime/bin/python benchmarks/optimizers.py --out measured.json --write   # what uses it

The last writes extension/adapter_lab/optimizers.json, which is what can be chosen, and docs/optimizers.md.

Each gets the same small problem: a LoRA on a linear layer (its second matrix begins at zero), a LoCon on a 3 x 3
convolution, a vector and a scalar, and one parameter that never gets a gradient. It is usable when the loss falls, all
stays finite, a state that was saved and loaded as a run's goes on bit for bit, and no step needs anything but
gradients.

What is written for each: the arguments it takes; the usual rate (the library's, or a smaller one at which the steps of
an optimiser that does not depend on the size of gradients are as large as AdamW's at 1e-4); and how many bytes it keeps
for a matrix and a vector, as sums of terms in their sides, and for a value of a kernel, at most.
"""

from __future__ import annotations

import argparse
import inspect
import io
import json
import math
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_optimizer
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn import functional as F

STEPS, RESUMED, SECONDS = 60, 6, 300
ADAMW_RATE = 1e-4
# Sides of matrices whose state is measured; the sum of terms below must be right for all of them.
MATRICES = [(64, 4), (4, 64), (48, 16), (16, 48), (96, 8), (24, 24), (8, 320), (320, 16)]
VECTORS = [(40,), (64,), (200,), (256,)]
KERNELS = [(16, 64, 3, 3), (8, 40, 3, 3), (64, 16, 1, 1)]
EXACT = 0.02
FALLEN = 0.85  # of the first loss, at the best of four rates
TERMS = {
    "values": lambda rows, columns: rows * columns,
    "sides": lambda rows, columns: rows + columns,
    "squares": lambda rows, columns: rows**2 + columns**2,
    "smaller_square": lambda rows, columns: min(rows, columns) ** 2,
    "each": lambda rows, columns: 1,
}


class Problem:
    """A loss of adapter parameters whose best value is known to be 0, drawn again in every step."""

    def __init__(self, seed: int = 0, scale: float = 1.0) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.scale = scale
        self.linear, self.conv = torch.randn(32, 24, generator=draw), torch.randn(16, 8, 3, 3, generator=draw) / 3
        self.wanted = 0.3 * torch.randn(32, 4, generator=draw) @ torch.randn(4, 24, generator=draw)
        self.wanted_conv = 0.1 * torch.randn(16, 8, 3, 3, generator=draw)
        self.parameters = {
            "lora_down": Parameter(torch.randn(4, 24, generator=draw) / 5),
            "lora_up": Parameter(torch.zeros(32, 4)),
            "conv_down": Parameter(torch.randn(4, 8, 3, 3, generator=draw) / 8),
            "conv_up": Parameter(torch.zeros(16, 4, 1, 1)),
            "magnitude": Parameter(torch.ones(32)),
            "scalar": Parameter(torch.tensor(0.5)),
            "unused": Parameter(torch.ones(4, 5)),
        }

    def loss(self, step: int) -> Tensor:
        """The loss on the inputs of a step."""
        p, draw = self.parameters, torch.Generator().manual_seed(1000 + step)
        inputs, pictures = torch.randn(16, 24, generator=draw), torch.randn(4, 8, 6, 6, generator=draw)
        weight = p["magnitude"][:, None] * (self.linear + p["lora_up"] @ p["lora_down"] * (0.5 + p["scalar"]))
        answer = F.linear(inputs, weight) - F.linear(inputs, self.linear + self.wanted)
        kernel = torch.einsum("oi,ikhw->okhw", p["conv_up"][..., 0, 0], p["conv_down"])
        answer_conv = F.conv2d(pictures, kernel - self.wanted_conv)
        return self.scale * (answer.square().mean() + answer_conv.square().mean())

    def run(self, optimizer: Any, first: int, last: int) -> list[float]:
        """Train from step `first` to before `last`; returns the losses."""
        losses = []
        for step in range(first, last):
            torch.manual_seed(step)
            optimizer.zero_grad(set_to_none=True)
            loss = self.loss(step)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise TimeoutError where the inside takes longer."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"takes longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def groups(kind: type, parameters: list[Parameter]) -> list[dict[str, Any]]:
    """Parameters in two groups: those of Muon's kind are told which are matrices."""
    parts = [[p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim < 2]]
    marks = [{"use_muon": True}, {"use_muon": False}] if needs_marks(kind) else [{}, {}]
    return [{"params": part, **mark} for part, mark in zip(parts, marks) if part]


def needs_marks(kind: type) -> bool:
    """Whether an optimiser asks which groups hold matrices."""
    try:
        kind([{"params": [Parameter(torch.zeros(2, 2))]}])
    except Exception as error:
        return "use_muon" in str(error)
    return False


def made(kind: type, problem: Problem, rate: float | None = None) -> Any:
    """The optimiser over a problem's parameters."""
    options = {} if rate is None else {"lr": rate}
    optimizer = kind(groups(kind, list(problem.parameters.values())), **options)
    if hasattr(optimizer, "train"):
        optimizer.train()
    return optimizer


def state_tensors(optimizer: Any) -> int:
    """Bytes of all tensors in an optimiser's state, nested ones too."""

    def size(value: Any) -> int:
        if isinstance(value, Tensor):
            return value.numel() * value.element_size()
        if isinstance(value, dict):
            return sum(size(entry) for entry in value.values())
        return sum(size(entry) for entry in value) if isinstance(value, (list, tuple)) else 0

    return sum(size(state) for state in optimizer.state.values())


def state_of(kind: type, shape: tuple[int, ...]) -> int:
    """Bytes kept for one parameter of a shape after some steps."""
    parameter = Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    optimizer = kind(groups(kind, [parameter]))
    for step in range(12):
        parameter.grad = torch.randn(shape, generator=torch.Generator().manual_seed(step))
        optimizer.step()
    return state_tensors(optimizer)


def sizes(kind: type) -> dict[str, Any]:
    """Bytes of state as sums of TERMS for matrices and vectors, and per value of a kernel."""
    kernel = max(state_of(kind, shape) / math.prod(shape) for shape in KERNELS)
    vector = fitted(kind, VECTORS, ("values", "squares", "each"))
    return {"matrix": fitted(kind, MATRICES, tuple(TERMS)), "vector": vector, "kernel": round(kernel, 2)}


def fitted(kind: type, shapes: list[tuple[int, ...]], names: tuple[str, ...]) -> dict[str, float]:
    """Factors of the terms by least squares; where they are not exact, as large as the most of any shape asks for."""
    sides = [(math.prod(shape[1:]), shape[0]) for shape in shapes]
    measured = np.array([state_of(kind, shape) for shape in shapes], dtype=float)
    table = np.array([[TERMS[name](*side) for name in names] for side in sides], dtype=float)
    factors = np.linalg.lstsq(table, measured, rcond=None)[0]
    error = float(np.max(np.abs(table @ factors - measured) / np.maximum(measured, 1)))
    if error > EXACT:
        most = float(np.max(measured / table[:, 0]))
        return {"values": round(most, 2)}
    return {name: round(float(factor), 2) for name, factor in zip(names, factors) if abs(factor) > 0.005}


def moved(kind: type, rate: float, scale: float) -> float:
    """Root mean square of what a step changes, over the last of STEPS steps, for gradients of a scale."""
    problem = Problem(scale=scale)
    optimizer = made(kind, problem, rate)
    trained = [p for name, p in problem.parameters.items() if name != "unused"]
    problem.run(optimizer, 0, STEPS // 2)
    squares = []
    for step in range(STEPS // 2, STEPS):
        before = [p.detach().clone() for p in trained]
        problem.run(optimizer, step, step + 1)
        squares.append(torch.cat([(p.detach() - b).flatten() for p, b in zip(trained, before)]).square().mean().item())
    return math.sqrt(sum(squares) / len(squares))


def measure(name: str) -> dict[str, Any]:
    """Everything about one optimiser, or under "refused" why it cannot be used."""
    kind = pytorch_optimizer.load_optimizer(name)
    signature = inspect.signature(kind.__init__)
    arguments = {
        parameter.name: repr(parameter.default) if parameter.default is not inspect.Parameter.empty else "required"
        for parameter in list(signature.parameters.values())[1:]
        if parameter.kind not in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    }
    found: dict[str, Any] = {"class": kind.__name__, "arguments": arguments}
    try:
        with limited(SECONDS):
            found |= trained(kind, signature)
    except Exception as error:
        text = str(error).split("\n")[0][:160]
        return {**found, "refused": f"{type(error).__name__}: {text}"}
    return found


def trained(kind: type, signature: inspect.Signature) -> dict[str, Any]:
    """Rates, losses, resuming and sizes of an optimiser that can be made."""
    default = signature.parameters["lr"].default if "lr" in signature.parameters else None
    problem = Problem()
    losses = problem.run(made(kind, problem), 0, STEPS)
    if not all(math.isfinite(loss) for loss in losses):
        return {"refused": "the loss is not finite"}
    result: dict[str, Any] = {"default_rate": default, "before": losses[0], "after": min(losses[-5:])}
    if hasattr(kind, "eval") and (complaint := not_shown(kind)):
        return {**result, "refused": complaint}
    if complaint := not_resumed(kind):
        return {**result, "refused": complaint}
    if isinstance(default, float) and default < 0.5:
        steps = {scale: moved(kind, default, scale) for scale in (1.0, 100.0)}
        result["scale_free"] = steps[1.0] > 0 and 0.7 < steps[100.0] / steps[1.0] < 1.4
        if steps[1.0]:
            result["rate"] = min(default, default * moved(torch.optim.AdamW, ADAMW_RATE, 1.0) / steps[1.0])
    best = losses
    for factor in (0.1, 10.0, 100.0) if isinstance(default, float) else ():
        again = Problem()
        tried = again.run(made(kind, again, default * factor), 0, STEPS)
        if all(math.isfinite(loss) for loss in tried) and min(tried[-5:]) < min(best[-5:]):
            best = tried
    result["best"] = min(best[-5:])
    if result["best"] > FALLEN * losses[0]:
        result["refused"] = "the loss does not fall"
    result["state"] = sizes(kind)
    result["averages"] = hasattr(kind, "eval")
    result["marks"] = needs_marks(kind)
    return result


def not_shown(kind: type) -> str:
    """Why the averages cannot be shown, before the first step and beside a parameter without a gradient; "" if so."""
    problem = Problem()
    optimizer = made(kind, problem)
    try:
        for step in range(2):
            optimizer.eval()
            optimizer.train()
            problem.run(optimizer, step, step + 1)
    except KeyError:
        return "its averages cannot be shown before every parameter had a gradient"
    return ""


def not_resumed(kind: type) -> str:
    """Why a saved state does not go on bit for bit; "" where it does."""
    if "np.random" in inspect.getsource(kind):  # rarely enough that a few steps do not show it
        return "it draws random numbers of its own"
    whole = Problem()
    optimizer = made(kind, whole)
    whole.run(optimizer, 0, RESUMED)
    stored = io.BytesIO()
    torch.save([optimizer.state_dict(), {n: p.detach() for n, p in whole.parameters.items()}], stored)
    expected = whole.run(optimizer, RESUMED, 3 * RESUMED)
    stored.seek(0)
    state, weights = torch.load(stored, weights_only=True)
    resumed = Problem(seed=1)
    resumed.linear, resumed.conv = whole.linear, whole.conv
    resumed.wanted, resumed.wanted_conv = whole.wanted, whole.wanted_conv
    second = made(kind, resumed)
    with torch.no_grad():
        for name, value in weights.items():
            resumed.parameters[name].copy_(value)
    second.load_state_dict(state)
    return "" if resumed.run(second, RESUMED, 3 * RESUMED) == expected else "a resumed run differs"


# What is in an error or a finding -> why the optimiser cannot be used, for people.
REASONS = {
    "requires closure": "it computes the loss again within a step, which a run does not",
    "per-parameter options": "it takes no parameters with rates of their own",
    "does not require grad": "it needs second derivatives, which a run does not compute",
    "parameters'": "it needs the whole model, not the adapter's parameters",
    "positional argument: 'num_data'": "it must be told how many images there are",
    "positional argument: 'num_iterations'": "it must be told the number of steps, which a budget in minutes has not",
    "process group": "it works in several processes only",
    "Weights only": "what it keeps is more than numbers, so a run could not be resumed",
    "2D": "it trains matrices only, not convolutions and vectors",
    "cannot be multiplied": "it trains matrices only, not convolutions and vectors",
    "not finite": "the loss becomes infinite",
    "does not fall": "the loss does not fall, at four rates",
    "random numbers of its own": "it draws random numbers that a resumed run does not draw again",
    "resumed run differs": "a resumed run does not go on as the run would have",
    "averages cannot be shown": "its averages cannot be shown before every parameter had a gradient",
    "longer than": "it takes more than five minutes for what takes others a second",
}


def reason(found: str) -> str:
    """Why an optimiser is not offered, in words for people."""
    return next((words for part, words in REASONS.items() if part in found), f"it failed ({found})")


def usual_rate(row: dict[str, Any]) -> float | None:
    """The rate of an optimiser where none is given: measured where that bears it, else the library's own."""
    rate = row["rate"] if row.get("scale_free") and row.get("rate") else row["default_rate"]
    return None if rate is None else float(f"{rate:.0e}")


def write(measured: dict[str, Any]) -> None:
    """Write what the package reads, and the page."""
    usable = {name: row for name, row in sorted(measured.items()) if "refused" not in row and name not in OURS}
    chosen = {
        name: {
            "rate": usual_rate(row),
            # A function cannot be written in a setting.
            "arguments": {n: v for n, v in row["arguments"].items() if n not in ("params", "lr") and v[0] != "<"},
            "state": row["state"],
            "averages": row["averages"],
            "marks": row["marks"],
        }
        for name, row in usable.items()
        if usual_rate(row) is not None
    }
    refused = {name: reason(row["refused"]) for name, row in sorted(measured.items()) if "refused" in row}
    refused |= {name: "it has no learning rate of its own" for name in usable if name not in chosen}
    table = {"version": version("pytorch-optimizer"), "optimizers": chosen, "refused": dict(sorted(refused.items()))}
    TABLE.write_text(lines(table) + "\n", encoding="utf-8")
    PAGE.write_text(page(table, measured), encoding="utf-8")


def lines(table: dict[str, Any]) -> str:
    """The table as JSON with an optimiser on each line."""
    blocks = []
    for key, value in table.items():
        if isinstance(value, dict):
            entries = ",\n".join(f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in value.items())
            blocks.append(f"{json.dumps(key)}: {{\n{entries}\n}}")
        else:
            blocks.append(f"{json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(blocks) + "\n}"


def page(table: dict[str, Any], measured: dict[str, Any]) -> str:
    """docs/optimizers.md."""
    rows = []
    for name, row in table["optimizers"].items():
        m = measured[name]
        kept = matrix_bytes(row["state"]["matrix"], *SHOWN) / (SHOWN[0] * SHOWN[1])
        fallen = f"{m['after'] / m['before']:.2f} | {m['best'] / m['before']:.2f}"
        rows.append(f"| `{name}` | {m['class']} | {row['rate']:g} | {m['default_rate']:g} | {kept:.1f} | {fallen} |")
    refused = [f"| `{name}` | {why} |" for name, why in table["refused"].items()]
    return PAGE_TEXT.format(
        version=table["version"],
        count=len(rows),
        rows="\n".join(rows),
        refused="\n".join(refused),
        shape=f"{SHOWN[0]} x {SHOWN[1]}",
        steps=STEPS,
    )


def matrix_bytes(factors: dict[str, float], rows: int, columns: int) -> float:
    """Bytes of state of a matrix."""
    return sum(factor * TERMS[name](rows, columns) for name, factor in factors.items())


SHOWN = (16, 1280)
OURS = ("adamw", "adafactor", "lion", "prodigy")
ROOT = Path(__file__).parents[1]
TABLE, PAGE = ROOT / "extension/adapter_lab/optimizers.json", ROOT / "docs/optimizers.md"
PAGE_TEXT = """# Optimisers

`optimizer.name` takes `prodigy`, `adamw`, `adamw8bit`, `adafactor`, `lion` and `prodigy-plus-schedule-free`, whose
options are settings of their own, and {count} of the package pytorch-optimizer {version}. Their rate is `optimizer.lr`,
their other arguments are given as `optimizer.args = ["weight_decay=0.01", "betas=0.9,0.99"]`, and what is not given is
the package's default.

All were measured by `benchmarks/optimizers.py`, {steps} steps each of a small problem with the parameters that adapters
have: matrices of which one begins at zero, 3 x 3 and 1 x 1 convolutions, a vector, a scalar, and a parameter that never
gets a gradient. Offered are those with which the loss falls, everything stays finite, and a resumed run goes on bit for
bit. That says that they work, not which is best for your images.

- usual rate: what `optimizer.lr = "auto"` comes to. Where steps do not depend on the size of gradients, the rate at
  which they are as large in this problem as AdamW's at 1e-4, at most the package's; else the package's.
- state: bytes kept per value of a {shape} matrix of fp32; AdamW keeps 8.
- loss: after the {steps} steps as a share of the first, at the package's rate, and at the best of 0.1, 1, 10 and 100
  times it.

| name | class | usual rate | package's rate | state | loss | best |
|---|---|---|---|---|---|---|
{rows}

Not offered:

| name | why |
|---|---|
{refused}
"""


def main() -> None:
    """Measure all, or those named, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--write", action="store_true")
    chosen = parser.parse_args()
    if chosen.write:
        write(json.loads(chosen.out.read_text(encoding="utf-8")))
        return
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    results = json.loads(chosen.out.read_text(encoding="utf-8")) if chosen.names and chosen.out.exists() else {}
    for name in chosen.names or pytorch_optimizer.get_supported_optimizers():
        results[name] = measure(name)
        print(name, results[name].get("refused") or "usable", flush=True)
        chosen.out.write_text(json.dumps(results, indent=1, default=str), encoding="utf-8")


if __name__ == "__main__":
    main()
