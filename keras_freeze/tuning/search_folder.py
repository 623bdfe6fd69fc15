"""The folder of one search only; its files are written whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_freeze.backup import archive
from keras_freeze.checks import ArgumentError

FILE = "keras_freeze_search.json"
#: What to do with a trial whose file can't be read.
TORN_TRIAL = (
    "Restore it from a copy, or delete the trial's folder: it counts as failed then, and the "
    "search continues with all others."
)
_ANOTHER = "Pass another project_name=, or overwrite=True to delete what it holds."


@dataclasses.dataclass
class Search:
    """What a search is, which KerasTuner does not record.

    Attributes:
        search: String, its kind.
        objective: String, the name of what counts.
        direction: "min" or "max".
        executions_per_trial: Int.
        settings: Further settings of the tuner by name.
        model: String, the size of the model that is built first; None before that is known.
    """

    search: str
    objective: str
    direction: str
    executions_per_trial: int = 1
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    model: str | None = None

    def as_dict(self) -> dict[str, str]:
        """Return what must be the same where the search resumes, by name."""
        model = {} if self.model is None else {"model": self.model}
        return {
            "search": self.search,
            "objective": self.objective,
            "direction": self.direction,
            "executions_per_trial": str(self.executions_per_trial),
            **{name: str(value) for name, value in self.settings.items()},
            **model,
        }

    def save(self, folder: Path) -> None:
        """Write it into the folder of the search."""
        with archive.replacing(folder / FILE) as file:
            Path(file).write_text(json.dumps(self.as_dict()))

    def check_folder(self, owner: str, folder: Path, advice: str = _ANOTHER) -> None:
        """Refuse a folder with another search, whose trials would be taken for those of this.

        Raises:
            ValueError: if there is one.
        """
        if not (folder / FILE).exists():
            return
        present = about(folder)
        for name, value in self.as_dict().items():
            if present.get(name) != value:
                raise ArgumentError(
                    owner,
                    "project_name",
                    "name a folder without another search",
                    received=(
                        f"{str(folder)!r}, which holds one with {name} {present.get(name)} "
                        f"instead of {value}"
                    ),
                    advice=advice,
                )


def about(project: str | os.PathLike[str]) -> dict[str, str]:
    """Return what a search is, as `Search.as_dict` does.

    Raises:
        ValueError: if the folder is not that of a search.
    """
    file = Path(project) / FILE
    if not file.exists():
        raise ValueError(
            "The folder of a search must hold what a tuner of keras_freeze.tuning has written. "
            f"Received: {str(project)!r}, which has no {FILE}. Pass its directory joined with its "
            "project name."
        )
    advice = "Restore it from a copy, or pass overwrite=True to delete the search."
    found: dict[str, str] = read_json(file, advice)
    return found


def read_json(file: Path, advice: str, *, may_be_empty: bool = False) -> Any:
    """Return what a file of a search holds.

    Args:
        file: `pathlib.Path`.
        advice: String, what to do with one that can't be read.
        may_be_empty: Bool, whether it may hold an empty object. Defaults to False.

    Raises:
        ValueError: if it can't be read as a JSON object.

    Example:
        >>> import tempfile
        >>> torn = Path(tempfile.mkdtemp()) / "trial.json"
        >>> _ = torn.write_text('{"score": 0.')
        >>> read_json(torn, "Delete it.")
        Traceback (most recent call last):
            ...
        ValueError: A file of a search can't be read: .../trial.json is cut off or damaged ...
    """
    try:
        found = json.loads(file.read_text())
        if not isinstance(found, dict) or not (found or may_be_empty):
            raise ValueError(f"it holds {found!r}")
        return found
    except ValueError as error:
        raise ValueError(
            f"A file of a search can't be read: {file} is cut off or damaged ({error}). {advice} "
            "Nothing else has been changed."
        ) from error
