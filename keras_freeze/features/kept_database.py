"""A database of features in a folder, which outlives the fit and the process.

Processes of one host may use it at once, and any may be killed at any moment: LMDB has solved that.
It is written without waiting for the disk. So that a power cut can't leave a torn database behind,
each process that writes leaves a mark until the disk has everything, and a mark of an earlier start
of the system makes the database be dropped.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import struct
import threading
import time
import warnings
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import lmdb
import numpy as np
import psutil
import xxhash

#: The folder of the database in the user's.
FOLDER = "keras_freeze_features"
#: Address space that is reserved. The file is as large as what it holds.
MAP_BYTES = 2**40
#: Kinds of file systems whose files several hosts may map, or that don't lock them reliably.
NETWORK = (
    "9p afp afpfs afs beegfs ceph cifs davfs fuse.ceph fuse.glusterfs fuse.rclone fuse.s3fs "
    "fuse.sshfs gfs2 glusterfs gpfs lustre ncpfs nfs nfs4 ocfs2 orangefs smb2 smb3 smbfs webdav"
)
#: Seconds after which a claim on rows is void though its process lives.
CLAIM_S = 120.0

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

_NOT_WHOLE = (lmdb.CorruptedError, lmdb.InvalidError, lmdb.VersionMismatchError)

Meta: TypeAlias = "dict[str, Any]"

_FORMAT = b"1"
# How large the file was when it was last closed.
_SIZE = "size"
# A page, what it holds besides its header, and how much of that random keys fill.
_PAGE, _IN_PAGE, _FILLED = 4096, 4080, 0.6
_CLAIM = struct.Struct("<QdQd")  # process, when it began, who in it, when it claimed
_LENGTH = struct.Struct("<QI")  # checksum, length of the header


class Database:
    """An open database; one for each folder in a process, as LMDB demands: see `opened`.

    Args:
        path: The folder of the database itself.

    Raises:
        OSError: if it can't be made or opened.
    """

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        mark = path / f"unsynced-{_boot()}-{os.getpid()}"
        with _one_process(path):  # lest it removes what another has made
            if _was_cut_off(path) or _is_torn(path):
                _remove_files(path)
            mark.touch()
            try:
                self._env = _environment(path)
            except _NOT_WHOLE:
                _remove_files(path)
                mark.touch()
                self._env = _environment(path)
        self._data = path / "data.mdb"
        #: Int, how many use it.
        self.users = 0
        #: Called when nobody uses it, or it is forgotten, as by a fit that an exception has ended.
        self.close = weakref.finalize(self, _close, self._env, mark, os.getpid())
        self._shelves, self._rows, self._claims = (
            self._env.open_db(name) for name in (b"shelves", b"rows", b"claims")
        )
        self._env.reader_check()
        with self.writing() as txn:
            if txn.get(b"format", db=self._shelves) != _FORMAT:
                for table in (self._shelves, self._rows, self._claims):
                    txn.drop(table, delete=False)
                txn.put(b"format", _FORMAT, db=self._shelves)

    @property
    def file_bytes(self) -> int:
        """Int, bytes of the disk that the file takes, free pages in it included."""
        found = self._data.stat()
        return getattr(found, "st_blocks", found.st_size // 512) * 512

    @contextlib.contextmanager
    def writing(self) -> Iterator[Any]:
        """Make all changes inside, or none.

        Raises:
            OSError: if the database can't be written.
        """
        try:
            with self._env.begin(write=True) as txn:
                yield txn
        except lmdb.Error as error:
            raise OSError(str(error)) from error

    @contextlib.contextmanager
    def reading(self) -> Iterator[Any]:
        """See one state of the database inside, as buffers that are valid there alone."""
        try:
            with self._env.begin(buffers=True) as txn:
                yield txn
        except lmdb.Error as error:
            raise OSError(str(error)) from error

    # Shelves.

    def shelves(self, txn: Any) -> dict[bytes, Meta]:
        """Return what is recorded of all shelves, by their ids."""
        found = {}
        for key, value in txn.cursor(db=self._shelves):
            if bytes(key) != b"format":
                found[bytes(key)] = json.loads(bytes(value))
        return found

    def shelf(self, txn: Any, shelf: bytes) -> Meta | None:
        """Return what is recorded of a shelf."""
        value = txn.get(shelf, db=self._shelves)
        return None if value is None else json.loads(bytes(value))

    def set_shelf(self, txn: Any, shelf: bytes, meta: Meta) -> None:
        """Record something of a shelf."""
        txn.put(shelf, json.dumps(meta).encode(), db=self._shelves)

    def remove_shelf(self, txn: Any, shelf: bytes) -> None:
        """Remove a shelf and all that is on it."""
        txn.delete(shelf, db=self._shelves)
        for table in (self._rows, self._claims):
            cursor = txn.cursor(db=table)
            found = cursor.set_range(shelf)
            while found and bytes(cursor.key())[: len(shelf)] == shelf:
                found = cursor.delete()

    # Rows.

    def has(self, txn: Any, key: bytes) -> bool:
        """Tell whether there is a row."""
        return txn.get(key, db=self._rows) is not None

    def row(self, txn: Any, key: bytes) -> list[np.ndarray] | None:
        """Return a row, as arrays that are valid in the transaction; None if it is not whole."""
        value = txn.get(key, db=self._rows)
        return None if value is None else _decoded(value)

    def put(self, txn: Any, key: bytes, value: bytes) -> bool:
        """Keep a row that there was none of; tell whether there was none."""
        return bool(txn.put(key, value, db=self._rows, overwrite=False))

    def remove(self, txn: Any, key: bytes) -> int:
        """Remove a row; return how many bytes that frees."""
        value = txn.pop(key, db=self._rows)
        return 0 if value is None else bytes_on_disk(len(value))

    # Claims.

    def claim(self, txn: Any, key: bytes, owner: int) -> bool:
        """Claim the computation of a row; tell whether no other running process holds it."""
        value = txn.get(key, db=self._claims)
        if value is not None:
            *claimant, at = _CLAIM.unpack(bytes(value))
            is_own = tuple(claimant) == (*_process(), owner)
            if not is_own and abs(time.time() - at) < CLAIM_S and _lives(*claimant[:2]):
                return False
        txn.put(key, _CLAIM.pack(*_process(), owner, time.time()), db=self._claims)
        return True

    def release(self, txn: Any, key: bytes) -> None:
        """End the claim on a row."""
        txn.delete(key, db=self._claims)


_databases: weakref.WeakValueDictionary[str, Database] = weakref.WeakValueDictionary()
_opening = threading.Lock()


def opened(directory: str | os.PathLike[str]) -> Database:
    """Return the database in a user's folder, made if there is none, for one more user.

    Raises:
        OSError: if it can't be made or opened.
    """
    path = _path(directory)
    with _opening:
        database = _databases.get(_key(path))
        if database is None and any(key.endswith(f" {path}") for key in _databases):
            raise OSError(
                "this process was forked from one that uses the folder; start it by "
                'multiprocessing.get_context("spawn")'
            )
        if database is None:
            database = _databases[_key(path)] = Database(path)
        database.users += 1
        return database


def released(database: Database) -> None:
    """Close a database if this was its last user."""
    with _opening:
        database.users -= 1
        if database.users:
            return
        for key in [key for key, known in _databases.items() if known is database]:
            del _databases[key]
        database.close()


@contextlib.contextmanager
def using(directory: str | os.PathLike[str]) -> Iterator[Database]:
    """Use the database in a user's folder inside."""
    database = opened(directory)
    try:
        yield database
    finally:
        released(database)


