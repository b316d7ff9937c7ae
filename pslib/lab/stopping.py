"""Requests to stop: Ctrl-C and SIGTERM, noted for a moment at which a run can end whole."""

import signal
import threading
from contextlib import contextmanager


@contextmanager
def stop_requests():
    """A list that is no longer empty once Ctrl-C or SIGTERM has come; a second one acts at once, as
    outside.

    Outside the main thread, where Python handles no signals, it stays empty.
    """
    asked, before = [], {}

    def ask(number, frame):
        asked.append(number)
        signal.signal(number, before[number])

    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
