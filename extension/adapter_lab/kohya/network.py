"""kohya's network options (`network_module`, `network_args`) as our network."""

from __future__ import annotations

from typing import Any

from adapter_lab.config import TrainConfig
from adapter_lab.errors import ConfigError
from adapter_lab.kohya.reading import Keys, arguments, numbers

# network_module -> algorithm; None: `algo` of network_args says it.
MODULES = {
    "networks.lora": "lora",
    "networks.loha": "loha",
    "networks.lokr": "lokr",
    "lycoris.kohya": None,
    "lycoris.locon_kohya": "lora",
}
ALGORITHMS = {
    "lora": "lora",
    "locon": "lora",
    "loha": "loha",
    "lokr": "lokr",
    "glora": "glora",
    "ia3": "ia3",
    "diag-oft": "diag-oft",
    "boft": "boft",
    "full": "full",
}
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
TUCKER = ("use_tucker", "use_cp", "use_conv_cp")
SAME_BOOLEAN = {
    "use_scalar": "use_scalar",
    "dora_wd": "dora",
    "decompose_both": "decompose_both",
    "full_matrix": "full_matrix",
    "unbalanced_factorization": "unbalanced",
    "rs_lora": "rs_lora",
    "train_norm": "train_norm",
    "rescaled": "rescaled",
    "train_on_input": "train_on_input",
}
NOT_CARRIED = {
    "bypass_mode": "the cheapest exact forward is chosen here by itself",
    "rank_dropout_scale": "there is no such option here",
    "loraplus_lr_ratio": "there is no LoRA+ here; use lr_scale in network.rules",
    "loraplus_unet_lr_ratio": "there is no LoRA+ here; use lr_scale in network.rules",
    "loraplus_text_encoder_lr_ratio": "there is no LoRA+ here; use lr_scale in network.rules",
    "block_size": "it belongs to DyLoRA, which is not trained here",
    "weight_decompose": "set network.dora instead",
    **dict.fromkeys(
        ("block_dims", "block_alphas", "conv_block_dims", "conv_block_alphas", "down_lr_weight", "mid_lr_weight")
        + ("up_lr_weight", "block_lr_zero_threshold"),
        "write block-wise settings as network.rules",
    ),
}


def import_network(config: TrainConfig, keys: Keys) -> None:
    """Fill `config.network` from the flat settings; raises ConfigError for a network that cannot be trained here."""
    network = config.network
    args = keys.table(arguments(keys.take("network_args"), "network_args"), "network_args")
    module = keys.text("network_module", "networks.lora")
    lycoris = module.startswith("lycoris")
    network.algo = _algorithm(module, args)
    # sd-scripts' own defaults, not ours.
    network.dim, alpha = keys.integer("network_dim", 4), keys.number("network_alpha", 1.0)
    network.alpha = alpha or "dim"  # as theirs take 0
    if network.algo in ("ia3", "full"):
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
    if network.dora:
        network.dora_axis = "output" if args.boolean("wd_on_output", True) else "input"
    args.take("wd_on_output")
    asked = [args.boolean(name) for name in TUCKER]
    network.tucker = any(asked) or not args.boolean("disable_conv_cp", True)
    _parts(config, keys)
    _preset(config, args)
    _adapters(config, keys)
    for name in list(args.values):
        args.leave(name, NOT_CARRIED.get(name, "this import does not know it"))


def _algorithm(module: str, args: Keys) -> str:
    if module not in MODULES:
        raise ConfigError(
            f"network_module is {module!r}; only {', '.join(MODULES)} can be imported, so set up this network by hand."
        )
    named = args.text("algo", "lora").lower()
    algo = MODULES[module] or ALGORITHMS.get(named)
    if algo is None:
        raise ConfigError(
            f"network_args algo is {named!r}, which is not trained here; choose one of {', '.join(ALGORITHMS)}."
        )
    return algo


def _parts(config: TrainConfig, keys: Keys) -> None:
    """Which models are trained: sd-scripts trains the text encoders too unless told otherwise."""
    network, optimizer = config.network, config.optimizer
    unet_only = keys.boolean("network_train_unet_only")
    te_only = keys.boolean("network_train_text_encoder_only")
    cached = keys.boolean("cache_text_encoder_outputs") | keys.boolean("cache_text_encoder_outputs_to_disk")
    common = keys.number("learning_rate", 2e-6)
    unet = keys.number("unet_lr", common)
    rates = numbers(keys.take("text_encoder_lr", common))
    te1, te2 = rates[0], rates[-1]
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


def _adapters(config: TrainConfig, keys: Keys) -> None:
    config.network.start_from = keys.text("network_weights")
    keys.leave("dim_from_weights", "dims are those of the configuration")
    files, strengths = keys.take("base_weights", []), keys.take("base_weights_multiplier", [])
    files = [files] if isinstance(files, str) else files
    strengths = strengths if isinstance(strengths, list) else [strengths]
    for index, file in enumerate(files):
        strength = float(strengths[index]) if index < len(strengths) else 1.0
        config.network.frozen_adapters.append(file if strength == 1 else f"{file}:{strength:g}")
