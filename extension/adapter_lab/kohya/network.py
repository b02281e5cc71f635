"""kohya's network options (`network_module`, `network_args`) as our network."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from adapter_lab import algorithms
from adapter_lab.config import NetworkConfig, TrainConfig
from adapter_lab.errors import ConfigError
from adapter_lab.kohya.reading import Keys, shown
from adapter_lab.kohya.table import HARMLESS, NETWORK_ARGS, row_of

# network_module -> algorithm; None: `algo` of network_args says it.
MODULES: dict[str, str | None] = {
    **{module: row.key for row in algorithms.ROWS for module in row.sd_scripts},
    "lycoris.kohya": None,
}
# What is lost where an algorithm becomes another.
NEAREST = {
    "networks.lora_fa": "LoRA-FA trains the up matrices alone; it becomes a LoRA, which trains both",
    "networks.dylora": "DyLoRA trains all ranks up to network_dim at once; it becomes a LoRA of that dim, which "
    "`adapter-lab resize` makes smaller afterwards",
}
# Known networks that cannot become anything here: what they are.
OTHER_MODULES = {
    "networks.oft": "kohya's own OFT, whose network_dim is a number of blocks (diag-OFT here has their size)",
    "networks.oft_flux": "OFT for Flux",
    "networks.lora_flux": "a LoRA for Flux",
    "networks.lora_sd3": "a LoRA for Stable Diffusion 3",
    "networks.lora_lumina": "a LoRA for Lumina",
    "networks.lora_anima": "a LoRA for Anima",
    "networks.lora_hunyuan_image": "a LoRA for HunyuanImage",
    "networks.control_net_lllite": "a ControlNet-LLLite",
}
# algo of network_args -> ours.
ALGORITHMS = {name: row.key for row in algorithms.ROWS for name in row.lycoris}
# LyCORIS presets: what they leave out of everything.
PRESETS: dict[str, dict[str, Any]] = {
    "full": {},
    "full-lin": {"conv_dim": 0, "train_conv": False},
    "attn-mlp": {"conv_dim": 0, "train_conv": False},
    "attn-only": {"conv_dim": 0, "train_conv": False, "feed_forward": False, "projections": False},
    "unet-only": {"train_te": False},
    "unet-transformer-only": {"conv_dim": 0, "train_conv": False, "train_te": False},
    "unet-convblock-only": {"attention": False, "feed_forward": False, "projections": False, "train_te": False},
}
# Modules that LyCORIS trains with a preset and that are never trained here.
_ENDS = "conv_in, conv_out"
_TIME = "time_embedding.linear_1, time_embedding.linear_2"
MISSED = {
    "full": f"{_ENDS}, {_TIME}",
    "full-lin": f"{_TIME} and the resnets' time_emb_proj",
    "unet-only": f"{_ENDS}, {_TIME}",
    "unet-convblock-only": _ENDS,
}
# A dim that no module has: LyCORIS then keeps LoKr's second factor whole.
LARGEST_DIM = 4096
TUCKER = ("use_tucker", "use_cp", "use_conv_cp")
# Switches that LyCORIS has too, by its name for them.
SAME_BOOLEAN = {
    entry.metadata["lycoris"]: entry.name
    for entry in fields(NetworkConfig)
    if entry.metadata["lycoris"] and isinstance(entry.default, bool) and entry.name != "tucker"
}


def import_network(config: TrainConfig, keys: Keys) -> None:
    """Fill `config.network` from the flat settings; raises ConfigError for a network that cannot be trained here."""
    network = config.network
    args = keys.table(keys.arguments("network_args"), "network_args")
    module = keys.text("network_module", "networks.lora")
    lycoris = module.startswith("lycoris")
    network.algo = _algorithm(module, args, keys)
    # sd-scripts' own defaults, not ours.
    network.dim, alpha = keys.integer("network_dim", 4), keys.number("network_alpha", 1.0)
    network.alpha = alpha or "dim"  # as theirs take 0
    if network.algo in (algorithms.users("train_conv") or ()):
        network.train_conv = True
    # LyCORIS trains convolutions at the linear layers' dim unless told otherwise; networks.lora only when told to.
    network.conv_dim = args.integer("conv_dim", network.dim if lycoris else 0) or (network.dim if lycoris else 0)
    conv_alpha = args.number("conv_alpha", alpha if lycoris else 1.0)
    network.conv_alpha = (conv_alpha or "dim") if network.conv_dim and conv_alpha != alpha else "same"
    network.factor = args.integer("factor", -1)
    network.constraint = args.number("constraint")
    network.dropout = args.number("dropout", keys.number("network_dropout"))
    network.rank_dropout, network.module_dropout = args.number("rank_dropout"), args.number("module_dropout")
    network.max_norm = keys.number("scale_weight_norms")
    for theirs, ours in SAME_BOOLEAN.items():
        setattr(network, ours, args.boolean(theirs))
    on_output = args.boolean("wd_on_output", True)
    if network.dora:
        network.dora_axis = "output" if on_output else "input"
    tucker = [args.boolean(name) for name in TUCKER]
    network.tucker = any(tucker) | (not args.boolean("disable_conv_cp", True))
    _lora_plus(config, args)
    _whole_matrices(config, keys)
    _parts(config, keys)
    if lycoris:
        _preset(config, args)
    _adapters(config, keys)
    for name in list(args.values):
        row = row_of(name, NETWORK_ARGS)
        if row.fate == HARMLESS:
            args.take(name)
        args.leave(name, row.words, (*row.silent, "False", "false", "0", 0))


def _algorithm(module: str, args: Keys, keys: Keys) -> str:
    if module not in MODULES:
        what = OTHER_MODULES.get(module, "not known here")
        raise ConfigError(
            f"{keys.called('network_module')} is {shown(module)}, which is {what} and cannot be imported; what can are "
            f"{', '.join(MODULES)}."
        )
    if module in NEAREST:
        keys.note("network_module", module, NEAREST[module])
    named = args.text("algo", "lora").lower()
    algo = MODULES[module] or ALGORITHMS.get(named)
    if algo is None:
        raise ConfigError(
            f"network_args algo is {shown(named)}, which is not trained here; choose one of {', '.join(ALGORITHMS)}."
        )
    return algo


def _lora_plus(config: TrainConfig, args: Keys) -> None:
    """LoRA+: one ratio of rates here, the UNet's where it has one of its own."""
    common = args.number("loraplus_lr_ratio")
    ratio = args.number("loraplus_unet_lr_ratio", common) or 1.0
    if config.network.algo in (algorithms.users("lora_plus_ratio") or ()):
        config.network.lora_plus_ratio = ratio
    elif ratio != 1.0:
        args.note("loraplus_lr_ratio", ratio, f"{config.network.algo} has no LoRA+ here")


