"""`Phase`: a part of training that has one trainable set. A pure value."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from keras_freeze.checks import ArgumentError, ArgumentTypeError, first_few
from keras_freeze.groups import Groups, with_groups
from keras_freeze.model_picture import ModelPicture, known_groups
from keras_freeze.policies import (
    BatchNormMode,
    FreezeGroups,
    FreezePolicy,
    FreezeWeights,
    Selection,
    as_policy,
    check_batch_norm,
    check_weights,
)
from keras_freeze.reports import Column, Table
from keras_freeze.schedules.curves import Curve
from keras_freeze.schedules.epoch_plans import REST
from keras_freeze.schedules.locations import Source
from keras_freeze.schedules.metrics import direction, direction_by_name
from keras_freeze.schedules.rates import Rates, check_rates
from keras_freeze.schedules.triggers import (
    OnPlateau,
    Trigger,
    TriggerLike,
    as_trigger,
    every_trigger,
)

Frozen = FreezePolicy | Callable[..., bool] | int | str | Sequence[str] | None


@dataclasses.dataclass(frozen=True, repr=False)
class Phase:
    """A part of training that has one trainable set.

    Args:
        frozen: What is frozen; everything else trains. An int (that many layer groups from the
            input), a group's name or names or patterns of names, a freeze policy or callable,
            or None or an empty sequence for nothing. Among names, `"rest"` stands for the groups
            that neither this phase nor an earlier one names, the last group excepted.
        rates: Multiples of the compiled learning rate by group: a mapping (where missing, that of
            the nearest named group above), a factor between neighbouring groups, or None for 1
            everywhere. Defaults to None.
        batch_norm: Mode for `BatchNormalization` in the pretrained part. Defaults to
            `"frozen"`.
        weights: Which variables of what is frozen: `"all"` (default), or a name or names of
            variables such as `"kernel"`; the others train.
        until: What ends the phase: a trigger, an int (epochs), or a callable
            `(logs) -> bool`. None (default) for the last phase, which lasts as long as the fit;
            a trigger on the last phase ends the fit.
        restore_best: Bool or str. Restore the best weights of this phase, with their optimizer
            state, when it ends. True uses the metric that its `OnPlateau` watches, else `val_loss`;
            a str names another. Defaults to False.
        curve: `keras_freeze.schedules.Curve`, how the learning rate changes within the phase,
            on top of the rates of the groups. Defaults to None, for not at all.
        source: Where the phase was read from, for messages. Defaults to None.

    Raises:
        TypeError: if an argument is of another type.
        ValueError: if an argument is invalid.

    Example:
        >>> from keras_freeze.schedules import OnPlateau
        >>> phase = Phase(frozen=["block1"], rates=2.6, until=OnPlateau() | 10)
        >>> phase.batch_norm, phase.best_by
        ('frozen', None)
        >>> Phase(until=OnPlateau("val_accuracy"), restore_best=True).best_by
        ('val_accuracy', 'max', 0.0)
    """

    frozen: Frozen = None
    rates: Rates = None
    batch_norm: BatchNormMode = "frozen"
    weights: str | Sequence[str] = "all"
    until: TriggerLike | None = None
    restore_best: bool | str = False
    curve: Curve | None = None
    source: Source | None = dataclasses.field(default=None, compare=False, repr=False)
    #: The names in earlier phases; the schedule tells it.
    named_before: tuple[str, ...] = dataclasses.field(
        default=(), init=False, compare=False, repr=False
    )

    def __post_init__(self) -> None:
        check_batch_norm("Phase", self.batch_norm)
        check_rates("Phase", self.rates)
        try:
            self._whole(None)
        except TypeError as error:
            raise ArgumentTypeError(
                "Phase",
                "frozen",
                "be an int (layer groups from the input), a group's name or names, a freeze "
                "policy or callable (variable, layer) -> bool, or None",
                value=self.frozen,
            ) from error
        if self.weights != "all":
            check_weights("Phase", self.weights)
        self._normalize()
        if self.until is not None:
            object.__setattr__(self, "until", as_trigger(self.until, "Phase", "until"))
        if self.curve is not None and not isinstance(self.curve, Curve):
            raise ArgumentTypeError(
                "Phase", "curve", "be a keras_freeze.schedules.Curve or None", value=self.curve
            )
        if not isinstance(self.restore_best, (bool, str)) or self.restore_best == "":
            raise ArgumentTypeError(
                "Phase",
                "restore_best",
                "be True, False or the name of a metric",
                value=self.restore_best,
            )
        _ = self.best_by  # which raises where the metric's name does not show what is better

    def _normalize(self) -> None:
        """Store equal values equally, and copy what the caller may change."""
        for name in ("frozen", "weights"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.frozen is None:
            object.__setattr__(self, "frozen", ())
        if isinstance(self.rates, Mapping):
            object.__setattr__(self, "rates", dict(self.rates))

    def __repr__(self) -> str:
        given = [f"{name}={abridged(value)}" for name, value in self.given().items()]
        return f"Phase({', '.join(given)})"

    def _repr_html_(self) -> str:
        rows = tuple((name, in_words(value)) for name, value in self.given().items())
        return Table("Phase", (Column("argument"), Column("value", fit="wrap")), rows).as_html()

    def given(self) -> dict[str, Any]:
        """Return the arguments that differ from their defaults, `frozen` among them always."""
        arguments = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.repr and (field.name == "frozen" or value != field.default):
                arguments[field.name] = value
        return arguments

    @property
    def trigger(self) -> Trigger | None:
        """What ends the phase."""
        return None if self.until is None else as_trigger(self.until)

    @property
    def best_by(self) -> tuple[str, str, float] | None:
        """The metric by which the best weights are kept, its mode and the least difference."""
        if self.restore_best is False:
            return None
        for trigger in every_trigger(self.trigger):
            if isinstance(trigger, OnPlateau) and self.restore_best in (True, trigger.monitor):
                mode = direction("OnPlateau", trigger.monitor, trigger.mode)
                return trigger.monitor, mode, trigger.min_delta
        monitor = self.restore_best if isinstance(self.restore_best, str) else "val_loss"
        by_name = direction_by_name(monitor)
        if by_name is None:
            raise ArgumentError(
                "Phase",
                "restore_best",
                "name a metric whose name, or an OnPlateau of the phase, shows which value is "
                "better",
                value=self.restore_best,
            )
        return monitor, by_name, 0.0

    def policy(self, grouping: Groups | None = None) -> FreezePolicy:
        """Return what is frozen as a policy, for a division of the model into groups."""
        policy = self._whole(grouping)
        return policy if self.weights == "all" else FreezeWeights(self.weights, policy)

    def _whole(self, grouping: Groups | None) -> FreezePolicy:
        if isinstance(self.frozen, FreezePolicy) or callable(self.frozen):
            return as_policy(self.frozen)
        if self.frozen is None or self.frozen in ([], ()):
            return FreezeGroups(0, grouping)
        if REST in self.names:
            return _Rest(self.names, self.named_before, grouping)
        return FreezeGroups(self.frozen, grouping)

    @property
    def decides_late(self) -> bool:
        """Whether what is frozen can't be told before the phase begins."""
        return any(leaf.decides_late for leaf in self.policy().leaves())

    @property
    def names(self) -> tuple[str, ...]:
        """The names and patterns in `frozen`, none where it is something else."""
        given: Any = [self.frozen] if isinstance(self.frozen, str) else self.frozen
        is_names = isinstance(given, Sequence) and all(isinstance(name, str) for name in given)
        return tuple(given) if is_names else ()


