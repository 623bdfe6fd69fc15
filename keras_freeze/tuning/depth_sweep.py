"""`DepthSweep`: train at every freeze depth, and see which is best."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import keras
import keras_tuner

from keras_freeze.checks import ArgumentError
from keras_freeze.groups import Backbone, names_of, picture_of
from keras_freeze.tuning.depth_in_force import backbone_of
from keras_freeze.tuning.depth_range import Unit
from keras_freeze.tuning.freeze_tuner import FreezeTuner, check_builds
from keras_freeze.tuning.oracles import DepthSweepOracle
from keras_freeze.tuning.spaces import asking, freeze_depth
from keras_freeze.tuning.tuners import split_options

_BY_PLACE = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class DepthSweep(FreezeTuner):
    """Train a model at every freeze depth, the deepest first, since it is the cheapest.

    It finds out how much of a pretrained model to freeze, and needs no knowledge of tuners: a
    function that builds the model and the arguments of `fit` are enough.

    Args:
        build: Function that returns a compiled `keras.Model` with its pretrained weights; it may
            take KerasTuner's `hp`, whose hyperparameters other than the depth keep their defaults.
            Or a `keras_tuner.HyperModel`. If it calls `tuning.freeze_depth` itself, that depth is
            swept.
        objective: String or `keras_tuner.Objective`, what counts. Defaults to `"val_loss"`.
        min: The smallest depth, as for `tuning.freeze_depth`.
        max: The largest.
        unit: `"group"` (default), `"layer"` or `"fraction"`.
        backbone: What is pretrained, as for `tuning.freeze_depth`.
        **options: Those of `tuning.RandomSearch` that concern trials, such as
            `executions_per_trial` (trainings at each depth, each from the pretrained weights, for
            the spread of the score), `max_retries_per_trial`, `isolate`, `directory` and
            `project_name`. An interrupted sweep resumes, unless `overwrite=True`.

    Raises:
        TypeError: if `build` is a model.
        ValueError: if `build` asks for several depths, or for one of its own beside `min`, `max` or
            `backbone`; if there is no such argument, or the folder holds another search.

    Example:
        >>> import tempfile, numpy as np
        >>> def build():
        ...     model = keras.Sequential(
        ...         [keras.Input((4,)), keras.layers.Dense(3, name="low"), keras.layers.Dense(1)]
        ...     )
        ...     model.compile("sgd", "mse")
        ...     return model
        >>> x, y = np.ones((8, 4)), np.ones((8, 1))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sweep = DepthSweep(build, directory=folder)
        ...     sweep.search(x, y, validation_data=(x, y), epochs=2, verbose=0)
        ...     found = {row["freeze_depth"]: row["trainable_params"] for row in sweep.rows()}
        >>> found
        {1: 4, 0: 19}
    """

    def __init__(
        self,
        build: Callable[..., keras.Model] | keras_tuner.HyperModel,
        objective: Any = "val_loss",
        *,
        min: int | float | None = None,
        max: int | float | None = None,
        unit: Unit = "group",
        backbone: Backbone | None = None,
        **options: Any,
    ) -> None:
        check_builds("DepthSweep", "build", build)
        of_oracle, of_tuner = split_options(
            "DepthSweep", options, ("max_retries_per_trial", "max_consecutive_failed_trials")
        )
        oracle = DepthSweepOracle(objective=objective, **of_oracle)
        depths: dict[str, Any] = {"min": min, "max": max, "unit": unit}
        if backbone is not None:
            depths["backbone"] = names_of("DepthSweep", backbone)
        self._swept = _Swept(build, depths, oracle)
        super().__init__(oracle, self._swept, settings=depths, **of_tuner)

    def search(self, *fit_args: Any, **fit_kwargs: Any) -> None:
        """Sweep; the arguments are those of `fit`.

        Raises:
            RuntimeError: if every depth has failed.
        """
        if fit_kwargs.get("verbose", 1) and not self.is_worker:
            *groups, head = self._swept.groups
            print(
                f"Freeze depth counts layer groups from the input: {', '.join(groups) or 'none'}. "
                f"The head ({head}) always trains."
            )
        super().search(*fit_args, **fit_kwargs)

    def on_trial_end(self, trial: Any) -> None:
        """End a trial; the remaining depths are smaller and can't use its features."""
        super().on_trial_end(trial)
        if not self.library.is_kept:
            self.library.clear()


class _Swept(keras_tuner.HyperModel):
    """A user's build function, with a freeze depth if it asks for none."""

    def __init__(self, build: Any, options: dict[str, Any], oracle: DepthSweepOracle) -> None:
        super().__init__()
        self._inner = build if isinstance(build, keras_tuner.HyperModel) else None
        self._user_build = self._inner.build if self._inner else build
        self._takes_hp = _takes_hp(self._user_build)
        self._options = options
        self._oracle = oracle
        #: Names of the layer groups of the model that was built last.
        self.groups: list[str] = []

    def build(self, hp: Any) -> keras.Model:
        with asking() as names:
            model = self._user_build(hp) if self._takes_hp else self._user_build()
            if not names:
                freeze_depth(hp, model, **self._options)
            elif len(names) > 1 or self._chooses_depths:
                raise ArgumentError(
                    "DepthSweep",
                    "build",
                    "ask for at most one freeze depth, and for none if min=, max= or backbone= are "
                    "given",
                    received=f"a build function that asks for {', '.join(names)}",
                    advice="Use tuning.RandomSearch for several.",
                )
        self._oracle.depth_name = names[0]
        self.groups = list(picture_of(model, None, backbone_of(model)).group_names)
        return model

    @property
    def _chooses_depths(self) -> bool:
        return any(self._options.get(name) is not None for name in ("min", "max", "backbone"))

    def declare_hyperparameters(self, hp: Any) -> None:
        if self._inner is not None:
            self._inner.declare_hyperparameters(hp)

    def fit(self, hp: Any, model: keras.Model, *args: Any, **kwargs: Any) -> Any:
        if self._inner is None:
            return super().fit(hp, model, *args, **kwargs)
        return self._inner.fit(hp, model, *args, **kwargs)


def _takes_hp(build: Callable[..., Any]) -> bool:
    """Tell whether a build function has a parameter that can only be meant for `hp`."""
    parameters = inspect.signature(build).parameters.values()
    return any(p.name == "hp" or (p.default is p.empty and p.kind in _BY_PLACE) for p in parameters)
