"""Starts training processes, watches them through their run folders, and keeps the queue of runs."""

from adapter_lab.worker.jobs import JobCancelled, Jobs
from adapter_lab.worker.queue import Queue
from adapter_lab.worker.studies import StudyDetail, StudySummary
from adapter_lab.worker.summary import RunDetail, RunSummary
from adapter_lab.worker.worker import Worker

__all__ = ["JobCancelled", "Jobs", "Queue", "RunDetail", "RunSummary", "StudyDetail", "StudySummary", "Worker"]
