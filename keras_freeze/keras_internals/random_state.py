"""The random generators of the process, which training draws from where it is given no other."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
from keras.src.backend.common import global_state
from keras.src.random import seed_generator

from keras_freeze.keras_internals.host_arrays import to_host
from keras_freeze.keras_internals.required import require

_FEATURE = "resume what is drawn without a seed"
require(_FEATURE, "keras", seed_generator, "GLOBAL_SEED_GENERATOR", "global_seed_generator")
require(_FEATURE, "keras", global_state, "get_global_attribute")


def capture() -> dict[str, Any]:
    """Return the states of Keras's global generator, NumPy's, Python's and torch's.

    Returns:
        Dict of numpy arrays and plain data. Keras's is None before something has been drawn from
        it; torch's are there on its backend, where `Dropout` draws from them.
    """
    of_keras = global_state.get_global_attribute(seed_generator.GLOBAL_SEED_GENERATOR)
    return {
        "keras": None if of_keras is None else to_host(of_keras.state),
        "numpy": np.random.get_state(legacy=False),
        "python": random.getstate(),
        "torch": [state.cpu().numpy() for state in _of_torch()],
    }


def restore(state: Mapping[str, Any]) -> None:
    """Give the generators the states that `capture` returned."""
    if state["keras"] is not None:
        seed_generator.global_seed_generator().state.assign(state["keras"])
    np.random.set_state(state["numpy"])
    random.setstate(state["python"])
    if state["torch"] and keras.backend.backend() == "torch":
        import torch

        cpu, *devices = (torch.from_numpy(one.copy()) for one in state["torch"])
        torch.set_rng_state(cpu)
        if len(devices) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(devices)


@contextlib.contextmanager
def preserved() -> Iterator[None]:
    """Give the generators the states back that they have now, whatever is drawn in between."""
    state = capture()
    try:
        yield
    finally:
        restore(state)


def is_generator(variable: keras.Variable) -> bool:
    """Tell whether a variable is the state of a layer's random generator."""
    return bool(variable.name == "seed_generator_state")


def _of_torch() -> list[Any]:
    """Return the state on the host, then that of each GPU; none on other backends."""
    if keras.backend.backend() != "torch":
        return []
    import torch

    return [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]
