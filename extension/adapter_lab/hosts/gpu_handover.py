"""Who has the GPU: a training gets it from the web UI, and generations wait for its end where that was chosen."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from adapter_lab.hosts.console import say
from adapter_lab.hosts.protocol import Host
from adapter_lab.hosts.settings import ASK, WAIT, Settings

LOOK_EVERY_SECONDS = 0.5


class GpuHandover:
    """`active()` is the summary (`id`, `name`, `progress`) of the run that trains or is being started, or None."""

    def __init__(self, host: Host, settings: Settings, active: Callable[[], Any]) -> None:
        self._host = host
        self._settings = settings
        self._active = active
        self._asking = False  # a training waits for the image that is being made

    def give_gpu(self) -> None:
        """Unload the web UI's model, once no image is being made: what a training waits for before it starts."""
        if not self._settings.free_gpu:
            return
        self._asking = True
        try:
            self._host.free_gpu()  # under the web UI's queue lock
        finally:
            self._asking = False

    def wait(self, state: Any, from_api: bool = False) -> None:
        """Return when the run that trains now has ended, or at once where generations need not wait.

        `state`: the web UI's `shared.state`, which says when the person has had enough, and shows why nothing happens.
        `from_api`: no page was there to ask (`javascript/adapter_lab_generate.js`), so where it would, this waits.
        """
        run, chosen = self._active(), self._settings.while_training
        if run is None or not (chosen == WAIT or (chosen == ASK and from_api)):
            return
        waited_for, said = run.id, False
        # One that waits for us to end would wait for ever; it gets its turn after this image.
        while run is not None and run.id == waited_for and not self._asking:
            if state.interrupted or getattr(state, "stopping_generation", False):
                return
            if not said:
                say(f"the image waits until the training of {run.name} has ended (Settings > Adapter Lab).")
                said = True
            state.textinfo = f"Waiting for the training of {run.name} ({run.progress:.0%})"
            time.sleep(LOOK_EVERY_SECONDS)
            run = self._active()
        if said:
            state.textinfo = None
