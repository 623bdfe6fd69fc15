"""What a schedule will do with a model, as a table, before anything runs."""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import rich.box
import rich.table
import rich.text

from keras_freeze.engine import optimizer_state
from keras_freeze.groups import Groups, LayerGroup, layer_groups
from keras_freeze.model_picture import GroupNames
from keras_freeze.policies.flags import phase_flags
from keras_freeze.reports.tables import as_text
from keras_freeze.schedules.phases import FreezeSchedule, Phase, placed
from keras_freeze.schedules.progress import soonest, timeline
from keras_freeze.schedules.rates import Rates, multipliers
from keras_freeze.schedules.triggers import (
    AfterEpochs,
    AfterSteps,
    AllOf,
    AnyOf,
    OnPlateau,
    Trigger,
    When,
    check_count,
)

_COLUMNS = ("phase", "begins", "ends", "trains", "trainable", "non-trainable", "learning rate")


@dataclasses.dataclass(frozen=True)
class PreviewRow:
    """One phase of a `SchedulePreview`.

    Attributes:
        phase: Int, its number from 0.
        begins: Str, when it begins; epochs are counted from 1, as Keras prints them.
        ends: Str, what ends it.
        training: Tuple of str, the layer groups of which something trains, from the head down.
        trainable_params: Int, parameters that train.
        non_trainable_params: Int, parameters that don't.
        rates: Learning rate of each of these groups as a multiple of the compiled one.
        curve: Str, how the rate changes within the phase; "" for not at all.
    """

    phase: int
    begins: str
    ends: str
    training: tuple[str, ...]
    trainable_params: int
    non_trainable_params: int
    rates: Mapping[str, float]
    curve: str