@dataclasses.dataclass(frozen=True)
class _Rest(FreezePolicy):
    """Selects groups by name, and all but the last that are named neither here nor before."""

    names: tuple[str, ...]
    named_before: tuple[str, ...]
    grouping: Groups | None

    def select_in(self, picture: ModelPicture) -> Selection:
        picture = with_groups(picture, self.grouping)
        groups = picture.group_names
        if REST in groups:
            return FreezeGroups(self.names, self.grouping).select_in(picture)
        named = known_groups("Phase", "frozen", (n for n in self.names if n != REST), groups)
        taken = set(named)
        for name in self.named_before:  # one by one: phases may name a group again
            taken |= known_groups("Phase", "frozen", [name], groups).keys()
        rest = [name for name in groups[:-1] if name not in taken]
        if not rest or self.names.count(REST) > 1:
            raise ArgumentError(
                "Phase",
                "frozen",
                f"have {REST!r} once, where groups are left",
                value=self.names,
                advice="Remove it.",
            )
        return FreezeGroups([*named, *rest], self.grouping).select_in(picture)


class PhaseSequence(Protocol):
    """What the rest of this folder needs of a `FreezeSchedule`, which is built on it."""

    @property
    def phases(self) -> Sequence[Phase]:
        """The phases, in order."""

    @property
    def start(self) -> int:
        """The epoch in which the first phase begins, 0-based."""

    @property
    def groups(self) -> Sequence[tuple[str, int]]:
        """Name and number of parameters of the layer groups that it was made for, or none."""


def abridged(value: Any, limit: int = 6) -> str:
    """Return the representation of a value, that of a long tuple with `...` in its middle.

    Example:
        >>> abridged(("block1", "block2", "block3", "block4"), limit=3)
        "('block1', ..., 'block4')"
    """
    if not isinstance(value, tuple) or len(value) <= limit:
        return repr(value)
    return f"({value[0]!r}, ..., {value[-1]!r})"


def in_words(value: Any) -> str:
    """Return an argument of a phase as tables show it."""
    if isinstance(value, Trigger):
        return value.describe()
    if isinstance(value, tuple):
        return first_few(value) if value else "nothing"
    return value if isinstance(value, str) else repr(value)
