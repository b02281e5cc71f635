"""Choosing among adapter files by type, step, file and study, as the X/Y/Z axes do; knows no web UI and no training."""
