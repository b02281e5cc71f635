"""What a web UI loads when it starts: installs loader, tab and API, says how we stand, and never stops the web UI."""

import sys
from pathlib import Path

try:
    sys.path.append(str(Path(__file__).resolve().parents[1] / "extension"))
    from adapter_lab.api.in_host import register
    from adapter_lab.environment.status import notice
    from adapter_lab.hosts.start import start

    Script = start()
    register()
    print(f"[Adapter Lab] {notice()}")
except Exception as error:  # an extension that is broken must not keep its host from starting
    print(f"[Adapter Lab] is not available: {error}; install the extension again.")
