"""After fork, a child must not use what its parent holds.

``os.fork`` copies the descriptors of locks and the private halves of lanes.  Objects that hold
such things register here; in the child, each drops them and takes its own at first use.  Nothing
is started at import and nothing is locked over a fork.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol


class ForkAware(Protocol):
    """Something that holds process-local halves."""

    def _after_fork(self) -> None:
        """Drop what belongs to the parent; runs in the child, single-threaded."""


_registered: weakref.WeakSet[ForkAware] = weakref.WeakSet()


def register(holder: ForkAware) -> None:
    """Call ``holder._after_fork()`` in every future child."""
    _registered.add(holder)


#: Held from opening a descriptor of a lock to noting it, and while the process forks: a child that
#: inherited a descriptor nobody knows of would hold its lock for ever.
guard = threading.RLock()


def _in_child() -> None:
    global guard
    guard = threading.RLock()
    for holder in list(_registered):
        holder._after_fork()


os.register_at_fork(
    before=lambda: guard.acquire(),
    after_in_parent=lambda: guard.release(),
    after_in_child=_in_child,
)
