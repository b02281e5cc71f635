"""What an image says of the adapters in it: a line of its infotext, and comments under it where something failed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from adapter_lab.hosts.loading.report import FileReport

KEY = "Adapter Lab"
# Where a `StableDiffusionProcessing` keeps the reports of its current batch: those of a hires pass come later.
REPORTS = "_adapter_lab_reports"


def infotext(reports: Iterable[FileReport]) -> str:
    """The value of `Adapter Lab:` in an image's infotext; empty if there is nothing to say."""
    return "; ".join(report.summary() for report in reports)


def begin_batch(processing: Any, reports: Iterable[FileReport]) -> None:
    """Write the reports of a batch's prompt into a `StableDiffusionProcessing`, in place of the last batch's."""
    setattr(processing, REPORTS, {})
    for report in (reports := list(reports)):
        if report.patched is not None:
            report.patched.begin_picture()
    _write(processing, reports)


def end_batch(processing: Any, reports: Iterable[FileReport]) -> None:
    """Add what a hires pass loaded and what failed since, and comment on every file that was not applied as a whole."""
    _write(processing, reports)
    for report in getattr(processing, REPORTS).values():
        warning = report.warning()
        if warning is not None:
            processing.comment(f"{KEY}: {warning}")


def _write(processing: Any, reports: Iterable[FileReport]) -> None:
    found: dict[str, FileReport] = getattr(processing, REPORTS, {})
    found |= {report.path or report.name: report for report in reports}
    setattr(processing, REPORTS, found)
    if found:
        processing.extra_generation_params[KEY] = infotext(found.values())
    else:
        processing.extra_generation_params.pop(KEY, None)
