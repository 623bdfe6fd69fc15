"""What a search has found, as rows: read from its folder, so that any process can ask."""

from __future__ import annotations

import collections
import importlib.util
import os
from pathlib import Path
from typing import Any

from keras_freeze.reports import Column, Table
from keras_freeze.tuning import search_folder, trial_record
from keras_freeze.tuning.search_folder import TORN_TRIAL, read_json
from keras_freeze.tuning.trial_record import COMPLETED, FAILED, TrialRecord


def rows(project: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Return a row for each trial that has begun, by the trials' ids.

    Args:
        project: The folder of a search: its directory and project name.

    Returns:
        List of dict: `trial_id`, `status`, `freeze_depth`, `frozen_groups` (a count, in the best
        epoch), `trainable_params`, `non_trainable_params`, `trainable_bytes`,
        `non_trainable_bytes` (there too), `score` (None unless completed), `score_std`,
        `executions`, `best_epoch` (0-based, of the first execution), `epochs`, `seconds`,
        `failures` (messages), `values` (hyperparameters by name). None where nothing is known.
    """
    folder = Path(project)
    return [_row(record, _status(folder, record)) for record in trial_record.read_all(folder)]


def frame(project: str | os.PathLike[str]) -> Any:
    """Return `rows` as a pandas frame; as they are, where pandas is not installed."""
    found = rows(project)
    if importlib.util.find_spec("pandas") is None:
        return found
    import pandas as pd

    return pd.DataFrame(found)


def best_first(found: list[dict[str, Any]], direction: str) -> list[dict[str, Any]]:
    """Return the rows of completed trials, the best first.

    Example:
        >>> rows = [{"status": "COMPLETED", "score": n} for n in (0.1, 0.3)]
        >>> [row["score"] for row in best_first(rows, "max")]
        [0.3, 0.1]
    """
    done = [row for row in found if row["status"] == COMPLETED and row["score"] is not None]
    return sorted(done, key=lambda row: row["score"], reverse=direction == "max")


def summary(project: str | os.PathLike[str], num_trials: int) -> str:
    """Return the best trials as a table, what became of the others, and why some failed."""
    search, found = search_folder.about(project), rows(project)
    objective, direction = search["objective"], search["direction"]
    best = best_first(found, direction)[:num_trials]
    names = [
        name
        for name in dict.fromkeys(name for row in best for name in row["values"])
        if not _is_shown_anyway(name, best)
    ]
    has_epochs = len({row["epochs"] for row in best}) > 1
    columns = ["depth", "trainable", "frozen", objective, "seconds"]
    columns += ["epochs"] if has_epochs else []
    cells = []
    for row in best:
        epochs = [str(row["epochs"])] if has_epochs else []
        values = [_short(row["values"].get(name, "")) for name in names]
        cells.append((*_cells(row), *epochs, *values))
    statuses = collections.Counter(row["status"].lower() for row in found)
    others = ", ".join(f"{n} {status}" for status, n in statuses.items() if status != "completed")
    table = Table(
        f"{objective}, the best {len(best)} of {len(found)} trials" + f" ({others})" * bool(others),
        tuple(Column(name, align="right") for name in (*columns, *names)),
        tuple(cells),
    )
    lines = [table.as_text()]
    for row in found:
        if row["status"] == FAILED:
            lines.append(f"failed: {row['trial_id']}: {(row['failures'] or ['?'])[-1]}")
    return "\n".join(lines)


class SearchResults:
    """What the folder of a search holds, for what runs the search.

    Attributes:
        project_dir: Str, path of the folder.
    """

    project_dir: Any

    def rows(self) -> list[dict[str, Any]]:
        """Return a dict for each trial; see `results_frame`."""
        return rows(self.project_dir)

    def results_frame(self) -> Any:
        """Return a row for each trial, as a pandas frame; as a list of dicts without pandas."""
        return frame(self.project_dir)

    def results_summary(self, num_trials: int = 10) -> None:
        """Print the best trials: depth, counts, score with its spread, time.

        Args:
            num_trials: Int, how many.
        """
        print(summary(self.project_dir, num_trials))


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _is_shown_anyway(name: str, rows: list[dict[str, Any]]) -> bool:
    """Tell whether a hyperparameter is KerasTuner's own, or the depth that has a column anyway."""
    is_depth = all(row["values"].get(name) == row["freeze_depth"] for row in rows)
    return name.startswith("tuner/") or is_depth


def _cells(row: dict[str, Any]) -> list[str]:
    spread = "" if row["score_std"] is None else f" ± {row['score_std']:.4f}"
    depth = row["frozen_groups"] if row["freeze_depth"] is None else row["freeze_depth"]
    counts = (row["trainable_params"], row["non_trainable_params"])
    return [
        "" if depth is None else f"{depth:g}",
        *("" if count is None else f"{count:,}" for count in counts),
        f"{row['score']:.4f}{spread}",
        f"{row['seconds']:.1f}",
    ]


def _row(record: TrialRecord, status: str) -> dict[str, Any]:
    first = record.executions[0] if record.executions else None
    part = first.scored_part if first else None
    return {
        "trial_id": record.trial_id,
        "status": status,
        "freeze_depth": record.freeze_depth,
        "frozen_groups": len(part.frozen_groups) if part else None,
        "trainable_params": part.trainable_params if part else None,
        "non_trainable_params": part.non_trainable_params if part else None,
        "trainable_bytes": part.trainable_bytes if part else None,
        "non_trainable_bytes": part.non_trainable_bytes if part else None,
        "score": record.score if status == COMPLETED else None,
        "score_std": record.score_std if status == COMPLETED else None,
        "executions": len(record.executions),
        "best_epoch": first.best_epoch if first else None,
        "epochs": sum(len(execution.epoch_s) for execution in record.executions),
        "seconds": record.seconds,
        "failures": record.failures,
        "values": record.values,
    }


def _status(project: Path, record: TrialRecord) -> str:
    file = project / f"trial_{record.trial_id}" / "trial.json"
    if not file.exists():  # deleted: the search counts it as failed
        return FAILED
    return str(read_json(file, TORN_TRIAL)["status"])
