"""`python -m adapter_lab` is the `adapter-lab` command."""

from __future__ import annotations

import sys

from adapter_lab.cli import main

if __name__ == "__main__":
    sys.exit(main())