@dataclasses.dataclass(frozen=True, repr=False)
class SchedulePreview:
    """What a schedule will do; printed as text, with rich, or as HTML in a notebook.

    Attributes:
        model: Str, the model's name.
        epochs: Int, the epochs of the fit.
        learning_rate: Float, the compiled learning rate; None where there is none to give.
        rows: Tuple of `PreviewRow`, in order.
    """

    model: str
    epochs: int
    learning_rate: float | None
    rows: tuple[PreviewRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the preview as plain data, ready for JSON."""
        return dataclasses.asdict(self)

    def __repr__(self) -> str:
        return (
            f"SchedulePreview(model={self.model!r}, epochs={self.epochs}, phases={len(self.rows)})"
        )

    def __str__(self) -> str:
        return as_text(self.__rich__(), width=100)

    def __rich__(self) -> rich.table.Table:
        """Return the preview as a table of rich."""
        table = rich.table.Table(
            title=rich.text.Text(self._title()),
            title_justify="left",
            box=rich.box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
        )
        for column in _COLUMNS:
            numeric = "trainable" in column
            table.add_column(column, justify="right" if numeric else "left", no_wrap=numeric)
        for cells in self._cells():
            table.add_row(*map(rich.text.Text, cells))
        return table

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{column}</th>" for column in _COLUMNS)
        body = "".join(
            "<tr>"
            + "".join(f'<td style="text-align:left">{_html(cell)}</td>' for cell in cells)
            + "</tr>"
            for cells in self._cells()
        )
        caption = f"<caption>{html.escape(self._title())}</caption>"
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def _title(self) -> str:
        return f"{self.model}, {self.epochs} epochs"

    def _cells(self) -> Iterator[tuple[str, ...]]:
        for row in self.rows:
            counts = f"{row.trainable_params:,}", f"{row.non_trainable_params:,}"
            trains = ", ".join(row.training)
            yield str(row.phase), row.begins, row.ends, trains, *counts, self._rates(row)

    def _rates(self, row: PreviewRow) -> str:
        base = 1.0 if self.learning_rate is None else self.learning_rate
        values = {name: base * rate for name, rate in row.rates.items()}
        unit = "x" if self.learning_rate is None else ""
        if len(set(values.values())) == 1:
            text = f"{unit}{next(iter(values.values())):.3g}"
        else:
            text = "\n".join(f"{name} {unit}{value:.3g}" for name, value in values.items())
        return f"{text}\n{row.curve}" if row.curve else text


def preview(
    schedule: FreezeSchedule,
    model: keras.Model,
    epochs: int,
    *,
    steps_per_epoch: int | None = None,
    groups: Groups | None = None,
    rates: Rates = None,
) -> SchedulePreview:
    """Show what a schedule will do with a model; nothing is changed.

    Args:
        schedule: `FreezeSchedule`.
        model: `keras.Model`, built; compiled, if learning rates are to be shown.
        epochs: Int, the epochs of the fit.
        steps_per_epoch: Int, batches in an epoch, for phases that end after steps. Defaults to
            not known.
        groups: How to divide the model, as for `layer_groups`. Defaults to automatically.
        rates: Learning rates of the groups for phases that have none. Defaults to 1 for all.

    Returns:
        `SchedulePreview`.

    Raises:
        ValueError: if the schedule names what the model has not.

    Example:
        >>> from keras_freeze import schedules
        >>> model = keras.Sequential(
        ...     [keras.Input((4,)), keras.layers.Dense(3, name="low"), keras.layers.Dense(2)],
        ...     name="net",
        ... )
        >>> schedule = schedules.gradual(model, until=2, rates=2.0)
        >>> print(schedule.preview(model, epochs=5))
        net, 5 epochs
        <BLANKLINE>
         phase  begins   ends            trains     trainable  non-trainable  learning rate
         ───────────────────────────────────────────────────────────────────────────────────
         0      epoch 1  after 2 epochs  head               8             15  x1
         1      epoch 3  with the fit    head, low         23              0  head x1
                                                                              low x0.5
    """
    check_count("preview", "epochs", epochs)
    found = layer_groups(model, groups)
    begins = _begins(schedule, epochs, steps_per_epoch, getattr(model, "steps_per_execution", 1))
    rows = tuple(
        _row(index, phase, begins[index], model, found, groups, rates)
        for index, phase in enumerate(schedule.phases)
    )
    compiled = getattr(model, "compiled", False)
    rate = optimizer_state.learning_rate(model.optimizer) if compiled else None
    return SchedulePreview(model.name, epochs, rate, rows)


def _row(
    index: int,
    phase: Phase,
    begins: str,
    model: keras.Model,
    found: tuple[LayerGroup, ...],
    groups: Groups | None,
    rates: Rates,
) -> PreviewRow:
    names = GroupNames.of(found)
    with placed(phase, "frozen"):
        frozen = phase.policy(groups).select(model)
    flags = phase_flags(model, frozen, phase.batch_norm, found)
    trained = {id(variable) for variable, trains in flags.variables if trains}
    training = [g.name for g in reversed(found) if any(id(v) in trained for v in g.variables)]
    params = sum(math.prod(v.shape) for v in model.weights if id(v) in trained)
    with placed(phase, "rates"):
        by_group = multipliers(rates if phase.rates is None else phase.rates, names)
    return PreviewRow(
        index,
        begins,
        "with the fit" if phase.trigger is None else describe(phase.trigger),
        tuple(training),
        params,
        sum(math.prod(v.shape) for v in model.weights) - params,
        {name: by_group[name] for name in training},
        "" if phase.curve is None else type(phase.curve).__name__,
    )


def _begins(
    schedule: FreezeSchedule, epochs: int, steps_per_epoch: int | None, stride: int
) -> list[str]:
    texts, is_late = [], False
    exact = timeline(schedule, steps_per_epoch, stride)
    earliest = timeline(soonest(schedule), steps_per_epoch, stride)
    for index, (moment, early) in enumerate(zip(exact, earliest, strict=True)):
        is_late = is_late or (early is not None and early.epoch >= epochs)
        text = f"after phase {index - 1}"
        if moment is not None:
            step = f", step {moment.step}" if moment.step else ""
            text = f"epoch {moment.epoch + 1}{step}"
        texts.append(f"{text} (not reached)" if is_late else text)
    return texts


def _html(text: str) -> str:
    return html.escape(text).replace("\n", "<br>")


def describe(trigger: Trigger) -> str:
    """Say in words what a trigger waits for.

    Example:
        >>> describe(OnPlateau("val_loss", patience=2) | AfterEpochs(10))
        'val_loss stalls for 2 epochs, or after 10 epochs'
    """
    if isinstance(trigger, AfterEpochs):
        return f"after {_counted(trigger.epochs, 'epoch')}"
    if isinstance(trigger, AfterSteps):
        return f"after {_counted(trigger.steps, 'step')}"
    if isinstance(trigger, OnPlateau):
        return f"{trigger.monitor} stalls for {_counted(trigger.patience, 'epoch')}"
    if isinstance(trigger, When):
        return f"when {getattr(trigger.condition, '__name__', 'a condition')} holds"
    if isinstance(trigger, (AnyOf, AllOf)):
        word = ", or " if isinstance(trigger, AnyOf) else ", and "
        return word.join(map(_part, trigger.triggers))
    return repr(trigger)


def _part(trigger: Trigger) -> str:
    text = describe(trigger)
    return f"({text})" if isinstance(trigger, (AnyOf, AllOf)) else text


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' if count > 1 else ''}"
