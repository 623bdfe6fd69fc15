"""Why an output is not cached or a model not cut: a reason for code, and a text for the user."""

from __future__ import annotations

import dataclasses
import enum


class Reason(enum.Enum):
    """Why an output is not cached."""

    # Of a layer or operation.
    TRAINS = enum.auto()
    RANDOM = enum.auto()
    STATE = enum.auto()
    ADDS_LOSS = enum.auto()
    QUANTIZED = enum.auto()
    ACROSS_SAMPLES = enum.auto()
    NOT_KNOWN = enum.auto()
    IS_OUTPUT = enum.auto()
    # Of a model and the way it is called.
    NOTHING_FROZEN = enum.auto()
    USED_TWICE = enum.auto()
    OWN_CODE = enum.auto()
    UNREADABLE = enum.auto()
    UNSUPPORTED_STEP = enum.auto()
    # Of a fit.
    SHORT_PHASE = enum.auto()
    LITTLE_WORK = enum.auto()
    NO_REPEATS = enum.auto()
    WEIGHTS_CHANGE = enum.auto()
    FAILED_AUDIT = enum.auto()
    SHORT_FOR_VIEWS = enum.auto()

    @property
    def is_expected(self) -> bool:
        """Bool, whether it needs no message: little is frozen, or not for long."""
        return self in (Reason.TRAINS, Reason.NOTHING_FROZEN, Reason.SHORT_PHASE)


@dataclasses.dataclass(frozen=True)
class NoCut:
    """Why an output can't be cached, or a model can't be cut.

    Attributes:
        reason: `Reason`, for code.
        detail: Str, for the user, as in "Dropout 'drop' is stochastic in training mode".
    """

    reason: Reason
    detail: str = ""
