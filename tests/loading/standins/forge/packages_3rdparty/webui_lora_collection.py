"""Stand-in for `packages_3rdparty.webui_lora_collection`, by which Forge is known."""
