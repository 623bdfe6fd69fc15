"""What a schedule will do with a model, as a table, before anything runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_freeze.checks import ArgumentError, check_count, counted, first_few
from keras_freeze.groups import Backbone, Groups, picture_of
from keras_freeze.memory import StepMemory, step_memory
from keras_freeze.model_picture import (
    ModelPicture,
    count_params,
    learning_rate_of,
    with_initial_values,
)
from keras_freeze.policies import phase_flags
from keras_freeze.reports import Column, ShownAsTable, Table, checked_batch_size, in_short
from keras_freeze.schedules.locations import placed
from keras_freeze.schedules.phase import Phase, PhaseSequence, in_words
from keras_freeze.schedules.progress import Moment, soonest, timeline
from keras_freeze.schedules.rates import Rates, multipliers

_PHASE = Column("phase")
_BEGINS = Column("begins", fit="wrap")
_ENDS = Column("ends", fit="wrap")


@dataclasses.dataclass(frozen=True)
class PreviewRow:
    """One phase of a `SchedulePreview`.

    Attributes:
        phase: Int, its number from 0.
        begins: Str, when it begins; epochs are counted from 1, as Keras prints them.
        ends: Str, what ends it.
        training: Tuple of str, the layer groups that train at least in part, from the head down.
        trainable_params: Int, parameters that train.
        decides_late: Bool, whether what trains is decided as the phase begins; this is an example.
        non_trainable_params: Int, parameters that don't.
        rates: Learning rate of each of these groups as a multiple of the compiled one.
        curve: Str, how the rate changes within the phase; "" for not at all.
        epochs: Float, the epochs that are done when it begins; None where that isn't known
            beforehand.
        is_reached: Bool, whether it may begin within the fit.
        memory: `StepMemory`, of a training step; None unless a batch size was given.
    """

    phase: int
    begins: str
    ends: str
    training: tuple[str, ...]
    trainable_params: int
    non_trainable_params: int
    rates: Mapping[str, float]
    curve: str
    decides_late: bool = False
    epochs: float | None = None
    is_reached: bool = True
    memory: StepMemory | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the row as plain data; with its memory if that was asked for."""
        found = dataclasses.asdict(self)
        del found["memory"]
        return found if self.memory is None else {**found, "memory": self.memory.to_dict()}


