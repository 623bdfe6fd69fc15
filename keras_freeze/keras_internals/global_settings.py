"""What Keras lets a user set for a process, and forgets when a session is cleared.

A search clears the session before each trial, so that layers have the same names in all of them.
Keras then also forgets the policy of dtypes, the distribution over devices and what is printed: a
search asked for in mixed precision would train in float32 without a word.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import keras


@dataclasses.dataclass(frozen=True)
class GlobalSettings:
    """Settings at some moment.

    Attributes:
        dtype_policy: `keras.DTypePolicy`.
        distribution: Of `keras.distribution`; None for none.
        has_interactive_logging: Bool.
        has_traceback_filtering: Bool.
        has_flash_attention: Bool; None where Keras chooses.
    """

    dtype_policy: Any
    distribution: Any
    has_interactive_logging: bool
    has_traceback_filtering: bool
    has_flash_attention: bool | None

    @classmethod
    def now(cls) -> GlobalSettings:
        """Return the present ones."""
        return cls(
            keras.config.dtype_policy(),
            keras.distribution.distribution(),
            keras.config.is_interactive_logging_enabled(),
            keras.config.is_traceback_filtering_enabled(),
            keras.config.is_flash_attention_enabled(),
        )

    def apply(self) -> None:
        """Set them all again."""
        config = keras.config
        config.set_dtype_policy(self.dtype_policy)
        keras.distribution.set_distribution(self.distribution)
        on, off = config.enable_interactive_logging, config.disable_interactive_logging
        (on if self.has_interactive_logging else off)()
        on, off = config.enable_traceback_filtering, config.disable_traceback_filtering
        (on if self.has_traceback_filtering else off)()
        if self.has_flash_attention is not None:
            on, off = config.enable_flash_attention, config.disable_flash_attention
            (on if self.has_flash_attention else off)()


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
