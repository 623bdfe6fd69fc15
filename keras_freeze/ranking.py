"""`rank_groups`: which layer groups the data at hand would change most, before anything trains."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NoReturn

import keras
import numpy as np

from keras_freeze.checks import ArgumentError, check_count
from keras_freeze.groups import Backbone, Groups, picture_of
from keras_freeze.keras_internals import random_state
from keras_freeze.keras_internals.gradients import loss_gradients
from keras_freeze.keras_internals.own_code import replaced_methods
from keras_freeze.model_picture import ModelPicture, Weight, check_model, count_params
from keras_freeze.policies import FreezeGroups
from keras_freeze.reading import check_batched, check_labels, few_batches
from keras_freeze.reports import Column, ShownAsTable, Table

By = Literal["relative_gradient_norm", "signal_to_noise"]

_CRITERIA = ("relative_gradient_norm", "signal_to_noise")

# Added to variances, so that a gradient that never differs has a signal-to-noise ratio.
_VARIANCE = 1e-8
# The loss of a model that computes in float16 is multiplied by this, and its gradients divided.
_SCALE = 128.0


@dataclasses.dataclass(frozen=True)
class RankedGroup:
    """One layer group of a `GroupRanking`.

    Attributes:
        name: Str.
        params: Int, the parameters that were looked at.
        relative_gradient_norm: Float, the mean over batches of ||g|| / ||w||, each of all its
            parameters together. NaN where none was looked at.
        signal_to_noise: Float, the mean of g² / (Var g + 1e-8) over its elements, with the mean and
            the variance of g over batches. NaN where none was looked at, or of a single batch.
        is_pretrained: Bool. What is new trains anyway, and is not ranked.
    """

    name: str
    params: int
    relative_gradient_norm: float
    signal_to_noise: float
    is_pretrained: bool


@dataclasses.dataclass(frozen=True, repr=False)
class GroupRanking(ShownAsTable):
    """The layer groups of a model, by how much of a gradient they have on some data.

    `print(ranking)` gives plain text, `rich.print(ranking)` a table in colour where the output is
    a terminal, and a notebook shows HTML.

    Attributes:
        model: Str, the model's name.
        batches: Int, the batches that were computed.
        groups: Tuple of `RankedGroup`, from input to head.
        division: How the model was divided into groups; None for automatically.
    """

    model: str
    batches: int
    groups: tuple[RankedGroup, ...]
    division: Groups | None = None

    def ranked(self, by: By = "relative_gradient_norm") -> tuple[str, ...]:
        """Return the names of the pretrained groups, the one with the largest value first.

        Args:
            by: `"relative_gradient_norm"` (default) or `"signal_to_noise"`.

        Raises:
            ValueError: if `by` is neither, or if it is not known of a single batch.
        """
        check_by("ranked", by)
        if by == "signal_to_noise" and self.batches < 2:
            _refuse_noise(by)
        able = [group for group in self.groups if group.is_pretrained and group.params]
        # Of equals the one nearer to the head first.
        return tuple(g.name for g in sorted(reversed(able), key=lambda g: -getattr(g, by)))

    def top(self, k: int, by: By = "relative_gradient_norm") -> FreezeGroups:
        """Return the policy that freezes all pretrained groups but the `k` that rank first.

        Their place does not matter, and what is new trains as well. `freeze` with this policy
        leaves frozen what is: unfreeze the model before.

        Args:
            k: Int, from 1 to the number of groups that are ranked.
            by: As for `ranked`.

        Returns:
            `policies.FreezeGroups`, for `freeze` and for a phase of a schedule.

        Raises:
            ValueError: if there are not so many groups.
        """
        ranked = self.ranked(by)
        check_count("top", "k", k)
        if k > len(ranked):
            raise ArgumentError("top", "k", f"be at most the {len(ranked)} ranked groups", value=k)
        frozen = [g.name for g in self.groups if g.is_pretrained and g.name not in ranked[:k]]
        return FreezeGroups(frozen or 0, self.division)

    def to_dict(self) -> dict[str, Any]:
        """Return all as plain data, ready for JSON; what isn't known is None."""
        found = dataclasses.asdict(dataclasses.replace(self, division=None))
        del found["division"]
        for row in found["groups"]:
            for by in _CRITERIA:
                row[by] = None if math.isnan(row[by]) else row[by]
        return found

    def __repr__(self) -> str:
        return f"GroupRanking(model={self.model!r}, batches={self.batches}, ranked={self.ranked()})"

    def _table(self) -> Table:
        columns = (
            Column("rank", align="right"),
            Column("group", fit="shorten"),
            Column("parameters", align="right"),
            Column("relative gradient norm", align="right"),
            Column("signal to noise", align="right"),
        )
        places = {name: str(n) for n, name in enumerate(self.ranked(), 1)}
        rows = [
            (
                places.get(g.name, "-" if g.is_pretrained else "new"),
                g.name,
                f"{g.params:,}",
                _number(g.relative_gradient_norm, ".2e"),
                _number(g.signal_to_noise, ".2f"),
            )
            for g in self.groups
        ]
        title = f"{self.model}, {self.batches} batch{'es' * (self.batches > 1)}"
        return Table(title, columns, tuple(rows))


