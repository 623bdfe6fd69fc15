"""Keep several randomly augmented views of each sample, and use them in turn."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeAlias

#: A sample, and the number of its view.
View: TypeAlias = tuple[bytes, int]


class Visits:
    """Which view of a sample each of its visits gets.

    The first visits get new ones. Later ones take them in turn, in an order that is drawn anew for
    each pass through them.

    Args:
        count: Int, views of each sample.

    Example:
        >>> visits = Visits(2)
        >>> [visits.next([b"a"]) for _ in range(2)]
        [[(b'a', 0)], [(b'a', 1)]]
        >>> sorted(visits.next([b"a"])[0][1] for _ in range(2))
        [0, 1]
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._visits: dict[bytes, int] = {}

    def known(self, keys: Sequence[bytes]) -> int:
        """Return how many of these samples have been visited."""
        return sum(key in self._visits for key in keys)

    def next(self, keys: Sequence[bytes]) -> list[View]:
        """Return the views for the next visit of these samples."""
        return [(key, self._next(key)) for key in keys]

    def clear(self) -> None:
        """Forget all visits."""
        self._visits.clear()

    def _next(self, key: bytes) -> int:
        visit = self._visits.get(key, 0)
        self._visits[key] = visit + 1
        turn, place = divmod(visit, self.count)
        if turn == 0:
            return place
        order = list(range(self.count))
        random.Random(key + turn.to_bytes(8, "little")).shuffle(order)
        return order[place]
