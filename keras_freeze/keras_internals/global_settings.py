"""What Keras lets a user set for a process, and forgets when a session is cleared.

A search clears the session before each trial, so that layers have the same names in all of them.
Keras then also forgets the policy of dtypes, the distribution over devices and what is printed: a
search asked for in mixed precision would silently train in float32.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from keras.src.backend.common import global_state

from keras_freeze.keras_internals.required import require

_NAMES = (
    "distribution",
    "dtype_policy",
    "flash_attention",
    "interactive_logging",
    "nnx_enabled",
    "safe_mode_saving",
    "traceback_filtering",
)


@dataclasses.dataclass(frozen=True)
class GlobalSettings:
    """Settings at some moment.

    Attributes:
        values: By Keras's names; None where nothing was set.
    """

    values: Mapping[str, Any]

    @classmethod
    def now(cls) -> GlobalSettings:
        """Return the present ones."""
        names = ("get_global_attribute", "set_global_attribute")
        require("run a search", "keras", global_state, *names)
        return cls({name: global_state.get_global_attribute(name) for name in _NAMES})

    def apply(self) -> None:
        """Set them all again."""
        for name, value in self.values.items():
            global_state.set_global_attribute(name, value)


@contextlib.contextmanager
def settings_kept() -> Iterator[GlobalSettings]:
    """Yield the present settings, and set them again at the end.

    Example:
        >>> keras.config.set_dtype_policy("mixed_bfloat16")
        >>> with settings_kept():
        ...     keras.utils.clear_session()
        ...     keras.config.dtype_policy()
        <DTypePolicy "float32">
        >>> keras.config.dtype_policy()
        <DTypePolicy "mixed_bfloat16">
        >>> keras.config.set_dtype_policy("float32")
    """
    settings = GlobalSettings.now()
    try:
        yield settings
    finally:
        settings.apply()
