"""Hold an epoch's iterator, with what was read ahead, and release it without waiting for it.

tf.data tunes each iterator on a thread that sleeps longer the longer the iterator has existed, and
deleting the iterator waits for that thread: in the worst case for its whole sleep, about as long
as the epoch took. An epoch that is read from a cache would wait for the one that filled it.
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Hashable
from typing import Any


class Iterators:
    """The iterator of each kind's last epoch, held until the next one starts.

    It is released on a thread of its own, since whoever releases it last waits.
    """

    def __init__(self) -> None:
        self._held: dict[Hashable, Any] = {}
        self._ahead: dict[int, tuple[Any, collections.deque[Any]]] = {}

    def hold(self, kind: Hashable, iterator: Any) -> None:
        """Keep an iterator in the place of the one before it, which may be the same."""
        if self._held.get(kind) is not iterator:
            before = [self._held.pop(kind, None)]
            self._held[kind] = iterator
            threading.Thread(target=before.clear, name="iterators").start()

    def ahead(self, iterator: Any) -> collections.deque[Any]:
        """Return the batches that were read of an iterator before their turn."""
        return self._ahead.get(id(iterator), (None, collections.deque()))[1]

    def set_ahead(self, iterator: Any, batches: collections.deque[Any]) -> None:
        """Record which batches of an iterator were read before their turn."""
        if batches:
            self._ahead[id(iterator)] = iterator, batches
        else:  # and release the iterator
            self._ahead.pop(id(iterator), None)
