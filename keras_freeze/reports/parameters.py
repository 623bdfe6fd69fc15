"""Count the parameters that train and those that don't, by layer group or layer."""

from __future__ import annotations

import collections
import dataclasses
import html
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import keras
import rich.box
import rich.table
import rich.text

from keras_freeze.groups import Groups, layer_groups
from keras_freeze.model_picture import bytes_of, check_model, opened_layers, weights_of
from keras_freeze.reports.tables import as_text


@dataclasses.dataclass(frozen=True)
class ReportRow:
    """One layer group or layer of a `ParameterReport`.

    Attributes:
        name: Str.
        kind: Str, the class of a layer; for a group, of its layers with weights.
        state: Str: `"trainable"`, `"frozen"`, `"partly frozen"`, or `"-"` without weights that
            could be trained.
        trainable_params: Int, parameters that train.
        non_trainable_params: Int, parameters that don't, moving statistics included.
        trainable_bytes: Int, their size.
        non_trainable_bytes: Int, their size.
    """

    name: str
    kind: str
    state: str
    trainable_params: int
    non_trainable_params: int
    trainable_bytes: int
    non_trainable_bytes: int

    @property
    def total_params(self) -> int:
        """All parameters."""
        return self.trainable_params + self.non_trainable_params

    @property
    def total_bytes(self) -> int:
        """The size of all parameters."""
        return self.trainable_bytes + self.non_trainable_bytes


@dataclasses.dataclass(frozen=True, repr=False)
class ParameterReport:
    """Parameter counts of a model at one moment.

    `print(report)` gives plain text, `rich.print(report)` a table in colour where the output
    is a terminal, and a notebook shows HTML. The totals are those of `model.summary()`,
    without the optimizer's own variables.

    Attributes:
        model: Str, the model's name.
        by: `"group"` or `"layer"`.
        rows: Tuple of `ReportRow`, from input to head.
    """

    model: str
    by: str
    rows: tuple[ReportRow, ...]

    @property
    def trainable_params(self) -> int:
        """Parameters that train."""
        return sum(row.trainable_params for row in self.rows)

    @property
    def non_trainable_params(self) -> int:
        """Parameters that don't train."""
        return sum(row.non_trainable_params for row in self.rows)

    @property
    def total_params(self) -> int:
        """All parameters."""
        return self.trainable_params + self.non_trainable_params

    @property
    def trainable_bytes(self) -> int:
        """Size of the parameters that train."""
        return sum(row.trainable_bytes for row in self.rows)

    @property
    def non_trainable_bytes(self) -> int:
        """Size of the parameters that don't train."""
        return sum(row.non_trainable_bytes for row in self.rows)

    @property
    def total_bytes(self) -> int:
        """Size of all parameters."""
        return self.trainable_bytes + self.non_trainable_bytes

    def to_dict(self) -> dict[str, Any]:
        """Return totals and rows as plain data, ready for JSON."""
        names = ["trainable_params", "non_trainable_params", "total_params"]
        names += [name.replace("params", "bytes") for name in names]
        totals = {name: getattr(self, name) for name in names}
        rows = [dataclasses.asdict(row) for row in self.rows]
        return {"model": self.model, "by": self.by, **totals, "rows": rows}

    def __repr__(self) -> str:
        return (
            f"ParameterReport(model={self.model!r}, by={self.by!r}, rows={len(self.rows)}, "
            f"trainable_params={self.trainable_params:,}, "
            f"non_trainable_params={self.non_trainable_params:,})"
        )

    def __str__(self) -> str:
        return as_text(self.__rich__(), width=80)

    def __rich__(self) -> rich.table.Table:
        """Return the report as a table of rich."""
        # A name is a Text, since rich takes brackets in a string for markup.
        table = rich.table.Table(
            title=rich.text.Text(self.model),
            title_justify="left",
            box=rich.box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
        )
        for n, column in enumerate(self._header()):
            justify: Literal["left", "right"] = "right" if n > 2 else "left"
            table.add_column(column, justify=justify, no_wrap=n > 1, overflow="fold")
        for row in self._cells():
            style = "dim" if row[2] == "frozen" else None
            table.add_row(*map(rich.text.Text, row), style=style)
        table.add_section()
        for name, params, size in self._totals():
            table.add_row(name, "", "", "", params, size, style="bold")
        return table

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{column}</th>" for column in self._header())
        totals = [(name, "", "", "", params, size) for name, params, size in self._totals()]
        body = "".join(
            f'<tr style="opacity:{0.55 if row[2] == "frozen" else 1}">{_html_cells(row)}</tr>'
            for row in self._cells()
        )
        foot = "".join(f'<tr style="font-weight:bold">{_html_cells(row)}</tr>' for row in totals)
        caption = f"<caption>{html.escape(self.model)}</caption>"
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}{foot}</tbody></table>"

    def _header(self) -> tuple[str, ...]:
        return self.by, "kind", "state", "trainable", "non-trainable", "size"

    def _cells(self) -> Iterator[tuple[str, ...]]:
        for row in self.rows:
            counts = f"{row.trainable_params:,}", f"{row.non_trainable_params:,}"
            yield row.name, row.kind, row.state, *counts, readable_bytes(row.total_bytes)

    def _totals(self) -> Iterator[tuple[str, str, str]]:
        for name in ("trainable", "non_trainable", "total"):
            params, size = getattr(self, f"{name}_params"), getattr(self, f"{name}_bytes")
            yield name.replace("_", "-"), f"{params:,}", readable_bytes(size)


