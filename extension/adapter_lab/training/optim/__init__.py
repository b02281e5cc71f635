"""Optimisers, schedules of their rates, and the average of weights."""
