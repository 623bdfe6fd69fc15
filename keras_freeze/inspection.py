"""The commands that look at a saved model: its layer groups, its parameters, what a schedule does.

`__main__` calls them; nothing here trains or writes.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import sys
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_freeze.advice import check as find, suggest as advise
from keras_freeze.callbacks import FreezeScheduler, GradualUnfreeze
from keras_freeze.checks import first_few
from keras_freeze.findings import Findings
from keras_freeze.groups import layer_groups
from keras_freeze.keras_internals.graph import functional_graph, input_keys
from keras_freeze.reports import Column, ShownAsTable, Table, parameter_report, readable_bytes


@dataclasses.dataclass(frozen=True)
class _Groups(ShownAsTable):
    """The layer groups of a model, from input to head."""

    model: str
    rows: tuple[Mapping[str, Any], ...]

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def _table(self) -> Table:
        columns = (
            Column("group", fit="shorten"),
            Column("layers", align="right"),
            Column("from", fit="shorten"),
            Column("to", fit="shorten"),
            Column("parameters", align="right"),
        )
        rows = []
        for row in self.rows:
            names = row["layers"]
            size = f"{row['total_params']:,}"
            rows.append((row["name"], str(len(names)), names[0], names[-1], size))
        return Table(f"{self.model}, layer groups from input to head", columns, tuple(rows))


def groups(model: keras.Model, options: argparse.Namespace) -> _Groups:
    """Return the layer groups of a model."""
    rows = []
    for group in layer_groups(model, backbone=options.backbone):
        layers = tuple(layer.name for layer in group.layers)
        rows.append({"name": group.name, "layers": layers, "total_params": group.total_params})
    return _Groups(model.name, tuple(rows))


def report(model: keras.Model, options: argparse.Namespace) -> ShownAsTable:
    """Return the parameter report of a model."""
    return parameter_report(model, by=options.by, batch_size=options.batch_size)


def check(model: keras.Model, options: argparse.Namespace) -> Findings:
    """Return what will probably spoil a training, as far as what is given shows it."""
    x, y = _data(options.data, model)
    if options.schedule is None:
        return find(model, x, y, batch_size=options.batch_size, backbone=options.backbone)
    callback = _callback(options.schedule, options.backbone)
    return find(model, x, y, batch_size=options.batch_size, schedule=callback)


def suggest(model: keras.Model, options: argparse.Namespace) -> ShownAsTable:
    """Return how deep to freeze: by what the data show, or by rule."""
    if options.data is None and (options.samples is None or options.similarity is None):
        raise ValueError("suggest needs --data, or --samples and --similarity")
    x, y = _data(options.data, model)
    return advise(
        model,
        x,
        y,
        n_samples=options.samples,
        n_classes=options.classes,
        similarity=options.similarity,
        backbone=options.backbone,
    )


@dataclasses.dataclass(frozen=True)
class _Depths(ShownAsTable):
    """What each freeze depth of a model leaves to train."""

    model: str
    rows: tuple[Mapping[str, Any], ...]

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def _table(self) -> Table:
        columns = [
            Column("depth", align="right"),
            Column("frozen up to", fit="shorten"),
            Column("trainable", align="right"),
        ]
        has_memory = any("memory_bytes" in row for row in self.rows)
        if has_memory:
            columns.append(Column("memory of a step", align="right"))
        rows = []
        for row in self.rows:
            cells = [str(row["depth"]), row["frozen"][-1] if row["frozen"] else "-"]
            cells.append(f"{row['trainable_params']:,}")
            if has_memory:
                cells.append(readable_bytes(row["memory_bytes"]))
            rows.append(tuple(cells))
        return Table(f"{self.model}, freeze depths in layer groups", tuple(columns), tuple(rows))


def depths(model: keras.Model, options: argparse.Namespace) -> _Depths:
    """Return what each freeze depth of a model leaves to train."""
    names = [group.name for group in layer_groups(model, backbone=options.backbone)]
    rows = []
    for depth in range(len(names)):
        callback = FreezeScheduler({0: depth or None}, backbone=options.backbone)
        (planned,) = callback.preview(model, 1, batch_size=options.batch_size).rows
        row = {"depth": depth, "frozen": names[:depth]}
        row["trainable_params"] = planned.trainable_params
        if planned.memory is not None and planned.memory.total_bytes is not None:
            row["memory_bytes"] = planned.memory.total_bytes
        rows.append(row)
    return _Depths(model.name, tuple(rows))


def preview(model: keras.Model, options: argparse.Namespace) -> ShownAsTable:
    """Return what a schedule would do with a model."""
    callback = _callback(options.schedule, options.backbone)
    return callback.preview(model, options.epochs, batch_size=options.batch_size)


def _callback(schedule: str, backbone: str | None) -> FreezeScheduler:
    if Path(schedule).suffix in (".yaml", ".yml"):
        return FreezeScheduler(schedule, backbone=backbone)
    given: Any = int(schedule) if schedule.isdigit() else schedule
    return GradualUnfreeze(given, backbone=backbone)


def _data(path: Path | None, model: keras.Model) -> tuple[Any, Any]:
    """Return inputs and targets of an archive of NumPy's."""
    if path is None:
        return None, None
    try:
        with path.open("rb") as file:  # np.load leaves a torn one open
            archive = np.load(file)
            if isinstance(archive, np.ndarray):
                raise ValueError("it holds a single array; write np.savez(path, x=x, y=y)")
            arrays = dict(archive)
    except (OSError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"--data {path} can't be read as a file of np.savez (.npz): {error}"
        ) from error
    names, targets = [*arrays], arrays.pop("y", None)
    inputs = [tensor.name for tensor in getattr(model, "inputs", None) or ()]
    graph = functional_graph(model)
    inputs = [*input_keys(graph).values()] or inputs if graph is not None else inputs
    if [*arrays] == ["x"] and len(inputs) < 2:
        return arrays["x"], targets
    if not arrays or (inputs and {*arrays} != {*inputs}):
        wanted = "x" if len(inputs) < 2 else first_few(inputs)
        raise ValueError(
            f"--data {path} needs the inputs as {wanted} and the targets as y, and has "
            f"{first_few(names) or 'nothing'}"
        )
    return arrays, targets


