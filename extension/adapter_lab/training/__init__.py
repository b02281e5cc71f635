"""Training of adapters: everything that runs in the worker process and never knows a web UI."""
