"""What every callback of the package has in common."""

from __future__ import annotations

from typing import Any

import keras

from keras_freeze.checks import call_of


class BaseCallback(keras.callbacks.Callback):
    """A callback that shows its arguments, and copies without the fit that it is in.

    Constructor arguments are attributes under their own names. All that belongs to a running
    fit has a name that begins with an underscore and, on the class, the value that it has while
    no fit runs; copies and pickles begin with that.
    """

    def __repr__(self) -> str:
        return call_of(self)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the model and the running fit out of copies: they belong to the original."""
        own = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        return {**own, "_model": None, "params": None}
