"""Features that are kept in a folder, for further fits and for other processes."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import shutil
import sys
import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import keras
import numpy as np
import xxhash

from keras_freeze.features.kept_database import (
    Database,
    Meta,
    bytes_on_disk,
    encoded,
    exists_in,
    opened,
    released,
    using,
)
from keras_freeze.features.library import Library, Names, Shelf
from keras_freeze.features.store import Budget, RowStore
from keras_freeze.model_picture import every_layer
from keras_freeze.reports import Column, ShownAsTable, Table, readable_bytes

#: By default, the free space of the disk divided by this is the most that is used.
DISK_DIVISOR = 4
# Seconds after which the use of a shelf is recorded again, and the shelves are listed again.
TOUCH_S, LIST_S = 30.0, 5.0

_owners = itertools.count()


class KeptLibrary(Library):
    """Shelves of features in a folder.

    Args:
        directory: The folder, on a file system of this host.
        max_bytes: Int, the most bytes to use there. Defaults to a quarter of the space that is free
            or held by the features.

    Raises:
        OSError: if the folder can't be used.
    """

    is_kept = True

    def __init__(self, directory: str | os.PathLike[str], max_bytes: int | None = None) -> None:
        self._limits = max_bytes, directory, False
        self._database = opened(directory)
        if max_bytes is None:
            free = shutil.disk_usage(directory).free
            max_bytes = (free + self._database.file_bytes) // DISK_DIVISOR
        self._room = _Room(self._database, max_bytes, directory)
        self._known: dict[bytes, Shelf] = {}
        self._stores: list[KeptStore] = []
        self._listed: tuple[float, list[Meta]] = (0.0, [])

    def shelf(
        self,
        batches: Hashable,
        names: Names,
        masked: Sequence[bool],
        shapes: Sequence[Any],
        label: str = "",
    ) -> Shelf:
        """Return the shelf of these tensors, an empty one the first time."""
        key = _key(batches, names)
        if key not in self._known:
            plain = [[list(shape), _name_of(dtype)] for shape, dtype in shapes]
            meta = {
                "batches": _plain(batches),
                "names": [name.hex() for name in names],
                "masked": list(masked),
                "shapes": plain,
                "label": label,
                "rows": 0,
                "nbytes": 0,
            }
            self._known[key] = self._opened(key, meta)
        return self._known[key]

    def find(self, batches: Hashable, names: Names) -> Shelf | None:
        """Return the shelf of these tensors, if there is one."""
        key = _key(batches, names)
        if key not in self._known:
            with self._database.reading() as txn:
                meta = self._database.shelf(txn, key)
            if meta is None:
                return None
            self._known[key] = self._opened(key, meta)
        return self._known[key]

    def below(self, batches: Hashable, known: Mapping[bytes, Any]) -> Iterator[Shelf]:
        """Yield the shelves whose tensors are all among the known ones."""
        at, metas = self._listed
        if time.monotonic() - at > LIST_S or not metas:
            with self._database.reading() as txn:
                metas = list(self._database.shelves(txn).values())
            self._listed = time.monotonic(), metas
        for meta in metas:
            names = tuple(map(bytes.fromhex, meta["names"]))
            if meta["batches"] == _plain(batches) and all(name in known for name in names):
                shelf = self.find(batches, names)
                if shelf is not None:
                    yield shelf

    def made_by(self, model: keras.Model) -> str:
        """Return what computes the features of a model: backend, versions and kind of device."""
        return _made_by(model)

    def drop(self, names: Names) -> None:
        """Remove what this fit has kept of these tensors."""
        for shelf in self._known.values():
            if shelf.names == names:
                shelf.store.withdraw()

    def clear(self) -> None:
        """End the use of the folder, and release what did not fit into it."""
        for store in self._stores:
            store.release()
        released(self._database)

    def _opened(self, key: bytes, meta: Meta) -> Shelf:
        names = tuple(map(bytes.fromhex, meta["names"]))
        shapes = tuple((tuple(shape), dtype) for shape, dtype in meta["shapes"])
        self._stores.append(KeptStore(self._room, key, meta))
        return Shelf(names, tuple(meta["masked"]), shapes, self._stores[-1])


class _Room:
    """The database of a fit, and how much of it the fit may use."""

    def __init__(
        self, database: Database, max_bytes: int, directory: str | os.PathLike[str]
    ) -> None:
        self.database = database
        self.max_bytes = max_bytes
        self.began = time.time()
        self.directory = directory

    def make(self, txn: Any, shelf: bytes, needed: int) -> bool:
        """Make room for some bytes, by removing what was not used since the fit began.

        Returns:
            Bool, whether there is room.
        """
        found = self.database.shelves(txn)
        free = self.max_bytes - sum(meta["nbytes"] for meta in found.values())
        leaving = []
        for key, meta in sorted(found.items(), key=lambda item: item[1]["used"]):
            if free < needed and meta["used"] < self.began and key != shelf:
                leaving.append(key)
                free += meta["nbytes"]
        if free < needed:
            return False
        for key in leaving:
            self.database.remove_shelf(txn, key)
        return True


class KeptStore:
    """Rows of one shelf of a folder, as a `RowStore`; what doesn't fit there is kept for the fit.

    Args:
        room: The database, and how much of it may be used.
        shelf: The shelf's id.
        meta: What is recorded of it.
    """

    is_kept = True
    keeps_tensors = False

    def __init__(self, room: _Room, shelf: bytes, meta: Meta) -> None:
        self._room = room
        self._database = room.database
        self._shelf = shelf
        self._meta = meta
        self._own = RowStore(Budget(0), room.directory)
        self._put: set[bytes] = set()
        self._owner = next(_owners)
        self._touched = 0.0
        self._nbytes = int(meta["nbytes"])

    @property
    def nbytes(self) -> int:
        """Int, bytes of the shelf when it was last written."""
        return self._nbytes + self._own.nbytes

    def missing(self, keys: Sequence[Any]) -> list[int]:
        """Return the positions of the keys that there is no row for."""
        with self._database.reading() as txn:
            absent = [n for n, key in enumerate(keys) if not self._database.has(txn, self._at(key))]
        return [n for n in absent if not self._own.hits([keys[n]])]

    def hits(self, keys: Sequence[Any]) -> int:
        """Return for how many of these keys there is a row."""
        return len(keys) - len(self.missing(keys))

    def get(self, keys: Sequence[Any]) -> list[np.ndarray] | None:
        """Return the rows of these keys, stacked; None if one is missing or of other shape.

        A row that is not whole is removed.
        """
        self._touch()
        spoilt = []
        with self._database.reading() as txn:
            rows = []
            for key in keys:
                row = self._database.row(txn, self._at(key))
                if row is None and self._database.has(txn, self._at(key)):
                    spoilt.append(key)
                elif row is None:
                    kept = self._own.get([key])
                    row = None if kept is None else [array[0] for array in kept]
                rows.append(row)
            found = _stacked(rows)
        if spoilt:
            self._remove(spoilt)
        return found

    def put(self, keys: Sequence[Any], arrays: Sequence[np.ndarray]) -> None:
        """Keep a row for each of these keys that has none yet, and end the claims on all then.

        Raises:
            OSError: if a file can't be written.
        """
        absent, given = self.missing(keys), keys
        if not absent:
            return
        keys, arrays = [keys[n] for n in absent], [array[absent] for array in arrays]
        values = [encoded([array[n] for array in arrays]) for n in range(len(keys))]
        with self._database.writing() as txn:
            needed = sum(bytes_on_disk(len(value)) for value in values)
            fits = self._room.make(txn, self._shelf, needed)
            if fits:
                meta = self._present(txn)
                for key, value in zip(keys, values, strict=True):
                    if self._database.put(txn, self._at(key), value):
                        self._put.add(self._at(key))
                        meta["rows"] += 1
                        meta["nbytes"] += bytes_on_disk(len(value))
                self._database.set_shelf(txn, self._shelf, meta)
                self._nbytes = meta["nbytes"]
            for key in given:
                self._database.release(txn, self._at(key))
        if not fits:
            self._own.put(keys, arrays)

    @contextlib.contextmanager
    def claimed(self, keys: Sequence[Any]) -> Iterator[list[int]]:
        """Claim the computation of rows, and yield the positions of those that nobody else has."""
        with self._database.writing() as txn:
            mine = [
                n for n, k in enumerate(keys) if self._database.claim(txn, self._at(k), self._owner)
            ]
        try:
            yield mine
        except BaseException:
            with self._database.writing() as txn:
                for n in mine:
                    self._database.release(txn, self._at(keys[n]))
            raise

    def withdraw(self) -> None:
        """Remove what was put since the fit began."""
        with self._database.writing() as txn:
            self._remove_at(txn, self._put)
        self._put.clear()
        self._own.clear()

    def clear(self) -> None:
        """Remove all rows, those of other fits too."""
        with self._database.writing() as txn:
            self._database.remove_shelf(txn, self._shelf)
        self._own.clear()

    def release(self) -> None:
        """Release the memory of what did not fit into the folder."""
        self._own.clear()

    def _at(self, key: Any) -> bytes:
        if isinstance(key, tuple):  # a view of a sample
            return self._shelf + key[0] + int(key[1]).to_bytes(4, "little")
        return self._shelf + key

    def _present(self, txn: Any) -> Meta:
        """Return what is recorded of the shelf now, which another process may have removed."""
        now = time.time()
        meta = self._database.shelf(txn, self._shelf)
        return {**(meta or {**self._meta, "rows": 0, "nbytes": 0}), "used": now}

    def _touch(self) -> None:
        if time.monotonic() - self._touched < TOUCH_S:
            return
        self._touched = time.monotonic()
        with self._database.writing() as txn:
            if self._database.shelf(txn, self._shelf) is not None:
                self._database.set_shelf(txn, self._shelf, self._present(txn))

    def _remove(self, keys: Sequence[Any]) -> None:
        with self._database.writing() as txn:
            self._remove_at(txn, [self._at(key) for key in keys])

    def _remove_at(self, txn: Any, places: Sequence[bytes] | set[bytes]) -> None:
        if self._database.shelf(txn, self._shelf) is None:
            return
        meta = self._present(txn)
        for place in places:
            freed = self._database.remove(txn, place)
            meta["nbytes"] -= freed
            meta["rows"] -= freed > 0
        if meta["rows"]:
            self._database.set_shelf(txn, self._shelf, meta)
        else:
            self._database.remove_shelf(txn, self._shelf)


@dataclasses.dataclass(frozen=True)
class KeptShelf:
    """What a folder holds of one cut.

    Attributes:
        layer: Str, where a model was cut, and which model.
        kind: Str, `"train"` or `"test"`.
        made_by: Str, the backend and its version.
        samples: Int.
        nbytes: Int, bytes on the disk.
        used: `datetime`, of the last use.
    """

    layer: str
    kind: str
    made_by: str
    samples: int
    nbytes: int
    used: datetime


@dataclasses.dataclass(frozen=True)
class KeptFeatures(ShownAsTable):
    """What a folder of kept features holds, as a table.

    Attributes:
        directory: Str.
        shelves: Tuple of `KeptShelf`, the last used first.
    """

    directory: str
    shelves: tuple[KeptShelf, ...]

    def _table(self) -> Table:
        columns = (
            Column("features of", fit="shorten"),
            Column("for"),
            Column("samples", align="right"),
            Column("size", align="right"),
            Column("made by", fit="wrap"),
            Column("last used"),
        )
        rows = [
            (s.layer, s.kind, f"{s.samples:,}", readable_bytes(s.nbytes), s.made_by, _when(s.used))
            for s in self.shelves
        ]
        samples = sum(s.samples for s in self.shelves)
        size = readable_bytes(sum(s.nbytes for s in self.shelves))
        total = ("total", "", f"{samples:,}", size, "", "")
        return Table(f"features in {self.directory}", columns, tuple(rows), (total,))


def contents_of(directory: str | os.PathLike[str]) -> KeptFeatures:
    """Return what a folder of kept features holds.

    Raises:
        OSError: if it can't be read.
    """
    if not exists_in(directory):
        return KeptFeatures(os.fspath(directory), ())
    with using(directory) as database, database.reading() as txn:
        metas = list(database.shelves(txn).values())
    shelves = [
        KeptShelf(
            meta["label"],
            meta["batches"]["kind"],
            meta["batches"]["made_by"],
            meta["rows"],
            meta["nbytes"],
            datetime.fromtimestamp(meta["used"]),
        )
        for meta in sorted(metas, key=lambda meta: -meta["used"])
    ]
    return KeptFeatures(os.fspath(directory), tuple(shelves))


def _made_by(model: keras.Model) -> str:
    backend = keras.backend.backend()
    versions = {backend: sys.modules[backend], "keras": keras}
    if any(type(x).__module__.startswith("keras_hub.") for x in (model, *every_layer(model))):
        versions["keras_hub"] = sys.modules["keras_hub"]
    device = "cpu"
    weights = model.weights
    if weights and backend == "torch":
        device = weights[0].value.device.type
    elif backend == "jax":  # whose trainer holds the weights elsewhere in a step
        device = sys.modules[backend].default_backend()
    elif weights:
        device = "gpu" if "GPU" in (weights[0].value.device or "") else "cpu"
    names = ", ".join(f"{name} {module.__version__}" for name, module in versions.items())
    return f"{names}, {device}"


def _key(batches: Hashable, names: Names) -> bytes:
    plain = json.dumps([_plain(batches), [name.hex() for name in names]], sort_keys=True)
    return xxhash.xxh3_128_digest(plain.encode())


def _plain(batches: Any) -> Meta:
    kind, promised, eager, jit, made, views = batches
    shapes = [
        None if leaf is None else [list(leaf.shape[1:]), leaf.dtype.name] for leaf in promised or ()
    ]
    return {
        "kind": kind,
        "promised": shapes,
        "eager": bool(eager),
        "jit": str(jit),
        "made_by": made,
        "views": views,
    }


def _stacked(rows: Sequence[list[np.ndarray] | None]) -> list[np.ndarray] | None:
    whole = [row for row in rows if row is not None]
    signatures = {tuple((array.shape, array.dtype) for array in row) for row in whole}
    if len(whole) < len(rows) or len(signatures) != 1:
        return None
    return [np.stack(arrays) for arrays in zip(*whole, strict=True)]


def _name_of(dtype: Any) -> str:
    return keras.backend.standardize_dtype(dtype)


def _when(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M")