def _number(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)


def rank_groups(
    model: keras.Model,
    x: Any,
    y: Any = None,
    *,
    sample_weight: Any = None,
    batch_size: int = 32,
    batches: int = 5,
    groups: Groups | None = None,
    backbone: Backbone | None = None,
) -> GroupRanking:
    """Rank the layer groups of a model by the gradient that some data give them.

    The gradients are those of a training step, for frozen groups too, of all losses, with those
    that layers add and the regularizers of what is ranked. `BatchNormalization` layers do as their
    flags say, so rank with the flags that you will train with. Left out are
    normalization layers, weights that are frozen for good, and tensors whose values are all zero,
    such as new biases. Weights, optimizer, metrics and random generators stay as they are.

    Args:
        model: `keras.Model`, compiled, with a `train_step` of Keras's own.
        x: The inputs as `fit` takes them: arrays, or `tf.data.Dataset`, `PyDataset` or torch
            `DataLoader`; for a KerasHub task, images or texts before its preprocessor. Rows of
            arrays are drawn at random, the same in each call. A `tf.data.Dataset` that reshuffles
            moves on by a pass.
        y: The targets, for arrays. Defaults to None.
        sample_weight: Weights of the samples, for arrays. Defaults to None.
        batch_size: Int, for arrays. Defaults to 32.
        batches: Int, how many are computed, or as many as there are. Defaults to 5.
        groups: How to divide the model, as for `layer_groups`. Defaults to automatically.
        backbone: What is pretrained, as for `layer_groups`. Defaults to None, to be found.

    Returns:
        `GroupRanking`.

    Raises:
        TypeError: if `x` is a generator, which could not be read again.
        ValueError: if the model isn't compiled, if its train step is its own, if there are no data,
            or if a gradient is not finite.

    Example:
        >>> import keras_freeze as kf
        >>> keras.utils.set_random_seed(0)
        >>> model = keras.Sequential(
        ...     [keras.Input((4,)), keras.layers.Dense(3, name="low"), keras.layers.Dense(2)]
        ... )
        >>> model.compile("sgd", "mse")
        >>> ranking = rank_groups(model, np.ones((8, 4)), np.ones((8, 2)))
        >>> ranking.ranked()
        ('low',)
        >>> result = kf.unfreeze(model)
        >>> result = kf.freeze(model, ranking.top(1))

    Reference:
        - [Lee et al., 2022](https://arxiv.org/abs/2210.11466): surgical fine-tuning, whose Auto-RGN
          and Auto-SNR use both criteria by tensor. Here the norms are those of groups: a bias that
          is nearly zero would outweigh all kernels in a mean over tensors.
    """
    check_model("rank_groups", model)
    check_count("rank_groups", "batches", batches)
    check_count("rank_groups", "batch_size", batch_size)
    picture = picture_of(model, groups, backbone)
    return rank_in(picture, x, y, sample_weight, batch_size, batches)


def check_by(owner: str, by: Any) -> None:
    """Raise in the name of `owner` unless groups can be ranked by this."""
    if by not in _CRITERIA:
        rule = 'be "relative_gradient_norm" or "signal_to_noise"'
        raise ArgumentError(owner, "by", rule, value=by)


def rank_in(
    picture: ModelPicture, x: Any, y: Any, sample_weight: Any, batch_size: int, batches: int
) -> GroupRanking:
    """Rank the groups in the picture of a model; see `rank_groups`."""
    model = picture.model
    _check_step(model)
    by_group = {group.name: looked_at(picture, group.variables) for group in picture.groups}
    variables = [v for own in by_group.values() for v in own]
    sums = _Sums(variables)
    with random_state.preserved():
        is_half = any(layer.compute_dtype == "float16" for layer in picture.layers)
        gradients, others = loss_gradients(model, variables, _SCALE if is_half else 1.0)
        for data in _batches(model, x, y, sample_weight, batch_size, batches):
            check_batched("rank_groups", data)
            inputs, targets, weights = keras.utils.unpack_x_y_sample_weight(data)
            found, others = gradients(inputs, targets, weights, others)
            sums.add(found)
    if not sums.count:
        _refuse_no_data(x)
    rows = []
    for n, (name, own) in enumerate(by_group.items()):
        ids = [id(v) for v in own]
        rows.append(
            RankedGroup(
                name,
                count_params(own),
                sums.relative_norm(ids),
                sums.signal_to_noise(ids),
                is_pretrained=n < len(by_group) - 1,
            )
        )
    return GroupRanking(model.name, sums.count, tuple(rows), picture.division)


def rankable(picture: ModelPicture) -> list[str]:
    """Return the names of the pretrained groups that have a rank, from the input on."""
    below = picture.groups[:-1]
    return [group.name for group in below if looked_at(picture, group.variables)]


