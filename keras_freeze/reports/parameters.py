"""Count the parameters that train and those that don't, by layer group or layer."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import keras

from keras_freeze.checks import ArgumentError, check_count
from keras_freeze.groups import Backbone, Groups, picture_of
from keras_freeze.keras_internals.layers import lora_base
from keras_freeze.memory import StepMemory, check_batch, measured_memory, step_memory
from keras_freeze.model_picture import (
    ModelPicture,
    Weight,
    bytes_of,
    check_model,
    count_params,
    is_batch_norm,
    read_model,
)
from keras_freeze.reports.memory_lines import memory_notes, memory_rows
from keras_freeze.reports.sizes import readable_bytes
from keras_freeze.reports.tables import Column, ShownAsTable, Table


@dataclasses.dataclass(frozen=True)
class ReportRow:
    """One layer group or layer of a `ParameterReport`.

    Attributes:
        name: Str.
        kind: Str, the class of a layer; for a group, of its layers with weights.
        state: Str: `"trainable"`, `"frozen"`, `"partly frozen"` with what is frozen in brackets,
            as in `"partly frozen (BatchNorm)"`, or `"-"` without weights that could be trained.
        trainable_params: Int, parameters that train.
        non_trainable_params: Int, parameters that don't, moving statistics included.
        trainable_bytes: Int, their size.
        non_trainable_bytes: Int, their size.
        first_layer: Str or None, shown beside the name of a group named by position; it differs
            from build to build, so it is excluded from comparisons and not stored.
    """

    name: str
    kind: str
    state: str
    trainable_params: int
    non_trainable_params: int
    trainable_bytes: int
    non_trainable_bytes: int
    first_layer: str | None = dataclasses.field(default=None, compare=False)

    @property
    def total_params(self) -> int:
        """All parameters."""
        return self.trainable_params + self.non_trainable_params

    @property
    def total_bytes(self) -> int:
        """The size of all parameters."""
        return self.trainable_bytes + self.non_trainable_bytes


@dataclasses.dataclass(frozen=True, repr=False)
class ParameterReport(ShownAsTable):
    """Parameter counts of a model at one moment.

    `print(report)` gives plain text, `rich.print(report)` a table in colour where the output
    is a terminal, and a notebook shows HTML. The totals are those of `model.summary()`,
    without the optimizer's own variables.

    Attributes:
        model: Str, the model's name.
        by: `"group"` or `"layer"`.
        rows: Tuple of `ReportRow`, from input to head.
        memory: `StepMemory`, of a training step; None unless a batch size was given.
    """

    model: str
    by: str
    rows: tuple[ReportRow, ...]
    memory: StepMemory | None = None

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
        for row in rows:
            del row["first_layer"]
        memory = {} if self.memory is None else {"memory": self.memory.to_dict()}
        return {"model": self.model, "by": self.by, **totals, "rows": rows, **memory}

    def __repr__(self) -> str:
        return (
            f"ParameterReport(model={self.model!r}, by={self.by!r}, rows={len(self.rows)}, "
            f"trainable_params={self.trainable_params:,}, "
            f"non_trainable_params={self.non_trainable_params:,})"
        )

    def _table(self) -> Table:
        columns = (
            Column(self.by, fit="shorten"),
            Column("kind", fit="wrap"),
            Column("state", fit="wrap"),
            Column("trainable", align="right"),
            Column("non-trainable", align="right"),
            Column("size", align="right"),
        )
        rows = []
        for row in self.rows:
            kind = f"{row.kind} ({row.first_layer})" if row.first_layer else row.kind
            counts = f"{row.trainable_params:,}", f"{row.non_trainable_params:,}"
            rows.append((row.name, kind, row.state, *counts, readable_bytes(row.total_bytes)))
        trained = f"{self.trainable_params:,}", "", readable_bytes(self.trainable_bytes)
        rest = "", f"{self.non_trainable_params:,}", readable_bytes(self.non_trainable_bytes)
        total = "", f"{self.total_params:,}", readable_bytes(self.total_bytes)
        names = ("trainable", "non-trainable", "total")
        footer = [(n, "", "", *t) for n, t in zip(names, (trained, rest, total), strict=True)]
        notes: tuple[str, ...] = ()
        if self.memory is not None:
            footer += [(n, "", "", "", "", size) for n, size in memory_rows(self.memory)]
            notes = memory_notes(self.memory)
        dim = frozenset(n for n, row in enumerate(self.rows) if row.state == "frozen")
        return Table(self.model, columns, tuple(rows), tuple(footer), dim, notes)


def parameter_report(
    model: keras.Model,
    by: Literal["group", "layer"] = "group",
    *,
    groups: Groups | None = None,
    backbone: Backbone | None = None,
    batch_size: int | None = None,
    measured: bool = False,
) -> ParameterReport:
    """Report the parameters of a model that train and that don't.

    With a batch size also the memory of a training step, as `keras_freeze.memory` estimates it:
    weights, a gradient of each that trains, what the optimizer holds for these, the activations
    that the backward pass needs, and what is computed at a time. So it says why freezing has saved
    memory, or not. Activations are known for Functional and Sequential models that train with
    Keras's own step; of others the report says why they are not.

    Args:
        model: `keras.Model`, built.
        by: One row per `"group"` (default) or per `"layer"`.
        groups: How to divide the model, as for `layer_groups`. Defaults to automatically.
        backbone: What is pretrained, as for `layer_groups`. Defaults to None, to be found.
        batch_size: Int, samples in a batch, to report the memory of a training step. Defaults to
            None, for parameters alone.
        measured: Bool, whether to ask JAX's compiler for the memory too. That compiles a step,
            which takes its time, and needs a compiled model. Defaults to False.

    Returns:
        `ParameterReport`.

    Raises:
        ValueError: if `by` is neither, if the model isn't built or its inputs are made for another
            batch size, or if `measured` is True and there is no compiler to ask.

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
        >>> parameter_report(model, batch_size=32).memory.activation_bytes
        640
    """
    if by not in ("group", "layer"):
        raise ArgumentError("parameter_report", "by", 'be "group" or "layer"', value=by)
    check_model("parameter_report", model)
    for name, value in (("groups", groups), ("backbone", backbone)):
        if by == "layer" and value is not None:
            raise ArgumentError(
                "parameter_report",
                name,
                'be None where by="layer"',
                value=value,
                advice="Leave out one of the two.",
            )
    memory = None
    if batch_size is not None:
        memory = _memory(model, batch_size, measured)
    elif measured:
        advice = "Pass batch_size= too."
        raise ArgumentError(
            "parameter_report",
            "measured",
            "be False without a batch size",
            value=measured,
            advice=advice,
        )
    picture = read_model(model) if by == "layer" else picture_of(model, groups, backbone)
    parts = _by_layer(picture) if by == "layer" else _by_group(picture)
    owners = {id(weight.variable): weight for weight in picture.weights}
    trained = {id(variable) for variable in model.trainable_variables}
    rows = tuple(_row(part, owners, trained) for part in parts)
    return ParameterReport(model.name, by, rows, memory)


def checked_batch_size(owner: str, model: keras.Model, batch_size: int) -> int:
    """Return a batch size; raise in the name of `owner` unless a model takes batches of it."""
    check_count(owner, "batch_size", batch_size)
    fixed = check_batch(model, batch_size)
    if fixed is not None:
        rule = f"be {fixed}, the batch size that the inputs of model {model.name!r} are made for"
        raise ArgumentError(owner, "batch_size", rule, value=batch_size)
    return batch_size


def _memory(model: keras.Model, batch_size: int, measured: bool) -> StepMemory:
    owner = "parameter_report"
    checked_batch_size(owner, model, batch_size)
    found = measured_memory(owner, model, batch_size) if measured else None
    return step_memory(model, batch_size, measured=found)


def parameter_counts(model: keras.Model) -> tuple[int, int]:
    """Return how many parameters of a model train and how many don't."""
    return count_params(model.trainable_weights), count_params(model.non_trainable_weights)


