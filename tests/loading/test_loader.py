"""Loading as every web UI shares it: what is ours, what is refused, what is said, and when a web UI must forget."""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from adapter_lab.adapters import algorithms
from adapter_lab.adapters import file as files
from adapter_lab.adapters.file import save_adapter
from adapter_lab.adapters.keys import targets
from adapter_lab.adapters.lora import LoRA
from adapter_lab.hosts.loading.base_model import BaseModel, checkpoint_base, comfy_base
from adapter_lab.hosts.loading.loader import Loader, Request
from adapter_lab.hosts.loading.verdict_table import HOSTS
from tests.adapters.layouts import real_shapes
from tests.adapters.random_adapter import random_tensors

QUERY = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q"
KEY = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_k"
VALUE = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_v"
SHAPES = real_shapes("sd15")


@dataclass
class Chosen:
    """Settings as a person may choose them."""

    enabled: bool = True
    every_file: bool = False
    verbosity: str = "normal"
    cache_bytes: int = 2**30


@pytest.fixture(scope="module")
def base() -> BaseModel:
    found = checkpoint_base("my checkpoint", SHAPES)
    assert found is not None
    return found


@pytest.fixture
def flux() -> BaseModel:
    """A model we have no table for, with one layer the web UI has a name for."""
    return comfy_base("flux", {"diffusion_model.x.weight": (8, 8)}, {}, lambda: {"x": "diffusion_model.x.weight"})


def loader(host: str = "classic", **chosen: Any) -> Loader:
    return Loader(Chosen(**chosen), host)


def write(path: Path, algorithm: str = "lora", names: tuple[str, ...] = (QUERY,), **more: Tensor) -> str:
    torch.manual_seed(0)
    table = targets(SHAPES)
    tensors = {
        f"{name}.{suffix}": tensor
        for name in names
        for suffix, tensor in random_tensors(algorithm, table[name].shape if name in table else (8, 8)).items()
    }
    save_adapter(path, {**tensors, **{key.replace("__", "."): tensor for key, tensor in more.items()}}, {})
    return str(path)


def load(found: Loader, base: BaseModel, *paths: str) -> dict[str, Any]:
    """One generation: begin, and plan what is ours."""
    found.begin([Request(Path(path).stem, path) for path in paths])
    return {path: found.plan(path, base) for path in paths if found.takes(path, base)}


@pytest.mark.parametrize(
    ("host", "algorithm", "ours"),
    [
        ("classic", "lora", False),
        ("classic", "lokr", False),
        ("classic", "dora", True),
        ("classic", "diag-oft", True),
        ("classic", "glora", True),
        ("a1111", "diag-oft", False),
        ("a1111", "dora", True),
        ("a1111", "glora", True),
        ("forge", "boft", True),
        ("forge", "loha", False),
        ("neo", "oftv2", False),
        ("neo", "diag-oft", True),
        ("reforge", "ia3", True),
    ],
)
def test_only_those_the_web_ui_gets_wrong(
    host: str, algorithm: str, ours: bool, base: BaseModel, tmp_path: Path
) -> None:
    found = loader(host)
    path = write(tmp_path / "a.safetensors", algorithm)
    assert bool(load(found, base, path)) == ours
    assert bool(found.reports()) == ours


@dataclass(eq=False)
class Invented(LoRA):
    """An algorithm that no web UI was asked about, with an option of its own."""

    algorithm: ClassVar[str] = "invented"
    suffixes: ClassVar[tuple[str, ...]] = ("invented_up", "invented_down")

    @classmethod
    def reads(cls, shapes: Any) -> bool:
        return "invented_up" in shapes

    @classmethod
    def from_tensors(cls, tensors: Any, options: Any) -> Invented:
        return cls(tensors["invented_up"], tensors["invented_down"], None, 1.0)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("beside", [(), ("lora",)], ids=["alone", "beside a lora"])
