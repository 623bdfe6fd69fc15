"""Files that are there whole or not at all, whenever the process is killed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(file: str | os.PathLike[str]) -> Iterator[str]:
    """Give the name of a file to write, which takes the place of `file` at the end.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(Path(folder) / "a.txt") as name:
        ...         size = Path(name).write_text("done")
        ...     [found.name for found in Path(folder).iterdir()]
        ['a.txt']
    """
    if not Path(file).parent.is_dir():  # a path of a remote file system, which KerasTuner takes
        yield os.fspath(file)
        return
    unfinished = f"{os.fspath(file)}.{os.getpid()}.unfinished"
    try:
        yield unfinished
        os.replace(unfinished, file)
    finally:
        Path(unfinished).unlink(missing_ok=True)
