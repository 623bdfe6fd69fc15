"""The memory of a training step: weights, gradients, optimizer state, and activations.

`step_memory` estimates it and `measured_memory` asks JAX's compiler. What each layer keeps for its
backward pass is in `backward_rules`, and `activations` walks through a model by these rules. Models
and optimizers are read only.
"""

from keras_freeze.memory.measured import MeasuredMemory, measured_memory
from keras_freeze.memory.step_memory import ServedMemory, StepMemory, check_batch, step_memory

__all__ = [
    "MeasuredMemory",
    "ServedMemory",
    "StepMemory",
    "check_batch",
    "measured_memory",
    "step_memory",
]
