"""sd-scripts' and Forge Neo's own code on the files that `anima_parity.py` wrote; that script runs this one.

    python benchmarks/anima_others.py sd-scripts|speed|neo CHECKOUT FOLDER

It needs no package of this repository, so that it runs with the other program's interpreter. FOLDER has `task.json`,
`inputs.safetensors` and the model's files; the answer's tensors go to `NAME.safetensors` in it. All in fp32 on the CPU.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

TRANSFORMER, ENCODER = "anima.safetensors", "qwen_3_06b_base.safetensors"


class SdScripts:
    """sd-scripts' trainer of Anima with a model of fewer blocks and our LoRA file, as `train` sets it up."""

    def __init__(self, folder: Path, task: dict[str, Any]) -> None:
        trainer = importlib.import_module("anima_train_network")
        self.trainer = trainer.AnimaNetworkTrainer()
        self.args = trainer.setup_parser().parse_args(task["arguments"])
        self.args.qwen3 = str(folder / ENCODER)
        self.accelerator = importlib.import_module("accelerate").Accelerator(cpu=True)
        self.tokenize = self.trainer.get_tokenize_strategy(self.args)
        self.encoding = self.trainer.get_text_encoding_strategy(self.args)
        with shortened(task):
            utils = importlib.import_module("library.anima_utils")
            self.encoder, _ = utils.load_qwen3_text_encoder(self.args.qwen3, torch.float32)
            transformer = str(folder / TRANSFORMER)
            self.unet = utils.load_anima_model("cpu", transformer, "torch", False, "cpu", torch.float32)
        self.unet.requires_grad_(False).train()
        if self.args.gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()
        lora = importlib.import_module("networks.lora_anima")
        self.network = lora.create_network(1.0, task["dim"], task["alpha"], None, [], self.unet)
        self.network.apply_to([], self.unet, apply_text_encoder=False, apply_unet=True)
        found = self.network.load_weights(str(folder / "lora.safetensors"))
        assert not found.missing_keys and not found.unexpected_keys, found
        self.network.requires_grad_(True).train()

    def text(self, captions: list[str]) -> list[Tensor]:
        """What its caches hold of captions."""
        with torch.no_grad():
            found = self.encoding.encode_tokens(self.tokenize, [self.encoder.eval()], self.tokenize.tokenize(captions))
        return list(found)

    def loss(self, latents: Tensor, text: list[Tensor]) -> Tensor:
        """Loss of a batch, and gradients of the LoRA."""
        batch = {"latents": latents, "loss_weights": torch.ones(len(latents)), "captions": []}
        batch["text_encoder_outputs_list"] = [*text, torch.zeros(len(latents))]  # its own dropout of captions: none
        scheduler = self.trainer.get_noise_scheduler(self.args, torch.device("cpu"))
        self.network.zero_grad()
        loss: Tensor = self.trainer.process_batch(
            batch, [self.encoder], self.unet, self.network, None, scheduler, torch.float32, torch.float32,
            self.accelerator, self.args, self.encoding, self.tokenize, train_text_encoder=False,
        )  # fmt: skip
        loss.backward()
        return loss


@contextlib.contextmanager
def shortened(task: dict[str, Any]) -> Iterator[None]:
    """Inside, sd-scripts' loaders make models with the files' numbers of blocks, which they take for given."""
    models, transformers = importlib.import_module("library.anima_models"), importlib.import_module("transformers")
    whole, read = models.Anima, transformers.Qwen3Config.from_pretrained

    def short(*args: Any, **named: Any) -> Any:
        config = read(*args, **named)
        config.num_hidden_layers, config.layer_types = task["layers"], config.layer_types[: task["layers"]]
        return config

    models.Anima = lambda **config: whole(**{**config, "num_blocks": task["blocks"]})
    transformers.Qwen3Config.from_pretrained = short
    try:
        yield
    finally:
        models.Anima, transformers.Qwen3Config.from_pretrained = whole, read


@contextlib.contextmanager
def drawing(noise: Tensor, number: Tensor) -> Iterator[None]:
    """Inside, torch draws this noise and these numbers for times, whatever the distribution that is asked for."""
    names = ("randn_like", "randn", "rand", "normal")
    before = {name: getattr(torch, name) for name in names}
    torch.randn_like = lambda *args, **named: noise.clone()
    torch.randn = torch.rand = lambda *args, **named: number.clone()
    torch.normal = lambda mean, std, **named: mean + std * number
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(torch, name, function)


