"""`similarity`: how far the layer groups of a model have moved from a pretrained model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_freeze.checks import ArgumentError, ArgumentTypeError, counted
from keras_freeze.explain.inputs import checked_inputs, count_of
from keras_freeze.groups import Backbone, Groups, picture_of
from keras_freeze.measures import NotMeasurableError, cka, group_outputs
from keras_freeze.model_picture import ModelPicture, check_model
from keras_freeze.reports import Column, ShownAsTable, Table

_OWNER = "explain.similarity"

Outputs = tuple[np.ndarray, ...]


@dataclasses.dataclass(frozen=True)
class SimilarGroup:
    """One layer group of a `Similarity`.

    Attributes:
        name: Str.
        cka: Float, at most about 1; NaN where it can't be told.
        reason: Str, why it can't; "" where it can.
    """

    name: str
    cka: float
    reason: str = ""


@dataclasses.dataclass(frozen=True, repr=False)
class Similarity(ShownAsTable):
    """How similar a model's layer groups represent some data to how a pretrained model does.

    `print(found)` gives plain text, `rich.print(found)` a table in colour where the output is a
    terminal, and a notebook shows HTML.

    Attributes:
        model: Str, the model's name.
        samples: Int, the samples that were given.
        groups: Tuple of `SimilarGroup`, from input to head.
    """

    model: str
    samples: int
    groups: tuple[SimilarGroup, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return all as plain data, ready for JSON; what isn't known is None."""
        found = dataclasses.asdict(self)
        for group in found["groups"]:
            group["cka"] = None if math.isnan(group["cka"]) else group["cka"]
        return found

    def __repr__(self) -> str:
        values = {group.name: round(group.cka, 3) for group in self.groups}
        return f"Similarity(model={self.model!r}, cka={values!r})"

    def _table(self) -> Table:
        columns = [Column("group", fit="shorten"), Column("CKA", align="right")]
        rows = [
            [group.name, "-" if math.isnan(group.cka) else f"{group.cka:.3f}"]
            for group in self.groups
        ]
        if any(group.reason for group in self.groups):
            columns.append(Column("why not", fit="wrap"))
            rows = [[*row, g.reason] for row, g in zip(rows, self.groups, strict=True)]
        samples = counted(self.samples, "sample")
        title = f"{self.model}, similarity to the pretrained model, {samples}"
        return Table(title, tuple(columns), tuple(map(tuple, rows)))


def similarity(
    model: keras.Model,
    reference: keras.Model | Sequence[Any],
    x: Any,
    *,
    groups: Groups | None = None,
    backbone: Backbone | None = None,
) -> Similarity:
    """Compare how a model represents some data with how it did when it was pretrained, by group.

    The measure is linear CKA between the outputs of a group in the model and in the reference: 1
    for representations that differ by a rotation and a scale alone, about 0 for unrelated ones.
    Each sample, position, time step or token is a row; of more than 4096 some are drawn, the same
    in each call. A group whose value is near 1 has not learned anything else for these data.

    Args:
        model: `keras.Model`, built.
        reference: What to compare with: a model of the same structure, or the weights that this
            one had, as `get_weights` returns them. `keras.models.clone_model(model)` makes such a
            model, and `set_weights` gives it the weights.
        x: Inputs, an array or a nest of arrays.
        groups: How to divide the models, as for `layer_groups`. Defaults to automatically.
        backbone: What is pretrained, as for `layer_groups`. Defaults to None, to be found.

    Returns:
        `Similarity`, a table.

    Raises:
        TypeError: if an argument is of another type.
        ValueError: if the reference has another structure, or there are no samples.

    Example:
        >>> keras.utils.set_random_seed(0)
        >>> model = keras.Sequential(
        ...     [keras.Input((4,)), keras.layers.Dense(3, name="low"), keras.layers.Dense(2)],
        ...     name="net",
        ... )
        >>> x = np.random.default_rng(0).normal(size=(64, 4))
        >>> print(similarity(model, model.get_weights(), x))
        net, similarity to the pretrained model, 64 samples
        <BLANKLINE>
         group    CKA
         ────────────
         low    1.000
         head   1.000

    References:
        - [Kornblith et al., 2019](https://arxiv.org/abs/1905.00414): the measure.
        - [Nguyen et al., 2021](https://arxiv.org/abs/2010.15327): its estimate from batches.
    """
    check_model(_OWNER, model)
    data = checked_inputs(_OWNER, model, x)
    picture = picture_of(model, groups, backbone)
    before = _outputs_before(picture, reference, data, groups)
    after = group_outputs(picture, data)
    found = [_compared(group.name, before, after) for group in picture.groups]
    return Similarity(model.name, count_of(data), tuple(found))


def _outputs_before(
    picture: ModelPicture, reference: Any, data: Any, groups: Groups | None
) -> dict[str, Outputs]:
    """Return what the groups of the reference put out."""
    if isinstance(reference, keras.Model):
        check_model(_OWNER, reference)
        other = picture_of(reference, groups, picture.backbone)
        ours, theirs = _structure(picture), _structure(other)
        if ours != theirs:
            differing = [name for name in ours if theirs.get(name) != ours[name]]
            received = f"model {reference.name!r}, which differs in {differing or list(theirs)}"
            _refuse_structure(picture.model, received)
        return group_outputs(other, data)
    if isinstance(reference, (str, bytes)) or not isinstance(reference, Sequence):
        rule = "be a model, or weights as model.get_weights() returns them"
        raise ArgumentTypeError(_OWNER, "reference", rule, value=reference)
    weights = picture.model.weights
    shapes = [tuple(np.shape(value)) for value in reference]
    if shapes != [tuple(weight.shape) for weight in weights]:
        received = f"{len(shapes)} arrays" if len(shapes) != len(weights) else "other shapes"
        _refuse_structure(picture.model, received)
    values = [
        (weight, keras.ops.convert_to_tensor(value, dtype=weight.dtype))
        for weight, value in zip(weights, reference, strict=True)
    ]
    return group_outputs(picture, data, values=values)


def _structure(picture: ModelPicture) -> dict[str, list[tuple[int, ...]]]:
    return {group.name: [tuple(v.shape) for v in group.variables] for group in picture.groups}


def _refuse_structure(model: keras.Model, received: str) -> None:
    raise ArgumentError(
        _OWNER,
        "reference",
        f"have the structure of model {model.name!r}",
        received=received,
        advice="Keep weights = model.get_weights() before training, and pass them.",
    )


def _compared(name: str, before: dict[str, Outputs], after: dict[str, Outputs]) -> SimilarGroup:
    if name not in before or name not in after:
        return SimilarGroup(name, math.nan, "no layer of it returns floats for each sample")
    if [len(rows) for rows in before[name]] != [len(rows) for rows in after[name]]:
        return SimilarGroup(name, math.nan, "both return another number of positions")
    try:
        return SimilarGroup(name, cka(before[name], after[name]))
    except NotMeasurableError as error:
        return SimilarGroup(name, math.nan, str(error))