def exists_in(directory: str | os.PathLike[str]) -> bool:
    """Tell whether there is a database in a user's folder."""
    return (_path(directory) / "data.mdb").exists()


def remove_database(directory: str | os.PathLike[str]) -> None:
    """Remove the database in a user's folder; where a process uses it, empty it."""
    path = _path(directory)
    if not path.exists():
        return
    with using(directory) as database:
        with database.writing() as txn:
            for shelf in database.shelves(txn):
                database.remove_shelf(txn, shelf)
        is_used = database.users > 1 or len(list(path.glob("unsynced-*"))) > 1
    if not is_used:
        with _one_process(path):
            _remove_files(path)
        with contextlib.suppress(OSError):
            path.rmdir()


def _path(directory: str | os.PathLike[str]) -> Path:
    return Path(directory).expanduser().resolve() / FOLDER


def _key(path: Path) -> str:
    return f"{os.getpid()} {path}"  # a fork has to open it anew


def network_file_system(directory: str | os.PathLike[str]) -> str | None:
    """Return the kind of network file system that a folder is on, None if it is on none."""
    path = os.path.realpath(Path(directory).expanduser())
    mounted = {part.mountpoint: part.fstype for part in psutil.disk_partitions(all=True)}
    above = [path, *map(str, Path(path).parents)]
    kind = next((mounted[place] for place in above if place in mounted), "")
    return kind if kind.lower() in NETWORK.split() else None