def test_a_new_algorithm_is_ours_in_every_web_ui(
    beside: tuple[str, ...], host: str, base: BaseModel, flux: BaseModel, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(algorithms, "ALGORITHMS", (Invented, *algorithms.ALGORITHMS))
    for module in (algorithms, files):
        monkeypatch.setattr(module, "split_key", lambda key: tuple(key.split(".", 1)))
    for model, name, size in ((base, QUERY, 320), (flux, "x", 8)):
        tensors = {f"{name}.invented_up": torch.ones(size, 2), f"{name}.invented_down": torch.ones(2, size)}
        modules = {name}
        for algorithm in beside if model is base else ():
            more = random_tensors(algorithm, (320, 320))
            tensors |= {f"{KEY}.{suffix}": tensor for suffix, tensor in more.items()}
            modules.add(KEY)
        save_adapter(tmp_path / "a.safetensors", tensors, {})
        found = loader(host)
        (plan,) = load(found, model, str(tmp_path / "a.safetensors")).values()
        assert plan.modules == modules
        found.cache.clear()


@pytest.mark.parametrize("host", HOSTS)
def test_all_adapter_files_if_so_chosen_and_none_when_off(host: str, base: BaseModel, tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors")
    assert not load(loader(host), base, path)
    assert load(loader(host, every_file=True), base, path)
    off = loader(host, every_file=True, enabled=False)
    assert not load(off, base, path) and off.reports() == []


def shape_misfit(path: Path) -> str:
    return write(path, more_x__diff=torch.zeros(2), **{f"{KEY}__diff": torch.zeros(3, 3)})


def nan(path: Path) -> str:
    return write(path, **{f"{KEY}__diff": torch.full((320, 320), float("nan"))})


def unknown_module(path: Path) -> str:
    return write(path, names=(QUERY, "lora_unet_no_such_module"))


@pytest.mark.parametrize("damage", [shape_misfit, nan, unknown_module])
def test_a_plain_file_the_web_ui_would_stumble_over_is_ours(damage: Any, base: BaseModel, tmp_path: Path) -> None:
    found = loader()
    path = damage(tmp_path / "a.safetensors")
    plan = load(found, base, path)[path]
    assert plan.modules == {QUERY}
    (report,) = found.reports()
    assert report.applied < report.total and report.reasons


def pickled(path: Path) -> str:
    path.write_bytes(pickle.dumps({"a": 1}, protocol=2))
    return str(path)


def truncated(path: Path) -> str:
    write(path)
    os.truncate(path, path.stat().st_size - 10)
    return str(path)


def for_sdxl(path: Path) -> str:
    return write(path, names=("lora_te2_text_model_encoder_layers_0_mlp_fc1",))


def missing(path: Path) -> str:
    return str(path)


REFUSED = {
    pickled: "is a pickle file, which could run code when read; convert it to .safetensors first.",
    truncated: "is cut short: it should have",
    for_sdxl: "Stable Diffusion 3, but my checkpoint is an SD1.5 checkpoint; choose an adapter of the same family.",
    missing: "There is no file",
}


@pytest.mark.parametrize("every_file", [False, True])
@pytest.mark.parametrize("make", REFUSED)
def test_what_cannot_be_used_is_refused_in_a_sentence_and_the_others_apply(
    make: Any, every_file: bool, base: BaseModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = loader(every_file=every_file)
    bad, good = make(tmp_path / "bad.safetensors"), write(tmp_path / "good.safetensors", "dora")
    plans = load(found, base, bad, good)
    assert plans[bad] is None and plans[good].modules == {QUERY}
    first, second = found.reports()
    assert first.refused and REFUSED[make] in first.refused and bad in first.refused
    assert second.complete
    assert f"[Adapter Lab] bad: not applied. {first.refused}\n" in capsys.readouterr().out


@pytest.mark.parametrize("every_file", [False, True])
def test_other_formats_stay_the_web_uis(every_file: bool, base: BaseModel, tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(pickle.dumps({"a": 1}))
    (tmp_path / "b.ckpt").write_bytes(b"")
    save_adapter(tmp_path / "embedding.safetensors", {"emb_params": torch.zeros(3)}, {})
    found = loader(every_file=every_file)
    paths = [str(path) for path in tmp_path.iterdir()]
    assert load(found, base, *paths) == {} and found.reports() == []


def test_a_name_without_a_file_is_told_once_and_reported(
    base: BaseModel, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found = loader()
    found.begin([Request("typo", None), Request("a", write(tmp_path / "a.safetensors"))])
    sentence = "typo: not applied. There is no adapter called typo; check its name in the prompt."
    assert capsys.readouterr().out == f"[Adapter Lab] {sentence}\n"
    assert [report.warning() for report in found.reports()] == [sentence]


def test_one_line_per_file_when_it_is_loaded(
    base: BaseModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "a.safetensors", "dora", (QUERY, KEY))
    load(loader(), base, path)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("[Adapter Lab] a: lora with DoRA, 2 of 2 modules, ") and line.endswith(" s")


@pytest.mark.parametrize(("verbosity", "lines", "named"), [("quiet", 1, 3), ("normal", 2, 3), ("all", 2, 5)])
def test_verbosity(
    verbosity: str, lines: int, named: int, base: BaseModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "a.safetensors", names=(QUERY, *(f"lora_unet_none_{n}" for n in range(5))))
    load(loader(verbosity=verbosity), base, path)
    out = capsys.readouterr().out
    assert len(out.splitlines()) == lines and out.count("the base has no such module") == named


def test_tensors_of_no_known_algorithm_are_told(base: BaseModel, tmp_path: Path) -> None:
    found = loader()
    load(found, base, write(tmp_path / "a.safetensors", "dora", bundle_emb__x=torch.zeros(2)))
    (report,) = found.reports()
    assert (report.applied, report.total) == (1, 1)
    assert report.reasons == {"bundle_emb.x": "it reads no embeddings out of adapter files"}


def test_the_web_ui_forgets_when_a_file_is_new_or_changed_and_only_then(base: BaseModel, tmp_path: Path) -> None:
    found, path = loader(), write(tmp_path / "a.safetensors")
    requests = [Request("a", path)]
    assert found.begin(requests) and not found.begin(requests)
    assert not found.begin([]) and not found.begin(requests)
    write(tmp_path / "a.safetensors", "lokr")
    assert found.begin(requests) and not found.begin(requests)
    os.remove(path)
    assert found.begin(requests) and not found.begin(requests)
    write(tmp_path / "a.safetensors")
    assert found.begin(requests)


@pytest.mark.parametrize("setting", ["enabled", "every_file"])
def test_the_web_ui_forgets_when_our_settings_change(setting: str, tmp_path: Path) -> None:
    chosen = Chosen()
    found = Loader(chosen, "classic")
    requests = [Request("a", write(tmp_path / "a.safetensors"))]
    found.begin(requests)
    setattr(chosen, setting, not getattr(chosen, setting))
    assert found.begin(requests) and not found.begin(requests)


def test_reports_stay_while_the_web_ui_applies_nothing_anew(base: BaseModel, tmp_path: Path) -> None:
    found, path = loader(), write(tmp_path / "a.safetensors", "dora")
    load(found, base, path)
    said = found.reports()
    found.begin([Request("a", path)])
    assert found.reports() == said != []
    found.begin([])
    assert found.reports() == []
    found.begin([Request("a", path)])
    assert found.reports() == said
    write(tmp_path / "a.safetensors", "boft")
    found.begin([Request("a", path)])
    assert found.reports() == []


def test_reports_follow_the_prompts_order_each_file_once(base: BaseModel, tmp_path: Path) -> None:
    found = loader()
    paths = [write(tmp_path / f"{name}.safetensors", "dora") for name in "cab"]
    load(found, base, paths[0], paths[1], paths[0], paths[2])
    assert [report.name for report in found.reports()] == ["c", "a", "b"]


def test_nothing_is_read_or_matched_twice(base: BaseModel, tmp_path: Path) -> None:
    found, path = loader(every_file=True), write(tmp_path / "a.safetensors")
    plans = [load(found, base, path)[path] for _ in range(3)]
    assert plans[0] is plans[1] is plans[2]
    assert found.cache.reads == 1 and found.cache.get(path).loads == 1


def test_a_file_the_web_ui_loads_is_read_once_for_both_and_not_kept(base: BaseModel, tmp_path: Path) -> None:
    found, path = loader(), write(tmp_path / "a.safetensors")
    assert load(found, base, path) == {}
    entry = found.cache.get(path)
    handed_over = found.tensors(path)
    assert set(handed_over) == {f"{QUERY}.{suffix}" for suffix in ("lora_up.weight", "lora_down.weight", "alpha")}
    for _ in range(3):
        assert load(found, base, path) == {}
    assert entry.loads == 1 and entry._weights is None
    with open(path, "r+b") as file:
        file.write(bytes(os.path.getsize(path)))
    assert handed_over[f"{QUERY}.lora_up.weight"].any()


def test_a_module_that_fails_while_weights_are_patched_reaches_the_report(
    base: BaseModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, path = loader(), write(tmp_path / "a.safetensors", "dora", (QUERY, KEY))
    plan = load(found, base, path)[path]
    patch = next(patch for patch in plan.patches.values() if patch.modules[0].name == KEY)
    for _ in range(2):
        patch.apply_(torch.zeros(3, 3), 1.0)
    (report,) = found.reports()
    assert report.applied == 1 and list(report.reasons) == [KEY]
    assert capsys.readouterr().out.count(f"a: {KEY} was not applied") == 1


def test_a_web_ui_may_say_that_it_failed_itself(base: BaseModel, tmp_path: Path) -> None:
    found, path = loader(), write(tmp_path / "a.safetensors")
    found.begin([Request("a", path)])
    found.refuse(path, "Forge could not load it.")
    assert [report.warning() for report in found.reports()] == ["a: not applied. Forge could not load it."]


@pytest.mark.parametrize("where", ["match", "_weights_of", "make_plan"])
def test_a_mistake_of_ours_costs_the_file_not_the_picture(
    where: str, base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(*args: Any) -> None:
        raise TypeError("unexpected")

    monkeypatch.setattr(f"adapter_lab.hosts.loading.cache.{where}", stumble)
    found, path = loader(), write(tmp_path / "a.safetensors", "dora")
    assert load(found, base, path) == {path: None}
    (report,) = found.reports()
    assert report.refused == f"{path} made Adapter Lab stumble (TypeError: unexpected); please report this."


def test_files_chosen_together_are_all_ours_as_soon_as_one_is(base: BaseModel, tmp_path: Path) -> None:
    found = loader()
    plain, dora = write(tmp_path / "plain.safetensors"), write(tmp_path / "dora.safetensors", "dora")
    (tmp_path / "old.pt").write_bytes(b"x")
    everything = [plain, dora, str(tmp_path / "old.pt")]
    assert found.choose(everything, base) == {dora}
    assert found.choose(everything, base, together=True) == {plain, dora}
    assert found.choose([plain], base, together=True) == set()
    assert found.choose(everything, None, together=True) == set()


def test_of_a_model_we_have_no_table_for_the_web_ui_keeps_what_it_finds_as_the_file_names_it(
    flux: BaseModel, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.safetensors", names=("x",))
    assert not load(loader("neo"), flux, path)
    assert load(loader("neo", every_file=True), flux, path)
    assert load(loader("neo"), flux, write(tmp_path / "b.safetensors", "diag-oft", ("x",)))


@pytest.mark.parametrize("every_file", [False, True])
@pytest.mark.parametrize("algorithm", ["lora", "diag-oft"])
def test_one_name_that_a_model_lacks_is_named_and_the_rest_applied(
    algorithm: str, every_file: bool, flux: BaseModel, tmp_path: Path
) -> None:
    found = loader("neo", every_file=every_file)
    path = write(tmp_path / "a.safetensors", algorithm, ("x", "transformer.y"))
    assert load(found, flux, path)[path].modules == {"x"}
    (report,) = found.reports()
    assert report.reasons == {"transformer.y": "the base has no such module"}


@pytest.mark.parametrize("every_file", [False, True])
def test_names_a_web_ui_would_drop_without_a_word_are_ours(every_file: bool, flux: BaseModel, tmp_path: Path) -> None:
    found = loader("neo", every_file=every_file)
    spelled, unknown = (
        write(tmp_path / f"{name}.safetensors", names=(name,)) for name in ("base_model.model.x", "transformer.y")
    )
    plans = load(found, flux, spelled, unknown)
    assert plans[spelled].modules == {"base_model.model.x"} and plans[unknown] is None
    assert "does not fit flux" in str(found.reports()[1].refused)


@pytest.mark.parametrize("every_file", [False, True])
def test_a_plain_file_with_a_weight_that_only_the_web_ui_can_patch_stays_its_own(
    every_file: bool, tmp_path: Path
) -> None:
    names = {"x": "diffusion_model.x.weight", "fused": ("diffusion_model.x.weight", (0, 0, 4), lambda weight: weight)}
    base = comfy_base("flux", {"diffusion_model.x.weight": (8, 8)}, {}, lambda: names)
    found = loader("neo", every_file=every_file)
    assert not load(found, base, write(tmp_path / "a.safetensors", names=("x", "fused")))
    path = write(tmp_path / "b.safetensors", "diag-oft", ("x", "fused"))
    assert load(found, base, path)[path].modules == {"x"}


@pytest.mark.parametrize("stated", [True, False])
def test_a_strength_that_the_file_does_not_state_is_said_to_be_guessed(
    stated: bool, base: BaseModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "a.safetensors", "lora", (QUERY, KEY))
    if not stated:
        tensors = {key: tensor for key, tensor in load_file(path).items() if not key.endswith(".alpha")}
        save_file(tensors, path)
    found = loader(every_file=True)
    load(found, base, path)
    (report,) = found.reports()
    (line,) = capsys.readouterr().out.splitlines()
    sentence = "Alpha is not stated in 2 modules, such as "
    assert report.complete and report.summary() == "a: lora, 2 of 2 modules"
    assert (sentence in line) == (sentence in (report.warning() or "")) == (not stated)
