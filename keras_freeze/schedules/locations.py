"""Where in a file or in plain data something stands, and errors that say so."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Protocol

from keras_freeze.checks import is_int

Path = tuple[str | int, ...]


class Misplaced(ValueError):
    """An error in a schedule's data, with the place where it is.

    Attributes:
        path: Tuple of keys and indices from the top of the data.
        problem: Str, what is wrong there.
        place: Str, the place in a file; "" where the data come from none.
    """

    def __init__(self, path: Path, problem: str, place: str = ""):
        super().__init__(path, problem)
        self.path = path
        self.problem = problem
        self.place = place

    def __str__(self) -> str:
        return f"{self.place or written(self.path) or 'schedule'}: {self.problem}"


@dataclasses.dataclass(frozen=True)
class Source:
    """Where in a file a phase stands, for messages.

    Attributes:
        file: Str, the file's name.
        path: Tuple of keys and indices, the phase's place in it.
        lines: Mapping from key of the phase to line; the phase's own under `""`.
    """

    file: str
    path: Path
    lines: Mapping[str, int]

    def at(self, key: str) -> str:
        """Return the place of a key, or of the phase where it has no such key."""
        if key in self.lines:
            return place_in_file(self.file, self.lines[key], (*self.path, key))
        return place_in_file(self.file, self.lines[""], self.path)


class Located(Protocol):
    """An object that knows its place in a file, if it comes from one."""

    @property
    def source(self) -> Source | None:
        """The place, None for what no file holds."""


def place_in_file(file: str, line: int, path: Path) -> str:
    """Return file, line and place in the data as text.

    Example:
        >>> place_in_file("plan.yaml", 4, ("phases", 0))
        'plan.yaml, line 4, phases[0]'
    """
    return f"{file}, line {line}, {written(path)}" if path else f"{file}, line {line}"


def written(path: Path) -> str:
    """Return a place in data as text.

    Example:
        >>> written(("phases", 0, "until", "any", 1))
        'phases[0].until.any[1]'
    """
    parts = [f"[{key}]" if is_int(key) else f".{key}" for key in path]
    return "".join(parts).removeprefix(".")


@contextlib.contextmanager
def placed(phase: Located, key: str, note: str = "") -> Iterator[None]:
    """Add to an error where in its file a phase stands, or else a note.

    Args:
        phase: The phase. If it comes from a file, the error becomes a `Misplaced`.
        key: Str, the argument of the phase that the error is about.
        note: Str, added as a note to the error of a phase that no file holds.
    """
    try:
        yield
    except (TypeError, ValueError) as error:
        source = phase.source
        if source is not None:
            raise Misplaced((*source.path, key), str(error), source.at(key)) from error
        if note:
            error.add_note(note)
        raise
