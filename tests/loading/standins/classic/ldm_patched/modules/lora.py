"""Stand-in of ldm_patched/modules/lora.py: knows LoRA and full differences by LDM names only."""


def load_lora(lora, to_load):
    patches, used = {}, set()
    for name, key in to_load.items():
        up, down, alpha = (f"{name}.{suffix}" for suffix in ("lora_up.weight", "lora_down.weight", "alpha"))
        if up in lora:
            patches[key] = ("lora", (lora[up], lora[down], lora[alpha].item() if alpha in lora else None, None))
            used |= {up, down, alpha}
        if f"{name}.diff" in lora:
            patches[key] = ("diff", (lora[f"{name}.diff"],))
            used.add(f"{name}.diff")
    return patches, {key: tensor for key, tensor in lora.items() if key not in used}


def model_lora_keys_unet(model, key_map={}):  # noqa: B006  the host's own default
    names = {key: key.removeprefix("diffusion_model.").removesuffix(".weight") for key in model.state_dict()}
    key_map.update(
        {"lora_unet_" + name.replace(".", "_"): key for key, name in names.items() if name + ".weight" in key}
    )
    return key_map


def model_lora_keys_clip(model, key_map={}):  # noqa: B006
    for key in model.state_dict():
        if key.startswith("clip_l.transformer.") and key.endswith(".weight"):
            module = key.removeprefix("clip_l.transformer.").removesuffix(".weight").replace(".", "_")
            key_map["lora_te_" + module] = key_map["lora_te1_" + module] = key
    return key_map
