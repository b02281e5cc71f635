"""Stand-in for `modules.call_queue`."""

import threading

queue_lock = threading.Lock()
