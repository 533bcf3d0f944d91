"""One job at a time, whether it comes from the page or over HTTP."""

import threading

queue_lock = threading.RLock()