Command = Callable[[keras.Model, argparse.Namespace], Any]

#: The commands by name, with what they show.
COMMANDS: dict[str, tuple[Command, str]] = {
    "groups": (groups, "show the layer groups of a saved model, from input to head"),
    "report": (report, "show how many parameters of a saved model train"),
    "check": (check, "find what will probably spoil a training of a saved model"),
    "suggest": (suggest, "suggest how deep to freeze a saved model, and how to train it"),
    "depths": (depths, "show what each freeze depth of a saved model leaves to train"),
    "preview": (preview, "show what a schedule would do with a saved model"),
}


def add_options(command: argparse.ArgumentParser, name: str) -> None:
    """Tell a command what may be given to it."""
    command.add_argument("file", type=Path, help="the model, as model.save wrote it (.keras)")
    command.add_argument("--json", action="store_true", help="print JSON instead of a table")
    command.add_argument(
        "--unsafe",
        action="store_true",
        help="run the code of Lambda layers, which comes with the file: for files that you trust",
    )
    command.add_argument(
        "--import",
        dest="modules",
        action="append",
        default=[],
        metavar="MODULE",
        help="import a module first, which registers classes of your own; can be repeated",
    )
    if name in ("report", "preview", "depths"):
        command.add_argument(
            "--batch-size", type=int, help="samples in a batch: show the memory of a step too"
        )
    if name in ("check", "suggest"):
        command.add_argument(
            "--data",
            type=Path,
            metavar="FILE",
            help="the data, as np.savez wrote them (.npz): targets as y, inputs as x, or each by "
            "the name of its input",
        )
    if name == "report":
        command.add_argument(
            "--by", choices=("group", "layer"), default="group", help="default: %(default)s"
        )
        return
    command.add_argument(
        "--backbone", metavar="NAME", help="what is pretrained, by name (default: found)"
    )
    if name == "suggest":
        command.add_argument("--samples", type=int, help="for training (default: of the data)")
        command.add_argument(
            "--classes", type=int, help="default: of the data, or not a classification"
        )
        command.add_argument(
            "--similarity",
            choices=("near", "far"),
            help="how like what the model was pretrained on the data are (default: measured)",
        )
    if name == "check":
        command.add_argument("--batch-size", type=int, help="of the training")
    if name in ("check", "preview"):
        default = "even" if name == "preview" else None
        command.add_argument(
            "--schedule",
            default=default,
            help='"even", how many epochs for each group, or a YAML file (default: '
            f"{default or 'none, the flags as they are'})",
        )
    if name == "preview":
        command.add_argument("--epochs", type=int, default=10, help="default: %(default)s")


def run(options: argparse.Namespace) -> None:
    """Load the model, and print what the command finds.

    Raises:
        SystemExit: with the reason, if the file can't be read or an argument is invalid.
    """
    command, _ = COMMANDS[options.command]
    try:
        for module in options.modules:
            importlib.import_module(module.removesuffix(".py"))
        with warnings.catch_warnings():  # the optimizer's state does not matter here
            warnings.filterwarnings("ignore", "Skipping variable loading for optimizer")
            model = _loaded(
                options.file, is_trusted=options.unsafe, has_imports=bool(options.modules)
            )
        found = command(model, options)
    except (ImportError, OSError, TypeError, ValueError) as error:
        sys.exit(f"{options.file}: {_in_a_line(error)}")
    if options.json:
        print(json.dumps(found.to_dict(), indent=2))
        return
    import rich

    rich.print(found)


def _loaded(file: Path, *, is_trusted: bool, has_imports: bool) -> keras.Model:
    try:
        return keras.saving.load_model(file, safe_mode=not is_trusted)
    except (TypeError, ValueError) as error:
        if "safe_mode=False" in str(error) or "enable_unsafe_deserialization" in str(error):
            said = (
                "It has Lambda layers, whose code comes with the file. Pass --unsafe to trust it."
            )
            raise ValueError(said) from error
        advice = ""
        if file.exists() and not has_imports:
            advice = "If the model has classes of your own, pass --import."
        raise ValueError(f"{_in_a_line(error)} {advice}".strip()) from error


def _in_a_line(error: Exception) -> str:
    r"""Return what an error says, in a line: its cause, where Keras puts that into a later one.

    Example:
        >>> _in_a_line(ValueError("It failed: \n\nno such class. Full object config: {...}"))
        'It failed: no such class.'
        >>> _in_a_line(ValueError("Exception encountered when calling A.call().\n\nrank 2, not 4"))
        'rank 2, not 4'
    """
    text = str(error).replace("\033[1m", "").replace("\033[0m", "")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].startswith("Exception encountered when calling"):
        del lines[0]
    count = next((n for n, line in enumerate(lines, 1) if not line.endswith(":")), len(lines))
    return " ".join(lines[:count]).partition(" Full object config:")[0]
