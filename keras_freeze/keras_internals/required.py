"""Check that the installed Keras, or a library beside it, has the private names that we use."""

from __future__ import annotations

import importlib.metadata
from typing import Any

#: The releases that the tests run with. The next one to try: see CONTRIBUTING.
TESTED = {"keras": "3.15.1", "keras-tuner": "1.4.8", "tensorflow": "2.21.0"}


class UnsupportedVersionError(ImportError):
    """A library lacks a private name that a feature of keras_freeze needs."""


def require(feature: str, library: str, owner: Any, *names: str) -> None:
    """Raise unless an object has all private names that a feature uses.

    Args:
        feature: Str, what needs them, as it follows "keras_freeze can't".
        library: Str, the distribution whose names they are.
        owner: The object, class or module that has to have them.
        *names: Str, the names.

    Raises:
        UnsupportedVersionError: if one is missing.
    """
    missing = [name for name in names if not hasattr(owner, name)]
    if missing:
        name = getattr(owner, "__name__", type(owner).__name__)
        raise UnsupportedVersionError(
            f"keras_freeze can't {feature} with {library} "
            f"{importlib.metadata.version(library)}: {name} has no "
            f"{', '.join(missing)}. It was tested with {library} {TESTED[library]}; install that "
            "release, or report the new one."
        )
