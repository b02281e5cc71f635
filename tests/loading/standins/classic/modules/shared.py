"""Stand-in of modules/shared.py."""

from types import SimpleNamespace

cmd_opts = SimpleNamespace(lora_dir="")
opts = SimpleNamespace()
sd_model = None
