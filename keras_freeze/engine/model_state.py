"""What the package knows of each model beside the model itself: one object, in one weak map."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable
from typing import Any

import keras


@dataclasses.dataclass
class StepRecord:
    """Something known of one train function, which is void once the model has another.

    Attributes:
        function: Returns the train function, None where it is gone. Weak, since a step refers to
            its model, which would then never be freed.
        known: What is known of it.
    """

    function: Callable[[], Any]
    known: Any

    @classmethod
    def of(cls, function: Any, known: Any) -> StepRecord:
        """Return a record of a function, which may be None."""
        return cls((lambda: None) if function is None else weakref.ref(function), known)

    def is_of(self, function: Any) -> bool:
        """Tell whether this is the function of the record."""
        return self.function() is function


def _nothing_known() -> StepRecord:
    never = object()
    return StepRecord(lambda: never, None)


@dataclasses.dataclass
class ModelState:
    """What is known of one model.

    Attributes:
        traced: All that is compiled into the train step and a transition can change.
        made: The test and predict functions that the last transition made, by kind.
        in_force: The flags that the train step uses, by the id of each layer and weight.
        position: The position in its schedule that the last fit reached; None before the first.
        has_exact_starts: Bool. The optimizer knows when each variable began to train, though
            this process has not trained the model.
        freeze_depth: How deep a search has frozen it; None where none did.
        frozen_here: Ids of the variables that this package has frozen and not unfrozen again.
        kept_by_lora: Ids of what is frozen since LoRA adapts the model.
        kept_frozen: Ids of what a search keeps frozen at any depth.
        untouched: Ids of the layers that had the values they were made with when a fit began.
        first_values: Those of the weights when the training began; None where nobody asked.
        trained_by: Ids of the variables that each optimizer was ever built for, in order, of a
            model that holds several: whose a frozen variable is.
        restored: Int, how often its whole training state was replaced, frozen weights too.
    """

    traced: StepRecord = dataclasses.field(default_factory=_nothing_known)
    in_force: StepRecord = dataclasses.field(default_factory=_nothing_known)
    made: dict[str, StepRecord] = dataclasses.field(default_factory=dict)
    position: Any | None = None
    has_exact_starts: bool = False
    freeze_depth: Any | None = None
    frozen_here: frozenset[int] = frozenset()
    kept_by_lora: frozenset[int] = frozenset()
    kept_frozen: frozenset[int] = frozenset()
    untouched: frozenset[int] = frozenset()
    first_values: Any | None = None
    restored: int = 0
    trained_by: weakref.WeakKeyDictionary[Any, tuple[int, ...]] = dataclasses.field(
        default_factory=weakref.WeakKeyDictionary
    )

    def replace_function(self, function: Any, other: Any) -> None:
        """Record that another train function stands in for one, with the same step inside."""
        for record in (self.traced, self.in_force):
            if record.is_of(function):
                record.function = StepRecord.of(other, None).function


_states: weakref.WeakKeyDictionary[keras.Model, ModelState] = weakref.WeakKeyDictionary()


def state_of(model: keras.Model) -> ModelState:
    """Return what is known of a model; it lives as long as the model."""
    return _states.setdefault(model, ModelState())
