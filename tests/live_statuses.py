"""Examples of what a live view shows."""

import math

from keras_freeze.live.status import Curve, FitState, GroupState, GroupStatus, PhaseStatus, Status
from keras_freeze.schedules import Moment

NAN = math.nan
LONG = "vision_transformer/encoder/block_{}/attention_output_projection"


def groups(count, name="block{}", trains=1):
    """Return groups from input to head; the last `trains` train, the one below in part."""
    found = []
    for n in range(count - 1):
        state = GroupState.FROZEN
        if n >= count - trains:
            state = GroupState.TRAINS
        elif n == count - trains - 1 and trains > 1:
            state = GroupState.IN_PART
        rate = None if state is GroupState.FROZEN else 1e-3 / 2.6 ** (count - 1 - n)
        found.append(GroupStatus(name.format(n), 1000 * (n + 1), state, rate))
    return (*found, GroupStatus("head", 500, GroupState.TRAINS, 1e-3))


def losses(count, *, gaps=()):
    training = tuple(NAN if n in gaps else 2.0 / (1 + 0.4 * n) for n in range(count))
    validation = tuple(2.2 / (1 + 0.25 * n) + 0.02 * n for n in range(count))
    return Curve("loss", tuple(range(count)), training, validation)


def accuracies(count):
    training = tuple(1 - 0.8 / (1 + 0.3 * n) for n in range(count))
    validation = tuple(0.9 - 0.75 / (1 + 0.2 * n) for n in range(count))
    return Curve("accuracy", tuple(range(count)), training, validation)


LOG = (
    "Backbone: vgg16 (18 layers); new: 4 layers.",
    "Epoch 1/12: head trains at 1.0e-03, 5 groups (block1 to block5) are frozen; 136,207 of "
    "14,850,895 parameters train.",
    "Epoch 3/12: block5 unfreezes at 4.0e-04; 7,215,631 of 14,850,895 parameters train.",
)


def running(count=6, name="block{}", trains=2, done=6, **changes):
    """Return the status of a fit that trains."""
    own = groups(count, name, trains)
    settings = {
        "now": Moment(done, 40),
        "epochs": 12,
        "steps": 120,
        "seconds": 252.0,
        "groups": own,
        "phase": PhaseStatus(own, 1, 4, "after 4 epochs", Moment(8)),
        "phase_left_s": 42.0,
        "fit_left_s": 200.0,
        "curves": (losses(done), accuracies(done)) if done else (),
        "transitions": (2.0, 4.5),
        "cache": "cuts at block4_pool, skips 84 % of the forward pass; 67 % of 720 samples were "
        "looked up; at most 3.00 MB kept; saved about 21.7 s",
        "log": LOG,
    }
    return Status("vgg16_photographs", **{**settings, **changes})


def done(**changes):
    return running(**{"state": FitState.DONE, "done": 12, "now": Moment(12), **changes})
