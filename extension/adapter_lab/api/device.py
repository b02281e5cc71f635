"""The GPU and its memory, as far as it can be known without importing torch or waking a GPU that sleeps."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from typing import Any

KEPT_SECONDS = 3.0
_kept: tuple[float, dict[str, Any] | None] = (0.0, None)
_lock = threading.Lock()


def device() -> dict[str, Any] | None:
    """`name`, `total_bytes` and `free_bytes` of the first GPU; None where there is none that can be asked."""
    global _kept
    with _lock:
        asked_at, found = _kept
        if not asked_at or time.monotonic() - asked_at > KEPT_SECONDS:
            found = _from_torch() or _from_nvidia_smi()
            _kept = (time.monotonic(), found)
        return found


def _from_torch() -> dict[str, Any] | None:
    """From the web UI's torch, if it has taken the GPU already; asking would take some of it otherwise."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    if cuda is None or not cuda.is_initialized():
        return None
    free, total = cuda.mem_get_info()
    return {"name": cuda.get_device_name(), "total_bytes": total, "free_bytes": free}


def _from_nvidia_smi() -> dict[str, Any] | None:
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = ["--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run([program, *query], capture_output=True, text=True, timeout=5, stdin=subprocess.DEVNULL)
        name, total, free = (part.strip() for part in done.stdout.splitlines()[0].rsplit(",", 2))
        return {"name": name, "total_bytes": int(total) * 2**20, "free_bytes": int(free) * 2**20}
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None
