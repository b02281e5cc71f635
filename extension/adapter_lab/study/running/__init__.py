"""Runs the trainings of a study, one after another or side by side."""
