"""Files that are damaged as files: cut short, with a broken header, or something else altogether."""

from __future__ import annotations

import io
import json
import pickle
import random
import struct
import zipfile
from typing import Any

import torch

from tests.adapters.random_adapter import random_tensors
from tests.loading.corpus_parts import LINEAR, PLACES, Content, a_good_module, header_of, modules, named, packed, sound


def truncated(chance: random.Random) -> Content:
    """Downloads that broke off: within the length, the header, the data, one byte before the end."""
    for _, name, tensors in modules():
        whole = sound(named(name, tensors))
        for end in [0, 1, 7, 8, 9, len(whole) - 1, *(chance.randrange(10, len(whole)) for _ in range(9))]:
            yield (whole[:end],)


def header(chance: random.Random) -> Content:
    """Headers that are no JSON or not of the right form."""
    good, data = header_of(named(LINEAR, random_tensors("lora", PLACES[LINEAR])))
    key = next(iter(good))
    whole: list[Any] = [[], 1, None, "x", {"a": 1}, {"a": []}, {"a": {}}, {key: {**good[key], "shape": None}}]
    entries = {
        "dtype": [None, 1, [], "F31", "f32", "", "F32 ", "I128", {}],
        "shape": [None, "x", 3, [1.5], ["8"], [-1, 8], [True], [[8]], [2**62], [2**40, 2**40], {}, [None]],
        "data_offsets": [None, [], [0], [0, 1, 2], ["0", "1"], [0.0, 4.0], [-4, 0], [4, 0], [0, 2**63], [None, None]],
    }
    for field, values in entries.items():
        whole += [{**good, key: {**good[key], field: value}} for value in values]
        whole.append({**good, key: {name: value for name, value in good[key].items() if name != field}})
    whole += [{**good, "__metadata__": value} for value in (1, "x", {"a": 1}, {"a": None}, {"a": {}}, {"a": ["b"]})]
    for value in whole:
        yield (packed(value, data),)
    text = json.dumps(good).encode()
    yield (packed(b"[" * 100_000, data),)
    yield (packed(b'{"a":' * 50_000 + b"}" * 50_000, data),)
    yield (packed(text[:-1] + b"," + text[1:], data),)  # every name twice
    yield (packed(b"{" + b'"a":1,' * 1000 + b'"a":1}', data),)
    yield (packed(b"\xef\xbb\xbf" + text, data),)
    yield (packed(text.decode().encode("utf-16"), data),)
    yield (packed(text + b"\0" * 8, data),)
    yield (packed(text.replace(b'"F32"', b"NaN"), data),)
    for _ in range(120):  # bytes that changed on the way; those of the structure, so that it is always damage
        position = chance.choice([i for i, byte in enumerate(text) if byte in b'{}[]:,"'])
        yield (packed(text[:position] + bytes([chance.choice(b"x7;|\x00\xff")]) + text[position + 1 :], data),)


def huge_header(chance: random.Random) -> Content:
    """Headers that claim more than there is, or really are as large as they say."""
    text = json.dumps(header_of(a_good_module())[0]).encode()
    for length in (2**63, 2**64 - 1, 2**62, 2**40, 2**31, 2**31 - 1, 2**26, len(text) + 10**6):
        yield (packed(text, b"", length),)
    for megabytes in (33, 64, 100, 512, 2000, 4096):  # holes in the file: no disk is used
        yield packed(text, b"", megabytes * 2**20), megabytes * 2**20 + 8
    for _ in range(50):
        yield (packed(text, bytes(64), chance.randrange(len(text) + 65, 2**63)),)


def offsets(chance: random.Random) -> Content:
    """Tensors that overlap, leave gaps, lie beyond the end, or do not have their shape's bytes."""
    for _, name, tensors in modules():
        good, data = header_of({**a_good_module(), **named(name, tensors)})
        keys = [key for key in good if good[key]["data_offsets"][1] > good[key]["data_offsets"][0]]
        for _ in range(12):
            bad = json.loads(json.dumps(good))
            entry = bad[chance.choice(keys)]
            start, end = entry["data_offsets"]
            move = chance.choice([-8, -4, 4, 8, 4096, 2**40]) if start else chance.choice([4, 8, 4096, 2**40])
            entry["data_offsets"] = chance.choice([[start + move, end + move], [start, end + abs(move)], [0, end + 4]])
            yield (packed(bad, data),)
        yield (packed(good, data + bytes(chance.randrange(1, 100))),)
        first, second = keys[0], keys[-1]
        swapped = {**good, first: {**good[first], "data_offsets": good[second]["data_offsets"]}}
        yield (packed(swapped, data),)


class Trap:
    """Unpickled, it would call `sprung`."""

    def __reduce__(self) -> tuple[Any, ...]:
        return sprung, ("a pickle was opened",)


def sprung(what: str) -> None:
    """Where pickles of the corpus lead."""
    raise AssertionError(what)


def pickles(chance: random.Random) -> Content:
    """Pickles, plain and zipped as torch has them, under the name of a safetensors file."""
    saved = io.BytesIO()
    torch.save({"lora_unet_x.alpha": torch.ones(3), "trap": Trap()}, saved)
    legacy = io.BytesIO()
    torch.save({"trap": Trap()}, legacy, _use_new_zipfile_serialization=False)
    plain = [pickle.dumps(Trap(), protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(zipfile.ZipInfo("archive/data.pkl"), plain[2])  # at the format's first date, not at today's
    for whole in [saved.getvalue(), legacy.getvalue(), *plain, archive.getvalue()]:
        for end in (len(whole), len(whole), len(whole) - 1, len(whole) // 2):
            yield (whole[:end],)
        yield (struct.pack("<Q", len(whole)) + whole,)
        yield (struct.pack("<Q", len(whole) + 1) + b"{" + whole,)


STARTS = (
    *(b"<!DOCTYPE html><html>", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"\x1f\x8b", b"GGUF", b"MZ"),
    *(b"\x7fELF", b"{}", b'{"a": 1}', b"version https://git-lfs.github.com/spec/v1\noid sha256:"),
)


def not_tensors(chance: random.Random) -> Content:
    """Pages, images, archives and noise."""
    for start in STARTS:
        for size in (0, 1, 100, 5000):
            yield (start + chance.randbytes(size),)
    for size in (1, 8, 9, 16, 100, 4096):
        for _ in range(8):
            yield (chance.randbytes(size),)
        yield (bytes(size),)
        yield (b"\xff" * size,)