def sd_scripts(folder: Path, task: dict[str, Any]) -> dict[str, Tensor]:
    """Contexts, and time, loss and gradients of a step for each way to draw times."""
    theirs, given = SdScripts(folder, task), load_file(folder / "inputs.safetensors")
    states, mask, ids, seen = text = theirs.text(task["captions"])
    with torch.no_grad():
        found = {"context": theirs.unet._preprocess_text_embeds(states, ids, seen, mask)}
    drawn = []
    get = theirs.trainer.get_noise_pred_and_target

    def watched(*args: Any, **named: Any) -> Any:
        answer = get(*args, **named)
        drawn.append(answer[2].detach().clone())
        return answer

    theirs.trainer.get_noise_pred_and_target = watched
    for name, (options, _) in task["times"].items():
        vars(theirs.args).update(options)
        with drawing(given["noise"], given[f"drawn {name}"]):
            found[f"loss {name}"] = theirs.loss(given["latents"], [part.clone() for part in text]).detach()
        found[f"time {name}"] = drawn[-1] * 1000
        for module in theirs.network.unet_loras:
            for factor in ("lora_down", "lora_up"):
                found[f"{name} {module.lora_name}.{factor}.weight"] = getattr(module, factor).weight.grad.clone()
    return found


def speed(folder: Path, task: dict[str, Any]) -> dict[str, Tensor]:
    """A step for each line that comes in, of which the seconds are said; text is encoded once, as with its cache.

    A line of "context kept": without the text conditioner, which sd-scripts otherwise runs in every step.
    """
    theirs, given = SdScripts(folder, task), load_file(folder / "inputs.safetensors")
    text = theirs.text(task["captions"])
    del theirs.encoder
    theirs.encoder = None
    conditioned = theirs.unet._preprocess_text_embeds
    states, mask, ids, seen = text
    with torch.no_grad():
        context = conditioned(states, ids, seen, mask)
    say("ready")
    for line in sys.stdin:
        kept = line.strip() == "context kept"
        theirs.unet._preprocess_text_embeds = (lambda *given: context) if kept else conditioned
        begin = time.perf_counter()
        theirs.loss(given["latents"], [part.clone() for part in text])
        say(str(time.perf_counter() - begin))
    return {}


def neo(folder: Path, task: dict[str, Any]) -> dict[str, Tensor]:
    """Contexts by Neo's engine of captions as they are typed into its prompt, and with its emphasis switched off."""
    importlib.import_module("modules.shared_init").initialize()
    shared, llama = importlib.import_module("modules.shared"), importlib.import_module("backend.nn.llm.llama")
    engine = importlib.import_module("backend.text_processing.anima_engine").AnimaTextProcessingEngine
    operations, transformers = importlib.import_module("backend.operations"), importlib.import_module("transformers")
    llama.Qwen3_06BConfig = functools.partial(llama.Qwen3_06BConfig, num_hidden_layers=task["layers"])
    with operations.using_forge_operations(device=torch.device("cpu"), dtype=torch.float32):
        encoder = llama.Qwen3_06B({})
    state = load_file(folder / ENCODER)
    own = {name.removeprefix("net."): tensor for name, tensor in load_file(folder / TRANSFORMER).items()}
    state |= {name: tensor for name, tensor in own.items() if name.startswith("llm_adapter.")}
    found = encoder.load_state_dict({name: tensor.float() for name, tensor in state.items()}, strict=False)
    assert not found.unexpected_keys and not [key for key in found.missing_keys if "inv_freq" not in key], found
    place = Path("backend/huggingface/circlestone-labs/Anima").resolve()
    qwen3 = transformers.AutoTokenizer.from_pretrained(place / "tokenizer")
    t5 = transformers.AutoTokenizer.from_pretrained(place / "tokenizer_2")
    contexts = {}
    for emphasis, captions in (("Original", task["typed"]), ("None", task["captions"])):
        shared.opts.data["emphasis"] = emphasis
        with torch.inference_mode():
            for number, context in enumerate(engine(encoder.eval(), qwen3, t5)(captions)):
                contexts[f"{emphasis} {number}"] = context.clone()
    return contexts


def say(line: str) -> None:
    print(line, file=ANSWERS, flush=True)


RUNS = {"sd-scripts": sd_scripts, "speed": speed, "neo": neo}


def main() -> None:
    what, checkout, folder = sys.argv[1], Path(sys.argv[2]).resolve(), Path(sys.argv[3]).resolve()
    task = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    sys.path[:0] = [str(checkout), str(checkout / "modules_forge/packages")]
    sys.argv[1:] = ["--cpu"] if what == "neo" else []
    os.chdir(checkout)
    answer = RUNS[what](folder, task)
    save_file({name: tensor.detach().float().contiguous() for name, tensor in answer.items()},
              folder / f"{what}.safetensors")  # fmt: skip


if __name__ == "__main__":
    # What the programs print is not for who reads the times.
    ANSWERS, sys.stdout = sys.stdout, sys.stderr
    main()