def _whole_matrices(config: TrainConfig, keys: Keys) -> None:
    """LyCORIS is asked for whole matrices by a dim larger than any module; here `full_matrix` asks for them."""
    network = config.network
    if network.algo != "lokr" or max(network.dim, network.conv_dim) <= LARGEST_DIM:
        return
    if network.conv_dim and min(network.dim, network.conv_dim) <= LARGEST_DIM:
        smaller = "network_dim" if network.dim <= LARGEST_DIM else "network_args.conv_dim"
        reason = "the other dim asks for whole matrices, which LoKr has here for linear layers and convolutions alike"
        keys.note(smaller, min(network.dim, network.conv_dim), reason)
    network.full_matrix = True
    network.dim = min(network.dim, LARGEST_DIM)
    network.conv_dim = min(network.conv_dim, LARGEST_DIM)


def _parts(config: TrainConfig, keys: Keys) -> None:
    """Which models are trained: sd-scripts trains the text encoders too unless told otherwise."""
    network, optimizer = config.network, config.optimizer
    unet_only = keys.boolean("network_train_unet_only")
    te_only = keys.boolean("network_train_text_encoder_only")
    cached = keys.boolean("cache_text_encoder_outputs") | keys.boolean("cache_text_encoder_outputs_to_disk")
    common = keys.number("learning_rate", 2e-6)
    unet = keys.number("unet_lr", common)
    rates = keys.numbers("text_encoder_lr", [common]) or [common]
    te1, te2 = rates[0], rates[min(1, len(rates) - 1)]
    if len(rates) > 2:
        keys.note("text_encoder_lr", rates, "there are two text encoders here: the first two rates are imported")
    network.train_unet = not te_only and unet > 0
    network.train_te = not (unet_only or cached) and (te1 > 0 or te2 > 0)
    optimizer.lr = unet if network.train_unet else max(te1, te2)
    if network.train_te:
        network.train_te1, network.train_te2 = te1 > 0, te2 > 0
        optimizer.te1_lr = te1 if network.train_te1 and te1 != optimizer.lr else "same"
        optimizer.te2_lr = te2 if network.train_te2 and te2 != optimizer.lr else "same"


def _preset(config: TrainConfig, args: Keys) -> None:
    preset = args.text("preset", "full")
    if preset not in PRESETS:
        args.note("preset", preset, "this preset is not known here; choose modules by network.rules")
        return
    for name, value in PRESETS[preset].items():
        setattr(config.network, name, value)
    if config.network.conv_dim == 0:
        config.network.conv_alpha = "same"
    if preset in MISSED and config.network.train_unet:
        args.note("preset", preset, f"LyCORIS would also train {MISSED[preset]}, which are never trained here")


def _adapters(config: TrainConfig, keys: Keys) -> None:
    config.network.start_from = keys.text("network_weights")
    files, strengths = keys.texts("base_weights"), keys.numbers("base_weights_multiplier", [])
    for index, file in enumerate(files):
        strength = strengths[index] if index < len(strengths) else 1.0
        config.network.frozen_adapters.append(file if strength == 1 else f"{file}:{strength:g}")
