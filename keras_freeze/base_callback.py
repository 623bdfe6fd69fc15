"""What every callback of the package has in common."""

from __future__ import annotations

from typing import Any

import keras

from keras_freeze.checks import call_of


class BaseCallback(keras.callbacks.Callback):
    """A callback whose repr shows its arguments and whose copies leave out the running fit.

    Constructor arguments are attributes under their own names. What belongs to a running fit
    has a private name and, on its class, the value that it has while no fit runs; copies and
    pickles begin with that.
    """

    def __repr__(self) -> str:
        return call_of(self)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the model and the running fit out of copies: they belong to the original."""
        of_fit: set[str] = set()
        for kind in type(self).__mro__:
            if kind.__module__.startswith("keras_freeze."):
                of_fit.update(name for name in vars(kind) if name.startswith("_"))
        own = {name: value for name, value in vars(self).items() if name not in of_fit}
        return {**own, "_model": None, "params": None}
