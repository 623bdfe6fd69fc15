"""The names of KerasTuner's hyperparameters; KerasTuner itself is not imported."""

from __future__ import annotations

from typing import Any


def scoped_name(hp: Any, name: str) -> str:
    """Return the name that a hyperparameter has within the open name scopes of KerasTuner's `hp`.

    An adapter for another tuner has no scopes.
    """
    if not hasattr(hp, "name_scope"):
        return name
    if not hasattr(hp, "_get_name"):
        raise AttributeError(
            "tuning.freeze_depth needs KerasTuner's HyperParameters._get_name, which the installed "
            "KerasTuner does not have. Tested with KerasTuner 1.4.8."
        )
    return str(hp._get_name(name))
