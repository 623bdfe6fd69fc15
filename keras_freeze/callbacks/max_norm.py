"""The callback that bounds the norm of the weights that come into each unit, by layer group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from keras_freeze.base_callback import BaseCallback
from keras_freeze.checks import ArgumentError, is_number
from keras_freeze.engine import recompile
from keras_freeze.groups import Backbone, Groups, picture_of
from keras_freeze.model_picture import ModelPicture, Weight, known_groups

_CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
_CELLS = (keras.layers.LSTMCell, keras.layers.GRUCell, keras.layers.SimpleRNNCell)


class MaxNorm(BaseCallback):
    """Bound the norm of the weights that come into each unit, while a model trains.

    After each step, the incoming weights of a unit whose norm is above the bound are scaled down to
    it: a column of the kernel of a `Dense` or `EinsumDense` layer, a filter of a convolution, a
    column of both kernels of a recurrent layer. This is `keras.constraints.MaxNorm`, for layers
    that are there already, and with a bound for each group. What is frozen is left as it is; so are
    biases, kernels with a constraint of their own, and other kinds of layers. After training, the
    weights are free again.

    Args:
        max_value: Float, positive, the bound for all groups; or a mapping from group, or pattern of
            groups, to the bound. Groups that it does not name have none.
        groups: How to divide the model, as for `layer_groups`. Defaults to automatically.
        backbone: What is pretrained, as for `layer_groups`. Defaults to None, to be found.

    Raises:
        ValueError: if a bound is not positive; at the start of training, if a name is no group's,
            or if a group that is named has no such kernel.

    Example:
        >>> import numpy as np
        >>> model = keras.Sequential(
        ...     [keras.Input((4,)), keras.layers.Dense(3, name="low"), keras.layers.Dense(1)]
        ... )
        >>> model.compile("sgd", "mse")
        >>> callback = MaxNorm({"low": 0.5})
        >>> history = model.fit(np.ones((8, 4)), np.ones(8), verbose=0, callbacks=[callback])
        >>> bool((np.linalg.norm(model.layers[0].get_weights()[0], axis=0) <= 0.5).all())
        True

    Reference:
        - [Srivastava et al., 2014](https://jmlr.org/papers/v15/srivastava14a.html), section 5.1.
    """

    _bounded: tuple[keras.Variable, ...] = ()

    def __init__(
        self,
        max_value: float | Mapping[str, float],
        *,
        groups: Groups | None = None,
        backbone: Backbone | None = None,
    ):
        super().__init__()
        values = list(max_value.values()) if isinstance(max_value, Mapping) else [max_value]
        if not values or not all(is_number(value) and value > 0 for value in values):
            rule = "be a positive number, or a mapping from group to one"
            raise ArgumentError("MaxNorm", "max_value", rule, value=max_value)
        self.max_value = max_value
        self.groups = groups
        self.backbone = backbone

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Bound the weights of this fit."""
        self._release()  # after a fit that was interrupted
        picture = picture_of(self.model, self.groups, self.backbone)
        bounded = []
        for weight, value in self._bounds(picture):
            weight.variable.constraint = keras.constraints.MaxNorm(value, _axes_in(weight))
            bounded.append(weight.variable)
        self._bounded = tuple(bounded)
        recompile(self.model, force=True)

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Leave the weights free."""
        self._release()

    def _release(self) -> None:
        for variable in self._bounded:
            variable.constraint = None
        if self._bounded:
            recompile(self.model, force=True)
        self._bounded = ()

    def _bounds(self, picture: ModelPicture) -> list[tuple[Weight, float]]:
        """Return what is bounded by how much."""
        given: Mapping[str, float] = (
            self.max_value if isinstance(self.max_value, Mapping) else {".*": self.max_value}
        )
        entries = known_groups("MaxNorm", "max_value", given, picture.group_names)
        weights = {id(weight.variable): weight for weight in picture.weights}
        found = []
        for entry in given:
            names = {name for name, by in entries.items() if by == entry}
            groups = [group for group in picture.groups if group.name in names]
            own = [weights[id(v)] for group in groups for v in group.variables]
            able = [weight for weight in own if _axes_in(weight)]
            if not able:
                raise ArgumentError(
                    "MaxNorm",
                    "max_value",
                    "name groups with kernels of Dense, EinsumDense, convolutional or recurrent "
                    "layers that have no constraint of their own",
                    value=entry,
                )
            found += [(weight, float(given[entry])) for weight in able]
        return found


def _axes_in(weight: Weight) -> list[int]:
    """Return along which axes the weights lie that come into one unit; none if that isn't known."""
    variable, layer = weight.variable, weight.layer
    is_kernel = variable.name in ("kernel", "recurrent_kernel")
    is_float = keras.backend.is_float_dtype(variable.dtype)
    if not is_kernel or not is_float or variable.constraint is not None:
        return []
    if isinstance(layer, keras.layers.EinsumDense):
        inputs, output = layer.equation.replace(".", "").split("->")
        return [n for n, axis in enumerate(inputs.split(",")[1]) if axis not in output]
    if isinstance(layer, _CONVOLUTIONS):
        return list(range(len(variable.shape) - 1))
    return [0] if isinstance(layer, (keras.layers.Dense, *_CELLS)) else []