@dataclasses.dataclass(frozen=True, eq=False)
class _Part:
    """What makes a row."""

    name: str
    kind: str
    variables: Sequence[keras.Variable]
    first_layer: str | None = None


def _by_group(picture: ModelPicture) -> Iterator[_Part]:
    for group in picture.groups:
        kinds = collections.Counter(type(x).__name__ for x in group.layers if x.weights)
        text = ", ".join(f"{n} {kind}" if n > 1 else kind for kind, n in kinds.items())
        yield _Part(group.name, text, group.variables, group.first_layer)


def _by_layer(picture: ModelPicture) -> Iterator[_Part]:
    left = {id(weight.variable): weight.variable for weight in picture.weights}
    for layer in picture.opened:
        weights = [left.pop(id(v)) for v in layer.weights if id(v) in left]
        yield _Part(layer.name, type(layer).__name__, weights)
    if left:  # held by a model itself, outside its layers
        yield _Part(picture.model.name, type(picture.model).__name__, list(left.values()))


def _row(part: _Part, owners: Mapping[int, Weight], trained: set[int]) -> ReportRow:
    train = [v for v in part.variables if id(v) in trained]
    rest = [v for v in part.variables if id(v) not in trained]
    return ReportRow(
        name=part.name,
        kind=part.kind,
        state=_state([owners[id(variable)] for variable in part.variables], trained),
        trainable_params=count_params(train),
        non_trainable_params=count_params(rest),
        trainable_bytes=_bytes(train),
        non_trainable_bytes=_bytes(rest),
        first_layer=part.first_layer,
    )


def _state(weights: Sequence[Weight], trained: set[int]) -> str:
    able = [weight for weight in weights if weight.potentially_trainable]
    frozen = [weight for weight in able if id(weight.variable) not in trained]
    if not able:
        return "-"
    if len(frozen) == len(able):
        return "frozen"
    what = ", ".join(_what_is_frozen(weights, able, frozen))
    return f"partly frozen ({what})" if what else "trainable"


def _what_is_frozen(
    weights: Sequence[Weight], able: Sequence[Weight], frozen: Sequence[Weight]
) -> Iterator[str]:
    """Yield what is frozen in a partly frozen part: LoRA's base, BatchNorm, layers, weights."""
    bases = [weight for weight in weights if weight.variable is lora_base(weight.layer)]
    if not all(base.variable.trainable for base in bases):
        yield "LoRA"
        return
    if any(is_batch_norm(weight.layer) for weight in frozen):
        yield "BatchNorm"
    elif any(is_batch_norm(weight.layer) and not weight.layer.trainable for weight in weights):
        yield "BatchNorm statistics"
    others = [weight for weight in frozen if not is_batch_norm(weight.layer)]
    able_in = collections.Counter(id(weight.layer) for weight in able)
    frozen_in = collections.Counter(id(weight.layer) for weight in others)
    whole = {layer for layer, count in frozen_in.items() if count == able_in[layer]}
    if whole:
        yield f"{len(whole)} of {len(able_in)} layers"
    names = {weight.variable.name for weight in others if id(weight.layer) not in whole}
    if names:
        yield " and ".join(sorted(names)) if len(names) < 3 else "single weights"


def _bytes(variables: Iterable[keras.Variable]) -> int:
    return sum(bytes_of(variable) for variable in variables)