def encoded(row: Sequence[np.ndarray]) -> bytes:
    """Return a row as bytes that tell whether they are whole."""
    header = json.dumps([(array.dtype.name, array.shape) for array in row]).encode()
    body = b"".join([header, *(np.ascontiguousarray(array).tobytes() for array in row)])
    return _LENGTH.pack(xxhash.xxh3_64_intdigest(body), len(header)) + body


def bytes_on_disk(length: float) -> int:
    """Return about how many bytes a row takes in the file; long ones have pages of their own."""
    length += 64  # its key
    if length > _IN_PAGE / 2:
        return math.ceil(length / _PAGE) * _PAGE
    return math.ceil(_PAGE / max(1, int(_FILLED * _IN_PAGE / length)))


def _decoded(value: Any) -> list[np.ndarray] | None:
    if len(value) < _LENGTH.size:
        return None
    checksum, length = _LENGTH.unpack(value[: _LENGTH.size])
    body = value[_LENGTH.size :]
    if xxhash.xxh3_64_intdigest(body) != checksum:
        return None
    arrays, begin = [], length
    for name, shape in json.loads(bytes(body[:length])):
        dtype = np.dtype(name)
        size = dtype.itemsize * math.prod(shape)
        arrays.append(np.frombuffer(body[begin : begin + size], dtype).reshape(shape))
        begin += size
    return arrays


def _environment(path: Path) -> lmdb.Environment:
    try:
        return lmdb.open(
            str(path), map_size=MAP_BYTES, max_dbs=3, max_readers=1024, sync=False, metasync=False
        )
    except _NOT_WHOLE:
        raise
    except (lmdb.Error, MemoryError) as error:
        raise OSError(str(error)) from error


def _was_cut_off(path: Path) -> bool:
    """Tell whether the system went down before the disk had all that was written.

    What processes of this start left behind when they were killed is there; a later `sync` of ours
    writes it too.
    """
    for mark in path.glob("unsynced-*"):
        _, boot, process = mark.name.split("-")
        if boot != _boot():
            return True
        if _began(int(process)) is None:
            mark.unlink(missing_ok=True)
    return False


def _is_torn(path: Path) -> bool:
    """Tell whether the file is shorter than it was, which would end a process that maps it."""
    data, size = path / "data.mdb", path / _SIZE
    try:
        return data.stat().st_size < int(size.read_text())
    except (OSError, ValueError):  # nobody has closed it yet
        return False


def _remove_files(path: Path) -> None:
    for file in path.iterdir():
        if file.name in ("data.mdb", "lock.mdb", _SIZE) or file.name.startswith("unsynced-"):
            file.unlink(missing_ok=True)


def _close(env: lmdb.Environment, mark: Path, process: int) -> None:
    if os.getpid() != process:  # a fork of it
        return
    try:
        env.sync(True)
    except lmdb.Error as error:
        warnings.warn(f"PrefixCache: kept features may be lost: {error}.", stacklevel=2)
    else:
        with contextlib.suppress(OSError):  # by now the folder may be gone
            (mark.parent / _SIZE).write_text(str((mark.parent / "data.mdb").stat().st_size))
        mark.unlink(missing_ok=True)
    env.close()


@contextlib.contextmanager
def _one_process(path: Path) -> Iterator[None]:
    """Let one process at a time inside. On Windows, where open files can't be removed, all may."""
    if fcntl is None:
        yield
        return
    folder = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _boot() -> str:
    """Return what names this boot."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")
    except OSError:  # another system than Linux
        return str(round(psutil.boot_time() / 60))


def _process() -> tuple[int, float]:
    return _own(os.getpid())


@functools.cache
def _own(process: int) -> tuple[int, float]:
    return process, _began(process) or 0.0


def _lives(process: int, began: float) -> bool:
    return _began(process) == began


def _began(process: int) -> float | None:
    try:
        return float(psutil.Process(process).create_time())
    except psutil.NoSuchProcess:
        return None
