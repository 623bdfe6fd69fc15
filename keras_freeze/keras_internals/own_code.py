"""Which of Keras's methods a user's class, or somebody's assignment, has replaced."""

from __future__ import annotations

import functools
from typing import Any

import keras


def _set(names: str) -> frozenset[str]:
    return frozenset(names.split())


#: What no step calls, or what is used there for its value alone; Keras itself sets some of them.
_HARMLESS = _set(
    """
    __delattr__ __getattr__ __init__ __new__ __reduce__ __repr__ __setattr__ __str__ _post_quantize
    build build_from_config compile compile_from_config count_params evaluate export fit
    from_config get_build_config get_compile_config get_config get_layer
    get_quantization_layer_structure layers load_own_variables load_weights loss predict
    predict_on_batch predict_step quantize save save_own_variables save_weights summary
    test_on_batch to_json train_on_batch
    """
)
#: Of what runs in a step of training or validation: what is around the call of the model.
STEP_METHODS = _set(
    """
    compute_loss compute_metrics get_metrics_result make_test_function make_train_function metrics
    metrics_names reset_metrics stateless_compute_loss test_function test_step train_function
    train_step
    """
)
#: What torch calls with the inputs or the output of a module.
_TORCH_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
#: What refuses texts and passes on everything else.
_KNOWN = frozenset({("PipelineModel", "__call__")})
_FOREIGN_BASES = frozenset({"builtins", "abc", "typing", "tensorflow", "torch"})


def is_activation(function: Any) -> bool:
    """Tell whether a function is one of Keras's activations, or the operation of that name."""
    module, name = getattr(function, "__module__", ""), getattr(function, "__name__", "")
    is_same = module == "keras.src.ops.nn" and hasattr(keras.activations, name)
    return is_same or str(module).startswith("keras.src.activations")


def replaced_methods(operation: Any) -> frozenset[str]:
    """Return the names of Keras's methods that are another's, of a layer, model or operation.

    What runs outside of steps, such as `compile` or `get_config`, does not count.
    """
    cls: Any = type(operation)
    keras_names, replaced = _of_class(cls)
    own = keras_names & vars(operation).keys() - _HARMLESS
    hooks = {name.strip("_") for name in _TORCH_HOOKS if vars(operation).get(name)}
    return replaced | own | hooks


@functools.lru_cache(maxsize=1024)
def _of_class(cls: Any) -> tuple[frozenset[str], frozenset[str]]:
    """Return the names of Keras's methods and properties, and those that a class has replaced."""
    names: set[str] = set()
    replaced: set[str] = set()
    for base in reversed(cls.__mro__):
        root = base.__module__.partition(".")[0]
        methods = {name for name, value in vars(base).items() if _is_method(value)}
        if root == "keras":
            names |= methods
            replaced -= methods
        elif root not in _FOREIGN_BASES:
            own = names & vars(base).keys() - _HARMLESS
            hub = root == "keras_hub"
            replaced |= {name for name in own if not (hub and (base.__name__, name) in _KNOWN)}
    return frozenset(names), frozenset(replaced)


def _is_method(value: Any) -> bool:
    return callable(value) or isinstance(value, (property, classmethod, staticmethod))
