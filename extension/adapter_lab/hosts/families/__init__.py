"""One file for each web UI, and what their families share."""
