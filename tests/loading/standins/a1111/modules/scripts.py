"""Stand-in of modules/scripts.py."""

scripts_data = []