def parameter_report(
    model: keras.Model, by: Literal["group", "layer"] = "group", *, groups: Groups | None = None
) -> ParameterReport:
    """Report the parameters of a model that train and that don't.

    Args:
        model: `keras.Model`, built.
        by: One row a `"group"` (default) or a `"layer"`.
        groups: How to divide the model, as for `layer_groups`. Defaults to automatically.

    Returns:
        `ParameterReport`.

    Raises:
        ValueError: if `by` is neither, or if the model isn't built.

    Example:
        >>> import keras_freeze as kf
        >>> model = keras.Sequential(
        ...     [keras.Input((4,)), keras.layers.Dense(3, name="low"), keras.layers.Dense(2)]
        ... )
        >>> result = kf.freeze(model, layers=["low"])
        >>> report = parameter_report(model)
        >>> report.trainable_params, report.non_trainable_params
        (8, 15)
        >>> [(row.name, row.state) for row in report.rows]
        [('low', 'frozen'), ('head', 'trainable')]
    """
    if by not in ("group", "layer"):
        raise ValueError(
            f'parameter_report(by=...) must be "group" or "layer". Received: by={by!r}.'
        )
    check_model("parameter_report", model)
    if by == "layer" and groups is not None:
        raise ValueError(
            'parameter_report(groups=...) must be None where by="layer". '
            f"Received: groups={groups!r}. Leave out one of the two."
        )
    parts = _by_group(model, groups) if by == "group" else _by_layer(model)
    trained = {id(variable) for variable in model.trainable_variables}
    able = {id(w.variable) for w in weights_of(model) if w.potentially_trainable}
    rows = tuple(_row(name, kind, weights, trained, able) for name, kind, weights in parts)
    return ParameterReport(model.name, by, rows)


def parameter_counts(model: keras.Model) -> tuple[int, int]:
    """Return how many parameters of a model train and how many don't."""
    return _params(model.trainable_weights), _params(model.non_trainable_weights)


def readable_bytes(size: float) -> str:
    """Return a size as `model.summary()` writes it.

    Example:
        >>> readable_bytes(17_927_370 * 4)
        '68.39 MB'
    """
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1024:
            return f"{size:.2f} {unit}"
        size /= 1024
    return f"{size:.2f} TB"


def _by_group(
    model: keras.Model, groups: Groups | None
) -> Iterator[tuple[str, str, Sequence[keras.Variable]]]:
    for group in layer_groups(model, groups):
        kinds = collections.Counter(type(x).__name__ for x in group.layers if x.weights)
        text = ", ".join(f"{n} {kind}" if n > 1 else kind for kind, n in kinds.items())
        yield group.name, text, group.variables


def _by_layer(model: keras.Model) -> Iterator[tuple[str, str, Sequence[keras.Variable]]]:
    left = {id(variable): variable for variable in model.weights}
    for layer in opened_layers(model):
        weights = [left.pop(id(v)) for v in layer.weights if id(v) in left]
        yield layer.name, type(layer).__name__, weights
    if left:  # held by a model itself, outside its layers
        yield model.name, type(model).__name__, list(left.values())


def _row(
    name: str, kind: str, weights: Sequence[keras.Variable], trained: set[int], able: set[int]
) -> ReportRow:
    states = {id(v) in trained for v in weights if id(v) in able}
    state = "partly frozen" if len(states) == 2 else "trainable" if True in states else "frozen"
    train = [v for v in weights if id(v) in trained]
    rest = [v for v in weights if id(v) not in trained]
    counts = _params(train), _params(rest), _bytes(train), _bytes(rest)
    return ReportRow(name, kind, state if states else "-", *counts)


def _params(variables: Iterable[keras.Variable]) -> int:
    return sum(math.prod(variable.shape) for variable in variables)


def _bytes(variables: Iterable[keras.Variable]) -> int:
    return sum(bytes_of(variable) for variable in variables)


def _html_cells(row: Sequence[str]) -> str:
    return "".join(
        f'<td style="text-align:{"right" if n > 2 else "left"}">{html.escape(cell)}</td>'
        for n, cell in enumerate(row)
    )
