"""The names of KerasTuner's hyperparameters; KerasTuner itself is not imported."""

from __future__ import annotations

from typing import Any

from keras_freeze.keras_internals.required import require


def scoped_name(hp: Any, name: str) -> str:
    """Return the name that a hyperparameter has within the open name scopes of KerasTuner's `hp`.

    An adapter for another tuner has no scopes.
    """
    if not hasattr(hp, "name_scope"):
        return name
    require("name a hyperparameter in a scope", "keras-tuner", hp, "_get_name")
    return str(hp._get_name(name))
