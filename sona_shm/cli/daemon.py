"""What commands that run until they are stopped have in common: signals, standard input, a log."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading


def begin(*, until_stdin_closes: bool) -> threading.Event:
    """Log to standard error; the event is set by SIGTERM, SIGINT, or the end of standard input."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(name)s %(message)s", stream=sys.stderr
    )
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if until_stdin_closes:
        logging.getLogger().setLevel(logging.WARNING)
        # Ctrl-C reaches the whole group; the parent says when to end.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        threading.Thread(target=_watch_stdin, args=(stop,), daemon=True).start()
    return stop


def _watch_stdin(stop: threading.Event) -> None:
    """The parent holds the other end of this pipe and never writes: an end means it is gone.

    Read without Python's buffers, whose lock this thread would hold at the end of the program.
    """
    while os.read(0, 1):
        pass
    stop.set()  # whoever ignores the signal looks at it by and by
    os.kill(os.getpid(), signal.SIGTERM)  # wakes the main thread, whatever it sleeps in
