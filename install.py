"""Sets Adapter Lab up: a web UI runs this before it starts; a person runs `demo` or `test` with any Python 3.10+.

python install.py                   make or update the private environment (.runtime)
python install.py demo [options]    the same, then run the demo
python install.py test [options]    the same, then run the tests; options go to pytest
"""

import os
import sys

if sys.version_info < (3, 10):  # noqa: UP036 - an older Python must be able to read this file as far as this sentence
    sys.stderr.write(
        "[Adapter Lab] needs Python 3.10 or newer; this is Python %d.%d (%s).\n"  # noqa: UP031
        "[Adapter Lab] Run install.py with a newer one; nothing was changed.\n"
        % (sys.version_info[:2] + (sys.executable,))
    )
    # A web UI that runs this goes on without Adapter Lab; a person who asked for something sees that it failed.
    sys.exit(1 if len(sys.argv) > 1 else 0)

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "extension"))

from adapter_lab.environment.commands import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
