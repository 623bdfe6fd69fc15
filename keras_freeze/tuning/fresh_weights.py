"""Start each trial from the pretrained weights, where models share layers.

A build function that puts a new head on the same backbone each time passes the backbone's weights
on to the next trial as the last one left them. So what two builds have in common begins each trial
with the values that it had when a search first met it, and the flags of the last build, before a
trial changed them. When a search ends, the weights are as they were before it, and so are flags
that `freeze_depth` or a training has set; those that the build function sets by itself stay, as
when it is called by hand. What only one build has is left alone: the user may hold its model.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
import weakref
from collections.abc import Iterator
from typing import Any

import keras
import keras_tuner
import numpy as np

from keras_freeze.checks import first_few
from keras_freeze.keras_internals.host_arrays import to_host
from keras_freeze.model_picture import every_layer
from keras_freeze.tuning.depth_in_force import first_flag_of

_Start = tuple[weakref.ref[Any], np.ndarray]

# What builds have shared, with the values that a search first met: the next search in the process
# begins with them too, whatever the model that the last one returned has been given since.
_pretrained: dict[int, _Start] = {}


class FreshWeights:
    """Remember weights as a build function returned them.

    Example:
        >>> shared = keras.layers.Dense(2)
        >>> fresh = FreshWeights()
        >>> for _ in range(2):
        ...     fresh.begin(keras.Sequential([keras.Input((3,)), shared]))
        >>> with fresh.search("RandomSearch"):
        ...     _ = shared.bias.assign([1.0, 1.0])
        >>> float(shared.bias[0])
        0.0
    """

    def __init__(self) -> None:
        self._starts: dict[int, _Start] = {}
        self._shared: set[int] = set()
        self._flags: list[tuple[weakref.ref[Any], bool]] = []
        self._is_searching = False
        #: Bool, whether builds are only looked at: nothing has trained that should be restored.
        self.describes = True

    @contextlib.contextmanager
    def search(self, owner: str) -> Iterator[None]:
        """Begin trials with fresh weights inside; put everything back at the end.

        Args:
            owner: String, the tuner's class, for the warning about weights that have changed.
        """
        present = []
        for variable, value in self._alive():
            now = to_host(variable)
            if now.tobytes() != value.tobytes():
                present.append((variable, now))
        if present:
            warnings.warn(
                f"{owner}: models of this search share layers whose weights have changed since a "
                f"search first built with them ({first_few([v.path for v, _ in present])}). Trials "
                "begin with the first weights, and the present ones are put back when the search "
                "ends. What has trained since, or was loaded by `get_best_models` or `load_model`, "
                "changes them. To search from the present ones, build with a copy of these layers "
                "(`keras.models.clone_model`, then `set_weights`).",
                stacklevel=4,
            )
        self._is_searching = True
        try:
            yield
        finally:
            self._is_searching = False
            self.restore()
            for variable, value in present:
                variable.assign(value)
            for holder, flag in self._alive_flags():
                first = first_flag_of(holder)
                holder.trainable = flag if first is None else first

    def restore(self) -> None:
        """Restore what builds have in common, before a model is built of it."""
        for holder, flag in self._alive_flags():
            holder.trainable = flag
        for variable, value in self._alive():
            variable.assign(value)

    def begin(self, model: keras.Model) -> None:
        """Find out what a new model has in common with earlier ones, and remember the rest."""
        self._starts = {i: start for i, start in self._starts.items() if start[0]() is not None}
        for variable in model.variables:
            key = id(variable)
            if key in self._starts:
                _remember(variable, self._starts.pop(key)[1])
            if _start_of(variable) is None:
                self._starts[key] = weakref.ref(variable), to_host(variable)
            elif key not in self._shared:
                self._shared.add(key)
                if self._is_searching:
                    variable.assign(_pretrained[key][1])
        self._flags = [(weakref.ref(x), bool(x.trainable)) for x in self._shared_in(model)]

    def shares(self, model: keras.Model) -> bool:
        """Tell whether a model has weights in common with another."""
        return any(_start_of(variable) is not None for variable in model.variables)

    def _shared_in(self, model: keras.Model) -> Iterator[Any]:
        """Yield the layers and variables that belong to other models too, the outermost first."""
        for layer in every_layer(model):
            if layer.weights and all(id(variable) in self._shared for variable in layer.weights):
                yield layer
        yield from (variable for variable in model.weights if id(variable) in self._shared)

    def _alive(self) -> Iterator[tuple[Any, np.ndarray]]:
        """Yield what this tuner's builds share and is still there, with its first values."""
        for key in list(self._shared):
            variable = _pretrained[key][0]() if key in _pretrained else None
            if variable is None:
                self._shared.discard(key)
            else:
                yield variable, _pretrained[key][1]

    def _alive_flags(self) -> Iterator[tuple[Any, bool]]:
        pairs = [(reference(), flag) for reference, flag in self._flags]
        yield from ((holder, flag) for holder, flag in pairs if holder is not None)


def _remember(variable: keras.Variable, value: np.ndarray) -> None:
    key = id(variable)
    _pretrained[key] = weakref.ref(variable, functools.partial(_forget, key)), value


def _forget(key: int, reference: weakref.ref[Any]) -> None:
    if _pretrained.get(key, (None,))[0] is reference:
        del _pretrained[key]


def _start_of(variable: keras.Variable) -> np.ndarray | None:
    """Return the first values of a variable that builds share; None if they don't."""
    reference, value = _pretrained.get(id(variable), (None, None))
    return value if reference is not None and reference() is variable else None


class FreshBuilds(keras_tuner.HyperModel):
    """A user's hypermodel, whose models begin with fresh weights, whoever builds them.

    Args:
        inner: `keras_tuner.HyperModel` of the user.
        fresh: `FreshWeights`.
        built: Called with each model; None for nothing.
    """

    def __init__(
        self, inner: keras_tuner.HyperModel, fresh: FreshWeights, built: Any = None
    ) -> None:
        self._inner = inner
        self._fresh = fresh
        self._on_built = built
        self._models: weakref.WeakSet[keras.Model] = weakref.WeakSet()
        super().__init__(getattr(inner, "name", None))

    def build(self, hp: Any, *args: Any, **kwargs: Any) -> Any:
        """Build a model of fresh weights, new each time.

        Raises:
            keras_tuner.errors.FatalValueError: if it was built before.
        """
        if not self._fresh.describes:
            self._fresh.restore()
        model = self._inner.build(hp, *args, **kwargs)
        if isinstance(model, keras.Model):  # KerasTuner refuses anything else
            self._check_new(model)
            if self._on_built is not None:
                self._on_built(model)
            self._fresh.begin(model)
        return model

    def _check_new(self, model: keras.Model) -> None:
        if model in self._models:
            raise keras_tuner.errors.FatalValueError(
                "The build function of a search must return a new model each time. Received: the "
                f"same model twice ({model.name!r}), whose optimizer would be kept from trial to "
                "trial. Build it in the function; it may share a backbone with the others."
            )
        self._models.add(model)

    def declare_hyperparameters(self, hp: Any) -> None:
        """Register hyperparameters before the first build, as the user's does."""
        self._inner.declare_hyperparameters(hp)

    def fit(self, hp: Any, model: keras.Model, *args: Any, **kwargs: Any) -> Any:
        """Train a model as the user's hypermodel does."""
        return self._inner.fit(hp, model, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """Return what else the user's hypermodel has."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._inner, name)