def check_can_rank(
    picture: ModelPicture, x: Any, y: Any, batch_size: int, batches: int, by: By
) -> None:
    """Raise if the groups of a model can't be ranked by some data; no gradient is computed."""
    _check_step(picture.model)
    needed = 2 if by == "signal_to_noise" else 1
    with random_state.preserved():
        size, most = batch_size, min(batches, needed)
        count = sum(1 for _ in _batches(picture.model, x, y, None, size, most))
    if not count:
        _refuse_no_data(x)
    if count < needed:
        _refuse_noise(by)


def _refuse_no_data(x: Any) -> NoReturn:
    raise ArgumentError("rank_groups", "x", "have at least one batch", value=x)


def _refuse_noise(by: By) -> NoReturn:
    raise ArgumentError(
        "ranked",
        "by",
        "be known, and noise is of at least two batches",
        value=by,
        advice="Pass more data to rank_groups, or a smaller batch_size=.",
    )


class _Sums:
    """What is added up over batches."""

    def __init__(self, variables: Sequence[keras.Variable]) -> None:
        self.count = 0
        self._variables = variables
        values = [np.asarray(keras.ops.convert_to_numpy(v), "float64") for v in variables]
        self._norms = {
            id(v): float(np.linalg.norm(value)) for v, value in zip(variables, values, strict=True)
        }
        self._total = {id(v): np.zeros(v.shape) for v in variables}
        self._squares = {id(v): np.zeros(v.shape) for v in variables}
        #: Of each batch, the norm of each gradient.
        self._batches: list[dict[int, float]] = []

    def add(self, gradients: Sequence[Any]) -> None:
        """Take the gradients of a batch into account.

        Raises:
            ValueError: if one is not finite.
        """
        self.count += 1
        self._batches.append({})
        for variable, gradient in zip(self._variables, gradients, strict=True):
            if gradient is None:
                continue
            g = np.asarray(keras.ops.convert_to_numpy(gradient), "float64")
            if not np.isfinite(g).all():
                raise ValueError(
                    f"rank_groups must get data on which gradients are finite. Received: batch "
                    f"{self.count}, whose gradient of {variable.path} is not. Look for NaN in the "
                    "data, or inputs that are not scaled as the backbone expects."
                )
            self._total[id(variable)] += g
            self._squares[id(variable)] += g**2
            self._batches[-1][id(variable)] = float(np.linalg.norm(g))

    def relative_norm(self, ids: Sequence[int]) -> float:
        """Return the mean over batches for some variables together; NaN for none."""
        if not ids:
            return float("nan")
        norm = math.hypot(*(self._norms[i] for i in ids))
        found = [math.hypot(*(batch.get(i, 0.0) for i in ids)) for batch in self._batches]
        return sum(found) / len(found) / norm

    def signal_to_noise(self, ids: Sequence[int]) -> float:
        """Return the mean over all elements of some variables; NaN for none, or of one batch."""
        ratios: list[np.ndarray] = []
        if self.count < 2:
            return float("nan")
        for i in ids:
            mean = self._total[i] / self.count
            variance = np.maximum(self._squares[i] / self.count - mean**2, 0.0)
            ratios.append((mean**2 / (variance + _VARIANCE)).ravel())
        return float(np.concatenate(ratios).mean()) if ratios else float("nan")


def _check_step(model: keras.Model) -> None:
    if not getattr(model, "compiled", False):
        raise ArgumentError(
            "rank_groups",
            "model",
            "be compiled, since its loss is what has gradients",
            received=f"model {model.name!r}",
        )
    if "train_step" in replaced_methods(model):
        raise ArgumentError(
            "rank_groups",
            "model",
            "train by Keras's own train_step",
            received=f"model {model.name!r} with one of its own, whose gradients are not known",
            advice="A loss of its own can be given as compute_loss.",
        )


def looked_at(
    picture: ModelPicture, variables: Sequence[keras.Variable]
) -> tuple[keras.Variable, ...]:
    """Return the variables of a group whose gradients say something about it."""
    owners: dict[int, Weight] = {id(weight.variable): weight for weight in picture.weights}
    found = []
    for variable in variables:
        weight = owners[id(variable)]
        is_able = weight.potentially_trainable and id(variable) not in picture.never_trains
        is_norm = type(weight.layer).__name__.endswith(("Normalization", "Norm"))
        is_float = keras.backend.is_float_dtype(variable.dtype)
        if is_able and is_float and not is_norm and _is_not_zero(variable):
            found.append(variable)
    return tuple(found)


def _is_not_zero(variable: keras.Variable) -> bool:
    return bool(np.any(np.asarray(keras.ops.convert_to_numpy(variable), "float32")))


def _batches(
    model: keras.Model, x: Any, y: Any, weight: Any, size: int, count: int
) -> Iterator[Any]:
    check_labels("rank_groups", model, x, y)
    return few_batches("rank_groups", model, x, y, weight, size=size, count=count)