@dataclasses.dataclass(frozen=True, repr=False)
class SchedulePreview(ShownAsTable):
    """What a schedule will do; printed as text, with rich, or as HTML in a notebook.

    The table shows what each phase changes: `+ block5` for a group that unfreezes, `- block5`
    for one that freezes, and the learning rates that are new. `rows` has everything.

    Attributes:
        model: Str, the model's name.
        epochs: Int, the epochs of the fit.
        learning_rate: Float, the compiled learning rate; None where there is none to give.
        rows: Tuple of `PreviewRow`, in order.
        groups: Tuple of str, the layer groups of the model, from the head down.
        rates_follow: Bool, whether rates follow the gradients from the second epoch on, so that
            those here are where they begin (`rates="auto"`).
        is_open: Bool, whether what follows the rows is decided while the model trains.
        end: Float, the epochs that are done when the last of the rows ends; None where that isn't
            known beforehand.
        remarks: Tuple of str, what else a fit says beforehand, and how what is open is decided.
    """

    model: str
    epochs: int
    learning_rate: float | None
    rows: tuple[PreviewRow, ...]
    groups: tuple[str, ...]
    rates_follow: bool = False
    is_open: bool = False
    end: float | None = None
    remarks: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the preview as plain data, ready for JSON."""
        return {**dataclasses.asdict(self), "rows": tuple(row.to_dict() for row in self.rows)}

    def __repr__(self) -> str:
        return (
            f"SchedulePreview(model={self.model!r}, epochs={self.epochs}, phases={len(self.rows)})"
        )

    def _table(self) -> Table:
        columns = [_PHASE, _BEGINS, _ENDS, Column("trains", fit="wrap")]
        rate = "learning rate, at first" if self.rates_follow else "learning rate"
        columns += [Column("trainable", align="right"), Column(rate, fit="wrap")]
        has_curves = any(row.curve for row in self.rows)
        if has_curves:
            columns.append(Column("curve"))
        batch_size = None if self.rows[0].memory is None else self.rows[0].memory.batch_size
        if batch_size is not None:
            columns.append(Column("memory", align="right"))
        cells = []
        before = None
        for row in self.rows:
            changes, count = self._changes(row, before), f"{row.trainable_params:,}"
            rates = self._new_rates(row, before)
            if row.decides_late:
                changes, count, rates = "decided as it begins", "", ""
            line = [str(row.phase), row.begins, row.ends, changes, count, rates]
            if has_curves:
                line.append(row.curve)
            if row.memory is not None:
                line.append("" if row.decides_late else in_short(row.memory))
            cells.append(tuple(line))
            before = row
        total = self.rows[0].trainable_params + self.rows[0].non_trainable_params
        title = f"{self.model}, {counted(self.epochs, 'epoch')}, {total:,} parameters"
        if batch_size is not None:
            title += f", memory of a step with batches of {batch_size}"
        return Table(title, tuple(columns), tuple(cells), notes=self._notes())

    def _notes(self) -> tuple[str, ...]:
        """Return the remarks, and why the memory of a phase is not known, each reason once."""
        reasons: dict[str, None] = {}
        for row in self.rows:
            for name, reason in () if row.memory is None else row.memory.not_known.items():
                subject = "Activations are" if name == "activations" else "The optimizer's state is"
                reasons[f"{subject} not known: {reason}."] = None
        return (*self.remarks, *reasons)

    def _changes(self, row: PreviewRow, before: PreviewRow | None) -> str:
        """Return which groups train, and after the first phase only what that changes."""
        if before is None:
            return "all groups" if row.training == self.groups else first_few(row.training)
        added = [name for name in row.training if name not in before.training]
        removed = [name for name in before.training if name not in row.training]
        if len(added) > 1 and row.training == self.groups:
            return "+ all others"
        parts = []
        if added:
            parts.append(f"+ {first_few(added)}")
        if removed:
            parts.append(f"- {first_few(removed)}")
        return "\n".join(parts) or "the same"

    def _new_rates(self, row: PreviewRow, before: PreviewRow | None) -> str:
        """Return the learning rates of the groups that had another one, or none, before."""
        known = {} if before is None else before.rates
        new = {name: rate for name, rate in row.rates.items() if known.get(name) != rate}
        if not new:
            return ""
        first, last = next(iter(new)), next(reversed(new))
        if len(set(new.values())) == 1:
            return self._rate(new[first])
        if len(new) <= _MAX_RATES:
            return ", ".join(f"{name} {self._rate(rate)}" for name, rate in new.items())
        return f"{first} {self._rate(new[first])} to {last} {self._rate(new[last])}"

    def _rate(self, multiple: float) -> str:
        if self.learning_rate is None:
            return f"x{multiple:.3g}"
        return f"{self.learning_rate * multiple:.3g}"


#: So many new learning rates are listed; of more, the first and the last group's are shown.
_MAX_RATES = 3


def preview(
    schedule: PhaseSequence,
    model: keras.Model,
    epochs: int,
    *,
    steps_per_epoch: int | None = None,
    groups: Groups | None = None,
    backbone: Backbone | None = None,
    rates: Rates = None,
    batch_size: int | None = None,
) -> SchedulePreview:
    """Show what a schedule will do with a model; nothing is changed.

    Args:
        schedule: `FreezeSchedule`.
        model: `keras.Model`, built; compiled, if learning rates are to be shown.
        epochs: Int, the epochs of the fit.
        steps_per_epoch: Int, batches in an epoch, for phases that end after steps. Defaults to
            not known.
        groups: How to divide the model, as for `layer_groups`. Defaults to automatically.
        backbone: What is pretrained, as for `layer_groups`. Defaults to None, to be found.
        rates: Learning rates of the groups for phases that have none. Defaults to 1 for all.
        batch_size: Int, samples in a batch, to show the memory of a training step in each phase,
            as `parameter_report` estimates it. Defaults to None, for none.

    Returns:
        `SchedulePreview`.

    Raises:
        ValueError: if the schedule names a group or layer that the model does not have, or leaves
            nothing to train.

    Example:
        >>> from keras_freeze import schedules
        >>> model = keras.Sequential(
        ...     [keras.Input((4,)), keras.layers.Dense(3, name="low"), keras.layers.Dense(2)],
        ...     name="net",
        ... )
        >>> schedule = schedules.gradual(model, until=2, rates=2.0)
        >>> print(schedule.preview(model, epochs=5))
        net, 5 epochs, 23 parameters
        <BLANKLINE>
         phase  begins   ends            trains  trainable  learning rate
         ────────────────────────────────────────────────────────────────
         0      epoch 1  after 2 epochs  head            8  x1
         1      epoch 3  with the fit    + low          23  x0.5
    """
    picture = with_initial_values(picture_of(model, groups, backbone))
    steps = steps_per_epoch
    return preview_in(
        schedule, picture, epochs, steps_per_epoch=steps, rates=rates, batch_size=batch_size
    )


def preview_in(
    schedule: PhaseSequence,
    picture: ModelPicture,
    epochs: int,
    *,
    steps_per_epoch: int | None,
    rates: Rates,
    is_open: bool = False,
    remarks: Sequence[str] = (),
    batch_size: int | None = None,
) -> SchedulePreview:
    """Return what `preview` does, for a model that has been read; arguments as there."""
    check_count("preview", "epochs", epochs)
    model = picture.model
    if batch_size is not None:
        checked_batch_size("preview", model, batch_size)
    stride = getattr(model, "steps_per_execution", 1)
    moments, end = _moments(schedule, steps_per_epoch, stride)
    earliest, _ = _moments(soonest(schedule), steps_per_epoch, stride)
    rows, follows, is_reached = [], False, True
    for index, phase in enumerate(schedule.phases):
        given = rates if phase.rates is None else phase.rates
        follows |= isinstance(given, str) and given == "auto"
        early = earliest[index]
        is_reached = is_reached and not (early is not None and early.epoch >= epochs)
        text = _begin(moments[index], index) + ("" if is_reached else " (not reached)")
        row = _row(index, phase, text, picture, given, batch_size)
        done = _epochs_done(moments[index], steps_per_epoch)
        rows.append(dataclasses.replace(row, epochs=done, is_reached=is_reached))
    lasts = schedule.phases[-1].trigger is None
    compiled = getattr(model, "compiled", False)
    return SchedulePreview(
        model.name,
        epochs,
        learning_rate_of(model) if compiled else None,
        tuple(rows),
        picture.group_names[::-1],
        follows,
        is_open,
        float(epochs) if lasts else _epochs_done(end, steps_per_epoch),
        tuple(remarks),
    )


def outline(schedule: PhaseSequence) -> Table:
    """Return the phases of a schedule as a table, without a model."""
    columns = (_PHASE, _BEGINS, _ENDS, Column("frozen", fit="wrap"), Column("settings", fit="wrap"))
    moments = timeline(schedule, None)
    rows = []
    for index, phase in enumerate(schedule.phases):
        given = phase.given()
        frozen, _ = given.pop("frozen"), given.pop("until", None)
        settings = ", ".join(f"{name}: {in_words(value)}" for name, value in given.items())
        begins = _begin(moments[index], index)
        rows.append((str(index), begins, _end(phase), in_words(frozen), settings))
    return Table("FreezeSchedule", columns, tuple(rows))


def _row(
    index: int,
    phase: Phase,
    begins: str,
    picture: ModelPicture,
    rates: Rates,
    batch_size: int | None,
) -> PreviewRow:
    with placed(phase, "frozen"):
        frozen = phase.policy(picture.division).sketch_in(picture)
    with placed(phase, "rates"):
        by_group = multipliers(rates, picture.group_names)
    flags = phase_flags(picture, frozen, phase.batch_norm)
    trained = {id(variable) for variable, trains in flags.variables if trains}
    if not trained:
        with placed(phase, "frozen"):
            raise ArgumentError(
                "preview",
                "schedule",
                "leave at least one trainable variable",
                received=f"phase {index}, which freezes all of model {picture.model.name!r}",
                advice=f"Leave out a group of: {', '.join(picture.group_names)}.",
            )
    training = []
    for group in reversed(picture.groups):
        if any(id(variable) in trained for variable in group.variables):
            training.append(group.name)
    weights = [weight.variable for weight in picture.weights]
    params = count_params(variable for variable in weights if id(variable) in trained)
    memory = None
    if batch_size is not None:
        own_flags = {id(layer): flag for layer, flag in flags.layers}
        memory = step_memory(picture.model, batch_size, trained, own_flags)
    return PreviewRow(
        index,
        begins,
        _end(phase),
        tuple(training),
        params,
        count_params(weights) - params,
        {name: by_group[name] for name in training},
        "" if phase.curve is None else type(phase.curve).__name__,
        phase.decides_late,
        memory=memory,
    )


def _moments(
    schedule: PhaseSequence, steps_per_epoch: int | None, stride: int
) -> tuple[tuple[Moment | None, ...], Moment | None]:
    """Return when each phase begins, and when the last ends; None where that isn't known."""
    if schedule.phases[-1].trigger is None:
        return timeline(schedule, steps_per_epoch, stride), None
    made: Any = schedule  # a dataclass, which a protocol can't demand
    longer = dataclasses.replace(made, phases=[*schedule.phases, Phase()])
    *moments, end = timeline(longer, steps_per_epoch, stride)
    return tuple(moments), end


def _epochs_done(moment: Moment | None, steps_per_epoch: int | None) -> float | None:
    return None if moment is None else moment.epoch + moment.step / (steps_per_epoch or 1)


def _begin(moment: Moment | None, index: int) -> str:
    if moment is None:
        return f"after phase {index - 1}"
    step = f", step {moment.step}" if moment.step else ""
    return f"epoch {moment.epoch + 1}{step}"


def _end(phase: Phase) -> str:
    return "with the fit" if phase.trigger is None else phase.trigger.describe()
