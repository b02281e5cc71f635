"""Adapter files: spellings, hashes, atomic saving, and one clear sentence for anything broken."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from adapter_lab.adapters.file import AdapterFile, ModuleError, save_adapter, split_key
from adapter_lab.adapters.lora import LoRA
from adapter_lab.adapters.tensors import TensorFile, is_finite
from adapter_lab.errors import AdapterLabError, FileFormatError

OUT, IN, RANK = 8, 6, 2


def lora_tensors(name: str = "lora_unet_x") -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        f"{name}.lora_up.weight": torch.randn(OUT, RANK, generator=generator),
        f"{name}.lora_down.weight": torch.randn(RANK, IN, generator=generator),
        f"{name}.alpha": torch.tensor(1.0),
    }


KEYS = {
    "lora_unet_x.lora_up.weight": ("lora_unet_x", "lora_up.weight"),
    "lora_unet_x.lora_mid.weight": ("lora_unet_x", "lora_mid.weight"),
    "lora_unet_x.alpha": ("lora_unet_x", "alpha"),
    "base_model.model.a.b.to_q.lora_A.weight": ("base_model.model.a.b.to_q", "lora_down.weight"),
    "unet.a.to_q.lora_B.default.weight": ("unet.a.to_q", "lora_up.weight"),
    "unet.a.to_q.lora.up.weight": ("unet.a.to_q", "lora_up.weight"),
    "unet.a.to_q.lora_linear_layer.down.weight": ("unet.a.to_q", "lora_down.weight"),
    "unet.a.attn1.processor.to_q_lora.down.weight": ("unet.a.attn1.processor.to_q_lora", "lora_down.weight"),
    "unet.a.to_q.lora_magnitude_vector": ("unet.a.to_q", "lora_magnitude_vector"),
    "unet.a.to_q.lora_magnitude_vector.default.weight": ("unet.a.to_q", "lora_magnitude_vector"),
    "unet.a.to_q.oft_R.weight": ("unet.a.to_q", "oft_R.weight"),
    "unet.a.to_q.oft_R.default.weight": ("unet.a.to_q", "oft_R.weight"),
    "lora_unet_x.weight": ("lora_unet_x", "weight"),
    "lora_unet_x.lokr_w2_a": ("lora_unet_x", "lokr_w2_a"),
    "lora_unet_x.bm.weight": ("lora_unet_x", "bm.weight"),
    "lora_unet_x.b_norm": ("lora_unet_x", "b_norm"),
    "unet.a.up.conv.bias": None,
    "lora_unet_x": None,
}


@pytest.mark.parametrize("key", KEYS)
def test_keys_of_every_spelling_split_into_module_and_suffix(key: str) -> None:
    assert split_key(key) == KEYS[key]


def test_an_opened_file_lists_modules_algorithms_and_unknown_keys(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tensors = {
        **lora_tensors(),
        "lora_unet_y.oft_blocks": torch.zeros(2, 4, 4),
        "lora_unet_z.oft_blocks": torch.zeros(1, 2, 4, 4),
        "lora_unet_w.diff": torch.zeros(8, 6),
        "lora_unet_v.weight": torch.zeros(8),
        "emb_params": torch.zeros(3),
    }
    save_adapter(path, tensors, {"ss_note": "x"})
    file = AdapterFile.open(path)
    algorithms = {name: file.algorithm_of(name) for name in file.modules}
    assert algorithms == {
        "lora_unet_x": "lora",
        "lora_unet_y": "diag-oft",
        "lora_unet_z": "boft",
        "lora_unet_w": "full",
    }
    assert sorted(file.unknown) == ["emb_params", "lora_unet_v.weight"]
    assert file.metadata["ss_note"] == "x"
    assert file.modules["lora_unet_x"]["lora_up.weight"].shape == (OUT, RANK)


@pytest.mark.parametrize("dtype", [None, torch.float64])
def test_loading_keeps_the_files_dtype_or_takes_another(dtype: torch.dtype | None, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_adapter(path, {key: tensor.half() for key, tensor in lora_tensors().items()}, {})
    adapter = AdapterFile.open(path).load("lora_unet_x", dtype)
    assert isinstance(adapter, LoRA)
    assert adapter.up.dtype == (dtype or torch.float16)
    assert torch.equal(adapter.up.float(), lora_tensors()["lora_unet_x.lora_up.weight"].half().float())


def test_lycoris_rs_lora_scales_are_read_from_metadata_and_never_in_our_own_files(tmp_path: Path) -> None:
    tensors = {f"lora_unet_x.{n}.weight": torch.ones(4, 4) for n in ("a1", "a2", "b1", "b2")}
    tensors["lora_unet_x.alpha"] = torch.tensor(2.0)
    base, deltas = torch.eye(4), []
    for metadata in (
        {},
        {"ss_network_args": json.dumps({"algo": "glora", "rs_lora": "True"})},
        {"ss_network_args": json.dumps({"rs_lora": "True"}), "adapter_lab.network": "{}"},
        {"ss_network_args": "not json"},
    ):
        save_adapter(tmp_path / "a.safetensors", tensors, metadata)
        deltas.append(AdapterFile.open(tmp_path / "a.safetensors").load("lora_unet_x").delta(base))
    plain, stabilised, own, malformed = deltas
    assert torch.allclose(stabilised, plain * 2)  # 4 ** 0.5
    assert torch.equal(own, plain) and torch.equal(malformed, plain)


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({"unet.r": 2, "unet.lora_alpha": 6}, 3.0),
        ({"unet.r": 2, "unet.lora_alpha": 6, "unet.use_rslora": True}, 6 / 2**0.5),
        ({"unet.lora_alpha": 6, "unet.alpha_pattern": {"a.to_q": 1}}, 0.5),
        ({"text_encoder.lora_alpha": 6}, 1.0),
        ({}, 1.0),
    ],
)
def test_alpha_of_diffusers_files_is_read_from_their_metadata(
    config: dict[str, Any], scale: float, tmp_path: Path
) -> None:
    up, down = torch.randn(OUT, RANK), torch.randn(RANK, IN)
    tensors = {"unet.a.to_q.lora_B.weight": up, "unet.a.to_q.lora_A.weight": down}
    save_adapter(tmp_path / "a.safetensors", tensors, {"lora_adapter_metadata": json.dumps(config)} if config else {})
    adapter = AdapterFile.open(tmp_path / "a.safetensors").load("unet.a.to_q", torch.float64)
    delta = adapter.delta(torch.zeros(OUT, IN, dtype=torch.float64))
    assert torch.allclose(delta, scale * (up.double() @ down.double()), rtol=1e-12)


def test_hashes_are_kohyas(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tensors = {f"lora_unet_{i}.diff": torch.randn(64, 1000) for i in range(8)}  # 2 MB, so that 1 MiB lies inside
    metadata = {"ss_output_name": "a", "modelspec.title": "b", "ss_steps": "3"}
    save_adapter(path, tensors, metadata)
    found = AdapterFile.open(path).metadata
    written = path.read_bytes()
    start = 8 + struct.unpack("<Q", written[:8])[0]
    assert found["sshs_model_hash"] == hashlib.sha256(written[start:]).hexdigest()
    training = {key: value for key, value in metadata.items() if key.startswith("ss_")}
    alone = safetensors.torch.save(tensors, training)
    assert found["sshs_legacy_hash"] == hashlib.sha256(alone[0x100000:0x110000]).hexdigest()[:8]
    assert {key: found[key] for key in metadata} == metadata


def test_the_legacy_hash_of_a_small_file_is_that_of_nothing(tmp_path: Path) -> None:
    save_adapter(tmp_path / "a.safetensors", lora_tensors(), {})
    assert AdapterFile.open(tmp_path / "a.safetensors").metadata["sshs_legacy_hash"] == hashlib.sha256().hexdigest()[:8]


def test_saving_replaces_the_file_and_never_writes_into_it(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "a.safetensors"
    save_adapter(path, lora_tensors(), {})
    with path.open("rb") as loaded:  # as a host that has the file memory-mapped
        before = path.read_bytes()
        save_adapter(path, lora_tensors("lora_unet_other"), {})
        assert loaded.read() == before
    assert list(AdapterFile.open(path).modules) == ["lora_unet_other"]
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize(("number", "words"), [(errno.ENOSPC, "disk is full"), (errno.EACCES, "could not be written")])
def test_a_failed_save_says_why_and_keeps_the_older_file(
    number: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.safetensors"
    save_adapter(path, lora_tensors(), {})
    before = path.read_bytes()

    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(AdapterLabError, match=words) as raised:
        save_adapter(path, lora_tensors("lora_unet_other"), {})
    assert str(path) in str(raised.value)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


def with_header(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(shape: Any, offsets: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


BROKEN: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "three bytes": lambda: b"abc",
    "text": lambda: b"<html>404 not found, and some more text</html>",
    "header longer than the file": lambda: struct.pack("<Q", 2**62) + b"{}",
    "header length in the middle": lambda: struct.pack("<Q", 100) + b'{"a":',
    "not json": lambda: with_header(b"{nonsense}"),
    "json list": lambda: with_header(b"[1, 2]"),
    "bytes that are not text": lambda: with_header(b'{"\xff\xfe": 1}'),
    "deep nesting": lambda: with_header(b'{"a":' + b"[" * 100_000),
    "huge number": lambda: with_header(b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,4]}}'),
    "a name twice": lambda: with_header(
        b'{"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}', b"x"
    ),
    "entry is a number": lambda: with_header({"a": 1}),
    "negative offset": lambda: with_header({"a": entry([1], [-4, 0])}),
    "offsets swapped": lambda: with_header({"a": entry([1], [4, 0])}, bytes(4)),
    "three offsets": lambda: with_header({"a": entry([1], [0, 4, 8])}, bytes(4)),
    "shape of floats": lambda: with_header({"a": entry([1.0], [0, 4])}, bytes(4)),
    "shape of booleans": lambda: with_header({"a": entry([True], [0, 4])}, bytes(4)),
    "shape larger than its bytes": lambda: with_header({"a": entry([10**9, 10**9], [0, 4])}, bytes(4)),
    "unknown dtype": lambda: with_header({"a": entry([1], [0, 4], "F7")}, bytes(4)),
    "dtype is a list": lambda: with_header({"a": entry([1], [0, 4], ["F32"])}, bytes(4)),
    "overlap": lambda: with_header({"a": entry([2], [0, 8]), "b": entry([2], [4, 12])}, bytes(12)),
    "gap": lambda: with_header({"a": entry([1], [0, 4]), "b": entry([1], [8, 12])}, bytes(12)),
    "cut short": lambda: with_header({"a": entry([4], [0, 16])}, bytes(7)),
    "bytes left over": lambda: with_header({"a": entry([1], [0, 4])}, bytes(9)),
    "metadata of numbers": lambda: with_header({"__metadata__": {"a": 1}}),
    "metadata is a list": lambda: with_header({"__metadata__": [1]}),
    "pickle": lambda: pickle.dumps({"a": 1}, protocol=2),
    "zip pickle": lambda: b"PK\x03\x04" + bytes(100),
    "no tensors": lambda: with_header({}),
    "a checkpoint": lambda: with_header({"model.diffusion_model.out.2.weight": entry([1], [0, 4])}, bytes(4)),
    "one factor in two spellings": lambda: with_header(
        {"x.lora_up.weight": entry([1], [0, 4]), "x.lora_B.weight": entry([1], [4, 8])}, bytes(8)
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_refused_in_one_sentence_with_the_file(case: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.safetensors"
    path.write_bytes(BROKEN[case]())
    with pytest.raises(FileFormatError) as raised:
        AdapterFile.open(path)
    message = str(raised.value)
    assert str(path) in message and message.endswith(".") and "\n" not in message


BROKEN_MODULES: dict[str, Callable[[], bytes]] = {
    "rank zero": lambda: with_header({f"x.lora_{n}.weight": entry([4, 0], [0, 0]) for n in ("up", "down")}),
    "integer factors": lambda: with_header({"x.diff": entry([1], [0, 4], "I32")}, bytes(4)),
    "alpha of two numbers": lambda: with_header(
        {"x.diff": entry([1], [0, 4]), "x.alpha": entry([2], [4, 12])}, bytes(12)
    ),
}


@pytest.mark.parametrize("case", BROKEN_MODULES)
@pytest.mark.parametrize("read", ["load", "outline"])
def test_modules_that_cannot_be_read_are_refused_alone_in_one_sentence(read: str, case: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.safetensors"
    path.write_bytes(BROKEN_MODULES[case]())
    with pytest.raises(ModuleError) as raised:
        getattr(AdapterFile.open(path), read)("x")
    message = str(raised.value)
    assert str(path) in message and "module x" in message and message.endswith(".") and "\n" not in message
    assert raised.value.reason in message and str(path) not in raised.value.reason


def test_the_bias_of_a_norm_beside_another_algorithm_is_nothing(tmp_path: Path) -> None:
    save_adapter(tmp_path / "a.safetensors", {**lora_tensors(), "lora_unet_x.b_norm": torch.ones(3)}, {})
    file = AdapterFile.open(tmp_path / "a.safetensors")
    assert not file.has_bias("lora_unet_x") and file.load("lora_unet_x").bias_delta is None


def test_a_pickle_is_named_as_such_and_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (open, (str(tmp_path / "trapped"), "w"))

    for name in ("a.pt", "a.safetensors"):
        (tmp_path / name).write_bytes(pickle.dumps(Trap(), protocol=2))
        with pytest.raises(FileFormatError, match="pickle"):
            AdapterFile.open(tmp_path / name)
    assert not (tmp_path / "trapped").exists()


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="no file"):
        TensorFile.open(tmp_path / "nothing.safetensors")
    with pytest.raises(FileFormatError, match="folder"):
        TensorFile.open(tmp_path)


def test_a_header_too_large_for_any_real_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "large.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 2**30) + b"{")
        file.truncate(2**30 + 8)  # sparse: takes no space
    with pytest.raises(FileFormatError, match="header of 1024 MiB"):
        TensorFile.open(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_in_a_tensor_is_named_when_its_module_is_loaded(value: float, tmp_path: Path) -> None:
    tensors = lora_tensors()
    tensors["lora_unet_x.lora_down.weight"][1, 2] = value
    save_adapter(tmp_path / "a.safetensors", tensors, {})
    with pytest.raises(FileFormatError, match=r"lora_unet_x.lora_down.weight holds NaN or infinity"):
        AdapterFile.open(tmp_path / "a.safetensors").load("lora_unet_x")


def test_a_module_whose_tensors_do_not_match_is_named_when_loaded(tmp_path: Path) -> None:
    tensors = lora_tensors()
    del tensors["lora_unet_x.lora_down.weight"]
    save_adapter(tmp_path / "a.safetensors", tensors, {})
    with pytest.raises(FileFormatError, match=r"a\.safetensors: module lora_unet_x .*lora_down\.weight is missing"):
        AdapterFile.open(tmp_path / "a.safetensors").load("lora_unet_x")


def test_a_file_cut_while_open_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_adapter(path, lora_tensors(), {})
    file = AdapterFile.open(path)
    with path.open("r+b") as handle:
        handle.truncate(path.stat().st_size - 30)
    with pytest.raises(FileFormatError, match="cut short"):
        for name in file.modules:
            file.load(name)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2])
def test_nan_and_infinity_are_found_in_every_number_format(dtype: torch.dtype) -> None:
    assert is_finite(torch.full((3, 4), torch.finfo(dtype).max, dtype=torch.float64).to(dtype))
    assert is_finite(torch.empty(0, 4, dtype=dtype))
    for value in (float("nan"), float("inf"), float("-inf")):
        numbers = torch.ones(3, 4)
        numbers[1, 2] = value
        assert not is_finite(numbers.to(dtype))
