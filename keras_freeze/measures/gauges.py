"""How much the layer groups of a model change while it trains, by several criteria.

A gauge takes a look at the groups at the end of each interval: a few arrays for each, which a
backup can keep. The change of a group is what it makes of two such looks.
"""

from __future__ import annotations

import abc
import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Literal

import keras
import numpy as np

from keras_freeze.checks import ArgumentError, ArgumentTypeError
from keras_freeze.engine import recordings
from keras_freeze.keras_internals.host_arrays import to_host
from keras_freeze.keras_internals.layers import lora_base
from keras_freeze.measures.group_outputs import group_outputs
from keras_freeze.measures.similarity import cka, svcca
from keras_freeze.model_picture import ModelPicture

#: What was seen of each group.
Look = dict[str, tuple[np.ndarray, ...]]
Compare = Callable[[np.ndarray, np.ndarray], float]
#: What representations are compared with: those of the last interval, or of the pretrained model.
Reference = Literal["interval", "pretrained"]


class Gauge(abc.ABC):
    """Measures how much groups change.

    Attributes:
        sums_gradients: Bool, whether gradients have to be added up in an interval; what is seen is
            then of the interval, and not of the moment.
    """

    sums_gradients: ClassVar[bool] = False

    @property
    @abc.abstractmethod
    def title(self) -> str:
        """What is measured, for tables and pictures."""

    @property
    def keeps_first(self) -> bool:
        """Whether all is compared with the first look, not with the last one."""
        return False

    @property
    def identity(self) -> str:
        """What must be the same in a script that continues from a backup."""
        return type(self).__name__

    @abc.abstractmethod
    def look(self, picture: ModelPicture) -> Look:
        """Return what is seen of each group at present."""

    @abc.abstractmethod
    def change(self, before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> float:
        """Return how much a group has changed between two looks; 0 for not at all.

        Raises:
            NotMeasurableError: if that can't be told.
        """


@dataclasses.dataclass(frozen=True)
class GradientChange(Gauge):
    """The relative change of the L1 norm of gradients that are added up over an interval."""

    sums_gradients: ClassVar[bool] = True

    @property
    def title(self) -> str:
        """What is measured."""
        return "change of the gradient's norm"

    def look(self, picture: ModelPicture) -> Look:
        """Return the norm of each group that trains."""
        sums = recordings.sums(picture.model)
        norms: Look = {}
        for group in picture.groups:
            own = [sums[id(v)] for v in group.variables if id(v) in sums]
            if own:
                norm = sum(float(np.abs(s.astype("float64")).sum()) for s in own)
                norms[group.name] = (np.array(norm),)
        return norms

    def change(self, before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> float:
        """Return the relative change; 0 where both norms are 0, infinity where the first is.

        Example:
            >>> GradientChange().change([np.array(4.0)], [np.array(3.0)])
            0.25
        """
        old, new = float(before[0]), float(after[0])
        if not old:
            return math.inf if new else 0.0
        return abs(old - new) / old


def measured_weights(picture: ModelPicture) -> list[keras.Variable]:
    """Return the weights by which it is told how far groups have moved since a training began.

    They are all that can be trained, with what LoRA has frozen; moving statistics are not.
    """
    return [
        weight.variable
        for weight in picture.weights
        if weight.potentially_trainable or weight.variable is lora_base(weight.layer)
    ]


@dataclasses.dataclass(frozen=True)
class WeightChange(Gauge):
    """The relative change of a group's weights over an interval."""

    @property
    def title(self) -> str:
        """What is measured."""
        return "relative change of the weights"

    def look(self, picture: ModelPicture) -> Look:
        """Return the weights of each group that train."""
        found = {}
        for group in picture.groups:
            own = tuple(to_host(v) for v in group.variables if v.trainable)
            if own:
                found[group.name] = own
        return found

    def change(self, before: Iterable[np.ndarray], after: Iterable[np.ndarray]) -> float:
        """Return the norm of the difference over that of the weights before.

        Weights that were all zero before have changed by 1.

        Example:
            >>> WeightChange().change([np.array([3.0, 4.0])], [np.array([3.0, 4.5])])
            0.1
        """
        moved = norm = 0.0
        for old, new in zip(before, after, strict=True):
            a, b = old.astype("float64"), new.astype("float64")
            moved = math.hypot(moved, float(np.linalg.norm(b - a)))
            norm = math.hypot(norm, float(np.linalg.norm(a)))
        return moved / norm if norm else float(moved > 0)


@dataclasses.dataclass(frozen=True, eq=False)
class OutputChange(Gauge):
    """How far a group's outputs for the same data differ from what they were.

    Attributes:
        name: Str, of the criterion.
        compare: Takes the outputs before and after, batch by batch, and returns the change.
        probe: The data, an array or a nest of arrays.
        reference: With what outputs are compared.
    """

    name: str
    compare: Callable[[Sequence[np.ndarray], Sequence[np.ndarray]], float]
    probe: Any
    reference: Reference = "interval"

    @property
    def title(self) -> str:
        """What is measured."""
        since = " since pretraining" if self.keeps_first else ""
        return f"change of outputs{since} ({self.name})"

    @property
    def keeps_first(self) -> bool:
        """Whether all is compared with the pretrained model."""
        return self.reference == "pretrained"

    @property
    def identity(self) -> str:
        """The criterion, and a digest of the data."""
        digest = hashlib.sha256()
        for leaf in keras.tree.flatten(self.probe):
            array = np.ascontiguousarray(leaf)
            digest.update(f"{array.dtype}{array.shape}".encode())
            is_object = array.dtype == object
            digest.update(repr(array.tolist()).encode() if is_object else array.tobytes())
        return f"{self.name} ({self.reference}, {digest.hexdigest()[:16]})"

    def look(self, picture: ModelPicture) -> Look:
        """Return what each group puts out."""
        return group_outputs(picture, self.probe)

    def change(self, before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> float:
        """Return what the criterion says."""
        return float(self.compare(before, after))


def gauge_for(
    owner: str, criterion: str | Compare, probe: Any = None, reference: Any = "interval"
) -> Gauge:
    """Return the gauge of a criterion; raise in the name of `owner` if there is none.

    Args:
        owner: Str, the class in whose name errors are raised.
        criterion: `"gradient"`, `"weight_change"`, `"svcca"`, `"cka"`, or a callable that takes a
            group's outputs before and after, of shape `(rows, features)`, and returns the change.
        probe: Inputs for criteria that compare outputs; None for others.
        reference: `"interval"` or `"pretrained"`.

    Raises:
        TypeError: if the criterion or the probe is of another type.
        ValueError: if an argument is invalid.
    """
    if reference not in ("interval", "pretrained"):
        rule = 'be "interval" or "pretrained"'
        raise ArgumentError(owner, "reference", rule, value=reference)
    by_outputs: dict[Any, Callable[..., float]] = {
        "svcca": lambda before, after: 1 - svcca(np.concatenate(before), np.concatenate(after)),
        "cka": lambda before, after: 1 - cka(before, after),
    }
    if criterion in ("gradient", "weight_change"):
        if probe is not None or reference != "interval":
            name = "probe" if probe is not None else "reference"
            rule = "be left out, since nothing of it is looked at"
            raise ArgumentError(owner, name, rule, received=f"criterion={criterion!r}")
        return GradientChange() if criterion == "gradient" else WeightChange()
    if callable(criterion):
        given, name = criterion, getattr(criterion, "__qualname__", type(criterion).__qualname__)
        name = name.rpartition("<locals>.")[2]
        _check_probe(owner, name, probe)
        return OutputChange(
            name, lambda b, a: given(np.concatenate(b), np.concatenate(a)), probe, reference
        )
    if not isinstance(criterion, str) or criterion not in by_outputs:
        rule = 'be "gradient", "weight_change", "svcca", "cka" or a callable'
        raise ArgumentError(owner, "criterion", rule, value=criterion)
    _check_probe(owner, criterion, probe)
    return OutputChange(criterion, by_outputs[criterion], probe, reference)


def _check_probe(owner: str, criterion: str, probe: Any) -> None:
    advice = "Pass some inputs, such as probe=x_train[:256]."
    if probe is None:
        raise ArgumentError(
            owner,
            "probe",
            "be given for a criterion that compares outputs",
            received=f"probe=None, criterion={criterion!r}",
            advice=advice,
        )
    leaves = keras.tree.flatten(probe)
    if not leaves or not all(hasattr(leaf, "shape") and leaf.shape for leaf in leaves):
        rule = "be an array of inputs, or a nest of arrays"
        raise ArgumentTypeError(owner, "probe", rule, value=probe, advice=advice)
    if len({len(leaf) for leaf in leaves}) > 1 or not len(leaves[0]):
        counts = ", ".join(str(len(leaf)) for leaf in leaves)
        rule = "have samples, as many in each array"
        raise ArgumentError(owner, "probe", rule, received=f"arrays of {counts}", advice=advice)
