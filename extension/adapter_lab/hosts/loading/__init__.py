"""From a file and a base to patched weights, and what is said about them; the same in every web UI."""
