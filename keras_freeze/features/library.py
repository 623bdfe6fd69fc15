"""Features that several trainings share, such as the trials of a search that freeze alike.

They are kept on shelves, one for each cut and kind of batches. A model that is cut deeper starts
from the deepest shelf that holds what it needs.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import os
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import keras

from keras_freeze.features.device_store import DeviceStore
from keras_freeze.features.store import Budget, RowStore, Store

Names: TypeAlias = tuple[bytes, ...]
# The most bytes, the folder for more, and whether the bytes are those of the device.
Limits: TypeAlias = tuple[int | None, str | os.PathLike[str] | None, bool]


@dataclasses.dataclass(frozen=True, eq=False)
class Shelf:
    """The features at one cut.

    Attributes:
        names: Of the tensors that are kept, in order.
        masked: Bool for each, whether its mask follows it.
        shapes: Shapes (without the batch's size) and dtypes of all of them.
        store: `Store`.
    """

    names: Names
    masked: tuple[bool, ...]
    shapes: tuple[Any, ...]
    store: Store


def store_maker(
    max_bytes: int | None, directory: str | os.PathLike[str] | None, on_device: bool
) -> Callable[[], Store]:
    """Return what makes stores that share a limit, as for `PrefixCache`."""
    budget = Budget(max_bytes)
    if not on_device:
        return lambda: RowStore(budget, directory)
    on_host = Budget()
    return lambda: DeviceStore(budget, RowStore(on_host, directory))


class Library:
    """Shelves of features, with one budget of memory.

    Args:
        max_bytes: Int, as for `PrefixCache`.
        directory: As for `PrefixCache`.
        on_device: As for `PrefixCache`.
    """

    #: Bool, whether features outlive the fit.
    is_kept = False

    def __init__(
        self,
        max_bytes: int | None = None,
        directory: str | os.PathLike[str] | None = None,
        *,
        on_device: bool = False,
    ) -> None:
        self._limits: Limits = max_bytes, directory, on_device
        self._new_store = store_maker(*self._limits)
        self._shelves: dict[tuple[Hashable, Names], Shelf] = {}

    def suits(self, *limits: *Limits) -> bool:
        """Tell whether this library respects the limits of a cache."""
        return limits in ((None, None, False), self._limits)

    def shelf(
        self,
        batches: Hashable,
        names: Names,
        masked: Sequence[bool],
        shapes: Sequence[Any],
        label: str = "",
    ) -> Shelf:
        """Return the shelf of these tensors, an empty one the first time.

        Args:
            batches: What is promised of the batches: features of others have a shelf of their own.
            names: What is computed, as `tensor_names.names_of` names it.
            masked: As in `Shelf`.
            shapes: As in `Shelf`.
            label: Str, what the user is told of them.
        """
        key = batches, names
        if key not in self._shelves:
            self._shelves[key] = Shelf(names, tuple(masked), tuple(shapes), self._new_store())
        return self._shelves[key]

    def find(self, batches: Hashable, names: Names) -> Shelf | None:
        """Return the shelf of these tensors, if there is one."""
        return self._shelves.get((batches, names))

    def below(self, batches: Hashable, known: Mapping[bytes, Any]) -> Iterator[Shelf]:
        """Yield the shelves whose tensors are all among the known ones."""
        for (own, names), shelf in self._shelves.items():
            if own == batches and shelf.store.nbytes and all(name in known for name in names):
                yield shelf

    def made_by(self, model: keras.Model) -> str:
        """Return what computes features and may be another in another process: here, nothing."""
        return ""

    def drop(self, names: Names) -> None:
        """Remove the features of these tensors."""
        for (_, own), shelf in self._shelves.items():
            if own == names:
                shelf.store.clear()

    def clear(self) -> None:
        """Remove all features."""
        for shelf in self._shelves.values():
            shelf.store.clear()
        self._shelves.clear()


_present: contextvars.ContextVar[Library | None] = contextvars.ContextVar("library", default=None)


def present() -> Library | None:
    """Return the library shared by trainings that begin now; None if there is none."""
    return _present.get()


@contextlib.contextmanager
def shared(library: Library) -> Iterator[Library]:
    """Let all trainings inside share a library."""
    token = _present.set(library)
    try:
        yield library
    finally:
        _present.reset(token)
