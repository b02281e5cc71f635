"""Any adapter file as LoRA, as a full difference of the weights, or as it is under the names that hosts know."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from adapter_lab.adapters import provenance
from adapter_lab.adapters.file import AdapterFile
from adapter_lab.adapters.layers import Base, Layer, open_base
from adapter_lab.adapters.lora import LoRA
from adapter_lab.adapters.names import NAMINGS, peft_metadata
from adapter_lab.adapters.results import DTYPES, Report, Writer, refuse_reading
from adapter_lab.adapters.rewriting import plain_tensors, without_core
from adapter_lab.adapters.spool import Spool
from adapter_lab.adapters.svd import NO_LIMIT, RankRule
from adapter_lab.errors import AdapterLabError, FileFormatError

FORMS = ("lora", "full", "same")


def convert(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    to: str,
    *,
    rule: RankRule = NO_LIMIT,
    base: str | os.PathLike[str] | None = None,
    dtype: str = "same",
    names: str = "ldm",
) -> Report:
    """Write an adapter file as LoRA of the ranks `rule` allows (`to` "lora"), as a full difference ("full"), or as it
    is with LyCORIS's spelling and alpha ("same"), its layers called as a row of `names.NAMINGS` says.

    The result at strength m gives W + m (W' - W) as the original does, up to the error that is reported. `base` is the
    checkpoint it was trained on: needed where W' - W depends on W (DoRA, OFT, BOFT, OFTv2, IA3, GLoRA), and for models
    of other than the released shapes. Raises AdapterLabError where it is missing, FileFormatError for broken files.
    """
    if to not in FORMS:
        raise AdapterLabError(f"There is no form {to!r} to convert to; choose one of {', '.join(FORMS)}.")
    if to == "lora" and not rule:
        raise AdapterLabError("How large may the LoRA be? Give a rank, an error bound or an energy to keep.")
    if rule and to != "lora":
        raise AdapterLabError(f"A rank, error or energy has no meaning with --to {to}; only LoRA has a size to choose.")
    if names not in NAMINGS:
        raise AdapterLabError(f"There are no names called {names!r}; choose one of {', '.join(NAMINGS)}.")
    naming = NAMINGS[names]
    if naming.lora_only and to == "full":
        raise AdapterLabError(f"{names}'s names are for LoRA alone; choose --to lora with a rank, or other names.")
    file = AdapterFile.open(path)
    refuse_overwriting(out, [path, base])
    model = open_base(base, [file])
    layers, left_out = model.layers(file)
    if names != "ldm":
        layers = naming.layers(layers, model.table, model.family, left_out)
    report = started_report(out, model, [file], left_out)
    with torch.inference_mode(), Spool(out) as spool:
        writer = Writer(spool, report, rule, stored_dtype(dtype, [file]))
        writer.peft = {} if naming.lora_only else None
        write = writer.lora if to == "lora" else writer.full
        for name, layer in layers.items():
            if to == "same" and naming.lora_only:
                write_as_peft(writer, file, name, layer)
            elif to == "same":
                write_kept(writer, file, name, layer, as_stored=dtype == "same")
            else:
                write_changed(writer, write, model, file, name, layer)
        finish(writer, [file])
        options = {"to": to, **vars(rule), "base": Path(base).name if base else None}
        metadata = provenance.metadata_of(report, "convert", [(file.path, source_metadata(file), 1.0)], options)
        report.bytes = spool.save({**metadata, **peft_metadata(writer.peft or {})})
    return report


def started_report(
    out: str | os.PathLike[str], model: Base, files: Sequence[AdapterFile], left_out: dict[str, str]
) -> Report:
    """A report that already names what is not taken over of these files, and strengths that are guesses."""
    report = Report(str(out), model.family, left_out=left_out)
    for file in files:
        start = f"{file.path.name}: " if len(files) > 1 else ""
        report.unknown |= {start + key: reason for key, reason in file.unknown.items()}
        report.guessed += [start + name for name in file.modules if not file.states_scale(name)]
    return report


def finish(writer: Writer, files: Sequence[AdapterFile]) -> None:
    """Take over the embeddings that came with these files.

    Raises FileFormatError if no module could be: there is nothing to write then.
    """
    report, spool = writer.report, writer.spool
    if not report.made:
        name, reason = next(iter(report.left_out.items()))
        raise FileFormatError(f"No module of {files[0].path} can be taken over, {name} because {reason}.")
    for file in files:
        for key in file.carried:
            tensor = file.file.read(key)
            if key not in spool:
                spool.add(key, tensor)
                report.carried.append(key)
            elif not torch.equal(spool[key], tensor):
                report.unknown[f"{file.path.name}: {key}"] = "another of the files has an embedding of this name"


def write_changed(
    writer: Writer, write: Callable[..., None], model: Base, file: AdapterFile, name: str, layer: Layer
) -> None:
    """Write module `name` again: its change of the weight by `write`, of the bias and of norms as they are."""
    if len(layer.shape) == 1 and file.has_weight(name):
        norm = file.load(name)
        writer.norm(layer.name, norm.delta(torch.zeros(layer.shape)), norm.bias_delta)
        return
    if file.has_weight(name):
        write(layer.name, model.delta(file, name, layer))
    if file.has_bias(name):
        bias = file.load_bias(name).bias_delta
        assert bias is not None
        writer.bias(layer.name, bias)


def write_kept(writer: Writer, file: AdapterFile, name: str, layer: Layer, as_stored: bool) -> None:
    """Write module `name` as it is, under LyCORIS's suffixes and in need of no metadata (OFTv2 excepted) to be read."""
    tensors = plain_tensors(file.load(name), raw_tensors(file, name), layer.shape)
    writer.tensors(layer.name, file.algorithm_of(name), tensors, as_stored)


def write_as_peft(writer: Writer, file: AdapterFile, name: str, layer: Layer) -> None:
    """Write a LoRA module with the scale in its factors and no alpha; the report says what else is left out."""
    adapter = file.load(name)
    if not isinstance(adapter, LoRA):
        kind = "DoRA" if adapter.describe().get("dora") else file.algorithm_of(name)
        writer.report.left_out[name] = f"it is {kind}, and these names are for LoRA; --to lora makes it one"
        return
    plain = without_core(adapter)
    up = plain.up.flatten(1).to(torch.promote_types(plain.up.dtype, torch.float32)) * plain.scale
    writer.factors(layer.name, up, plain.down.flatten(1), adapter.delta(torch.zeros(()).expand(layer.shape)))
    if adapter.bias_delta is not None:
        writer.bias(layer.name, adapter.bias_delta)


def raw_tensors(file: AdapterFile, name: str) -> dict[str, Tensor]:
    """The tensors of module `name` as the file has them, by suffix."""
    infos = file.modules[name]
    read = file.file.read_many(info.key for info in infos.values())
    return {suffix: read[info.key] for suffix, info in infos.items()}


def source_metadata(file: AdapterFile) -> dict[str, str]:
    """A file's metadata, with what else the names of its modules told of how they are to be read."""
    unsaid = any(name.startswith("base_model.") for name in file.modules) and not file.options.peft
    return {**file.metadata, **({"lora_adapter_metadata": '{"peft_type":"OFT"}'} if unsaid else {})}


def stored_dtype(dtype: str, files: Sequence[AdapterFile]) -> torch.dtype:
    """The number format of a new file: "fp32", "fp16", "bf16", or "same" for that of most of its sources' numbers.

    Raises AdapterLabError for any other.
    """
    if dtype != "same" and dtype not in DTYPES:
        raise AdapterLabError(f"The dtype {dtype!r} is unknown; choose one of same, {', '.join(DTYPES)}.")
    if dtype != "same":
        return DTYPES[dtype]
    numbers: Counter[torch.dtype] = Counter()
    for file in files:
        for info in file.file.tensors.values():
            numbers[info.dtype] += info.numel
    most = numbers.most_common(1)[0][0]
    return most if most in DTYPES.values() else torch.float32 if most == torch.float64 else torch.float16


def refuse_overwriting(out: str | os.PathLike[str], sources: Sequence[str | os.PathLike[str] | None]) -> None:
    """Raise AdapterLabError if the file to be written is one of those to be read, or no .safetensors name."""
    path = Path(out)
    if path.suffix.lower() != ".safetensors":
        raise AdapterLabError(f"{path} must end in .safetensors, which hosts know adapter files by.")
    refuse_reading(path, sources)
