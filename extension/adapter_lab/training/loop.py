"""Training an adapter: `train` a configuration, or `resume` a run folder.

A run ends when its budget (steps, epochs or minutes of training) is used up, or when it is asked to stop; both save
first. Everything random in a step follows from the seed and the step's number, so a run that was interrupted at any
moment and resumed gives the same losses and the same file, bit for bit on a CPU.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from adapter_lab import config_file, files
from adapter_lab.config import AVERAGING, TrainConfig
from adapter_lab.errors import AdapterLabError, ConfigError
from adapter_lab.runs import requests
from adapter_lab.runs.changes import change
from adapter_lab.runs.events import Event
from adapter_lab.runs.run_folder import LOG, AdapterFiles, RunFolder, check_fresh, new_run_folder
from adapter_lab.training.device.devices import brief, is_out_of_memory
from adapter_lab.training.distributed import is_main_process, is_team
from adapter_lab.training.interrupt import StopRequests
from adapter_lab.training.optim.optimizers import check_available
from adapter_lab.training.output.records import Records
from adapter_lab.training.prepare import StopEarly
from adapter_lab.training.run import Run, RunResult
from adapter_lab.validation import validate

__all__ = ["RunResult", "resume", "train"]

OnEvent = Callable[[Event], None]


def train(config: TrainConfig, run_folder: Path | None = None, on_event: OnEvent | None = None) -> RunResult:
    """Train an adapter from the start, in `run_folder` or a new folder below `run.runs_folder`.

    Every event is also passed to `on_event`. Raises AdapterLabError for whatever a person can mend; nothing that
    another run has saved is ever replaced.
    """
    advice = validate(config)
    check_available(config.optimizer)
    _check_averages(config)
    if not is_main_process():
        return _follow(config, None, 0)
    if run_folder:
        check_fresh(run_folder)
    if run_folder or config.run.output_folder:
        AdapterFiles(config.run, run_folder or Path()).check_unused()
    folder = new_run_folder(config.run, run_folder)
    config_file.write(config, folder.config)
    return _run(config, folder, on_event, advice)


def resume(
    run_folder: Path,
    changes: Mapping[str, Any] | None = None,
    on_event: OnEvent | None = None,
    until_point: int = 0,
    accept_pictures: bool = False,
) -> RunResult:
    """Go on with an interrupted, stopped or finished run from its last state, from the start where it has none.

    `changes` are settings such as {"run.steps": 2000}; those that would make it another run are refused.
    `until_point`: pause at this saving point, as a race does to compare; 0: go on to the end of the budget.
    `accept_pictures`: go on although images or captions have changed; the run is then no longer bit for bit the same.
    """
    folder = RunFolder(Path(run_folder))
    if not folder.config.exists():
        raise ConfigError(f"{run_folder} is no run folder: it has no config.toml; give the folder that train made.")
    config, unknown = config_file.load_run(folder.config)
    change(config, changes or {})
    advice = [*unknown, *validate(config)]
    check_available(config.optimizer)
    if not is_main_process():
        return _follow(config, folder, until_point)
    if accept_pictures:
        requests.accept_pictures(folder.path)
    return _run(config, folder, on_event, advice, until_point, dict(changes or {}))


def _check_averages(config: TrainConfig) -> None:
    name = config.optimizer.name
    if config.save.ema > 0 and name in AVERAGING:
        raise ConfigError(f"save.ema has no use with {name}, which saves an average of its own; set it to 0.")


def _run(
    config: TrainConfig,
    folder: RunFolder,
    on_event: OnEvent | None,
    advice: list[str],
    until_point: int = 0,
    changes: Mapping[str, Any] | None = None,
) -> RunResult:
    """One session of a run, with its log, its records and its end in words whatever happens."""
    with ExitStack() as stack:
        stack.enter_context(folder.claimed())
        stack.enter_context(folder.logging())
        started_before = folder.events.exists()
        records = Records(folder, on_event)
        stack.callback(_close, records)
        stop = stack.enter_context(StopRequests(folder.path))
        run: Run | None = None
        try:
            run = Run(config, folder, records, stop, started_before, until_point, changes)
            for sentence in advice:
                records.warning(sentence)
            return run.go()
        except StopEarly as early:
            if is_team():  # whose other processes wait for this one, and end only where it fails
                raise AdapterLabError(f"The run was {early}, before the first step.") from early
            return _stopped_early(folder, records, f"{early}, before the first step")
        except AdapterLabError as error:
            _note_failure(records, str(error), error)
            raise
        except OSError as error:
            if error.errno not in files.FULL:
                _note_failure(records, f"{type(error).__name__}: {error}", error)
                raise
            sentence = _DISK_FULL.format(folder=folder.path)
            _note_failure(records, sentence, error)
            raise AdapterLabError(sentence) from error
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                _note_failure(records, f"{type(error).__name__}: {error}", error)
                raise
            whose = "machine" if run is None or run.machine.device.type == "cpu" else "GPU"
            sentence = _OUT_OF_MEMORY.format(whose=whose, error=brief(error))
            _note_failure(records, sentence, error)
            raise AdapterLabError(sentence) from error
        except BaseException as error:
            _note_failure(records, f"{type(error).__name__}: {error}", error)
            raise


def _follow(config: TrainConfig, folder: RunFolder | None, until_point: int) -> RunResult:
    """A session of a process that is not the main one: what it writes does not stay."""
    with ExitStack() as stack:
        own = RunFolder(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        records = Records(own)
        stack.callback(_close, records)
        stop = stack.enter_context(StopRequests(own.path))
        return Run(config, folder or own, records, stop, folder is not None, until_point).go()


_OUT_OF_MEMORY = (
    "The {whose}'s memory is used up ({error}). What was saved is kept. Use a smaller run.batch_size, "
    "dataset.resolution or network.dim, precision.base_weights fp8, or precision.gradient_checkpointing; `adapter-lab "
    "estimate` says what fits."
)


_DISK_FULL = (
    "The disk is full, so {folder} could not be written to any more. What was saved is whole: make room and resume "
    "the run."
)


def _note_failure(records: Records, sentence: str, error: BaseException) -> None:
    """Note why a run failed, in words for the person and as a traceback in the log."""
    LOG.error("Training failed: %s", sentence, exc_info=error)
    with suppress(OSError):  # the disk may be what failed
        records.event("failed", message=sentence)


def _close(records: Records) -> None:
    with suppress(OSError):
        records.close()


def _stopped_early(folder: RunFolder, records: Records, reason: str) -> RunResult:
    records.event("finished", step=0, reason=reason)
    return RunResult(folder.path, [], 0, 0.0, reason, float("nan"), 0, 0.0)
