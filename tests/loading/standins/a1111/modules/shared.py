"""Stand-in of modules/shared.py."""

from types import SimpleNamespace

cmd_opts = SimpleNamespace(lora_dir="", lyco_dir_backcompat="")
opts = SimpleNamespace(lora_functional=False, lora_in_memory_limit=0)
sd_model = None
device = "cpu"
