"""Stand-in for `modules.shared`."""

from types import SimpleNamespace
from typing import Any

cmd_opts = SimpleNamespace(lora_dir="", lora_dirs=[], ckpt_dirs=[])
opts = SimpleNamespace(data={})
sd_model: Any = None
