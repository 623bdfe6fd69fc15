"""The live view: what a running `fit` does, on one display that is updated while it trains.

`view` is the callback, a thin driver with a clock. It makes a `status`, which is a value, from what
a schedule, a cache and the logs tell it, with times by `pace`; `words`, `panel` and `page` turn a
status into text, a panel of rich, and HTML, and `displays` puts these where they can be seen.
"""

from keras_freeze.live.displays import notebook_shell
from keras_freeze.live.groups import group_states
from keras_freeze.live.status import GroupState, GroupStatus, PhaseStatus
from keras_freeze.live.view import LiveView

__all__ = [
    "GroupState",
    "GroupStatus",
    "LiveView",
    "PhaseStatus",
    "group_states",
    "notebook_shell",
]
