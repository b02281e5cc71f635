"""How much memory a run takes: the accelerator's own count, on a CPU what the process grew by."""

from __future__ import annotations

import ctypes
import gc
import sys
from pathlib import Path

import psutil
import torch


class MemoryMeter:
    """Present and peak memory since it was made, in bytes.

    On CUDA it counts what torch has allocated on the device. On a CPU it counts the resident memory of the process
    above what it was at the start; where the system keeps no peak, that of the moments `present` was asked.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._process = psutil.Process()
        self._highest = 0
        self._system_peak = False
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            _give_back()
            self._system_peak = _reset_system_peak()
        self._start = self._process.memory_info().rss

    def begin_phase(self) -> int:
        """Count the peak again from here, still above the same start; returns the peak until now."""
        before = self.peak()
        self._highest = 0
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            self._system_peak = _reset_system_peak()
        return before

    def present(self) -> int:
        """Bytes in use now: on CUDA allocated on the device, else resident above the start."""
        if self._device.type == "cuda":
            return torch.cuda.memory_allocated(self._device)
        resident = self._process.memory_info().rss
        self._highest = max(self._highest, resident)
        return max(0, resident - self._start)

    def peak(self) -> int:
        """Largest number of bytes so far: on CUDA allocated, else resident above the start."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        self.present()
        if self._system_peak:
            self._highest = max(self._highest, _system_peak())
        return max(0, self._highest - self._start)


def _give_back() -> None:
    """Return to the system what the process holds unused, which would hide that much of what comes."""
    gc.collect()
    if sys.platform.startswith("linux") and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def _reset_system_peak() -> bool:
    """Set Linux's record of the highest resident size back to the present one."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _system_peak() > 0
    except OSError:
        return False


def _system_peak() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
