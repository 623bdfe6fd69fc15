"""The files of a backup: plain data and arrays, written whole or not at all.

A file is a zip archive (NumPy's `.npz`) with the arrays and, as JSON, all else. It is written
under another name, flushed to the disk and then renamed, so that a process killed at any
moment leaves either the old file or the new one. Each member's checksum is verified when it is
read. Nothing in it is code: no pickle.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

_NAME = re.compile(r"epoch-(\d{6,})\.npz")
_UNFINISHED = "epoch-*.unfinished"
_MANIFEST = "state.json"


@dataclasses.dataclass(frozen=True)
class BackupFolder:
    """The backups of one training; the last two are kept.

    Attributes:
        path: The folder.
    """

    path: Path

    def files(self) -> list[Path]:
        """Return the backups that are there, the newest first."""
        if not self.path.is_dir():
            return []
        found = [p for p in self.path.iterdir() if _NAME.fullmatch(p.name)]
        return sorted(found, key=lambda p: int(p.stem.partition("-")[2]), reverse=True)

    def write(self, epoch: int, state: dict[str, Any]) -> Path:
        """Write a backup made before an epoch begins, and remove all but one before it."""
        self.path.mkdir(parents=True, exist_ok=True)
        target = self.path / f"epoch-{epoch:06d}.npz"
        with replacing(target) as unfinished, open(unfinished, "wb") as file:
            write(file, state)
        older = [path for path in self.files() if path != target]
        for path in [*older[1:], *self.path.glob(_UNFINISHED)]:
            path.unlink(missing_ok=True)
        return target

    def check(self, state: dict[str, Any]) -> None:
        """Write a backup and remove it, to see that it can be done.

        Raises:
            OSError: if the folder can't be made or written to, or has too little space.
            TypeError: if the state holds what a backup can't.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        trial = self.path / f"epoch-{os.getpid()}.unfinished"
        try:
            with open(trial, "wb") as file:
                write(file, state)
        finally:
            trial.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove all backups, and the folder if nothing else is in it."""
        for path in [*self.files(), *self.path.glob(_UNFINISHED)]:
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.path.rmdir()


@contextlib.contextmanager
def replacing(file: str | os.PathLike[str]) -> Iterator[str]:
    """Give the name of a file to write, which takes the place of `file` at the end.

    It is flushed to the disk before, so `file` is whole whenever the process is killed.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(Path(folder) / "a.txt") as name:
        ...         size = Path(name).write_text("done")
        ...     [found.name for found in Path(folder).iterdir()]
        ['a.txt']
    """
    folder = Path(file).parent
    if not folder.is_dir():  # a path of a remote file system, which KerasTuner takes
        yield os.fspath(file)
        return
    unfinished = f"{os.fspath(file)}.{os.getpid()}.unfinished"
    try:
        yield unfinished
        _flush(unfinished, os.O_RDWR)
        os.replace(unfinished, file)
    finally:
        Path(unfinished).unlink(missing_ok=True)
    if os.name == "posix":  # where a rename has to be flushed by itself
        _flush(folder, os.O_RDONLY)


def _flush(path: str | Path, mode: int) -> None:
    opened = os.open(path, mode)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def write(file: Any, state: Any) -> None:
    """Write plain data with arrays in it to an open file."""
    arrays: dict[int, tuple[int, np.ndarray]] = {}
    manifest = json.dumps(_without_arrays(state, arrays))
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(_MANIFEST, manifest)
        for number, array in arrays.values():
            with archive.open(f"{number}.npy", "w", force_zip64=True) as member:
                np.save(member, _as_bytes(array), allow_pickle=False)


def read(file: Any) -> Any:
    """Read what `write` has written.

    Raises:
        ValueError: if the file is torn or corrupt.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            manifest = json.loads(archive.read(_MANIFEST))
            names = [name for name in archive.namelist() if name != _MANIFEST]
            arrays = {
                int(name.partition(".")[0]): np.load(
                    io.BytesIO(archive.read(name)), allow_pickle=False
                )
                for name in names
            }
        return _with_arrays(manifest, arrays)
    except Exception as error:  # a flipped bit can raise almost any exception
        raise ValueError(f"it is torn or corrupt ({error})") from error


def is_numeric(dtype: np.dtype[Any]) -> bool:
    """Tell whether an array of this dtype can be written: numbers of any kind, no objects."""
    try:
        return dtype.kind not in "OSUMmT" and np.dtype(dtype.name) == dtype
    except TypeError:
        return False


def _as_bytes(array: np.ndarray) -> np.ndarray:
    # Not every dtype of Keras (bfloat16, float8) is one that the format knows.
    return np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)


def _without_arrays(value: Any, arrays: dict[int, tuple[int, np.ndarray]]) -> Any:
    """Return plain data for JSON; arrays are collected by their ids, each once, with a number."""
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        if not is_numeric(array.dtype):
            raise TypeError(f"A backup can't hold an array of dtype {array.dtype}.")
        number, _ = arrays.setdefault(id(array), (len(arrays), array))
        kind = "array" if isinstance(value, np.ndarray) else "scalar"
        return {"$": kind, "n": number, "dtype": array.dtype.name, "shape": array.shape}
    if isinstance(value, dict):
        items = [[_without_arrays(k, arrays), _without_arrays(v, arrays)] for k, v in value.items()]
        return {"$": "counter" if type(value) is Counter else "dict", "items": items}
    if isinstance(value, (tuple, set)):
        items = [_without_arrays(item, arrays) for item in value]
        return {"$": type(value).__name__, "items": items}
    if isinstance(value, list):
        return [_without_arrays(item, arrays) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"A backup can't hold a {type(value).__name__}. Received: {value!r}.")


def _with_arrays(value: Any, arrays: dict[int, np.ndarray]) -> Any:
    if isinstance(value, list):
        return [_with_arrays(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    if value["$"] in ("dict", "counter"):
        items = {_with_arrays(k, arrays): _with_arrays(v, arrays) for k, v in value["items"]}
        return Counter(items) if value["$"] == "counter" else items
    if value["$"] in ("tuple", "set"):
        kind = tuple if value["$"] == "tuple" else set
        return kind(_with_arrays(item, arrays) for item in value["items"])
    raw, dtype, shape = arrays[value["n"]], np.dtype(value["dtype"]), tuple(value["shape"])
    is_done = raw.dtype == dtype and raw.shape == shape
    # One object for each, however often it is named: it is written once again too.
    array = arrays[value["n"]] = raw if is_done else raw.view(dtype).reshape(shape)
    return array if value["$"] == "array" else array[()]
