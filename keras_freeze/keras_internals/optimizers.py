"""What an optimizer holds: the variables it was built for, its slots, its update step."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import keras

from keras_freeze.keras_internals.host_arrays import to_host
from keras_freeze.keras_internals.required import require

Slots: TypeAlias = "dict[str, Sequence[keras.Variable | None]]"

#: The attribute that holds the running averages of weights (`use_ema=True`).
MODEL_AVERAGE = "_model_variables_moving_average"

_NOT_SLOTS = frozenset({"_variables", "_trainable_variables", "_iterations", "_learning_rate"})
#: What a `MultiOptimizer` knows of the optimizers inside it, and what TensorFlow saves.
_CHANGED_IN_PLACE = {
    "_inner_optimizers",
    "_var_to_optimizer_idx",
    "_self_unconditional_checkpoint_dependencies",
    "_self_unconditional_dependency_names",
}
#: The attributes that hold extra slots: sums of gradients, what is known of their norms, and what
#: the learning rate of each variable is multiplied by.
SUMS, NORMS, DIALS = EXTRA_SLOTS = "_gradient_sums", "_gradient_norms", "_rate_dials"
#: What `NORMS` hold of a variable: the sum of the squared norms of its gradients whose square is
#: finite, the count of these and of all, the largest square, and the number (from 1) of the
#: gradient that had it and of the first whose square is not finite, 0 for none.
NORM_FIELDS = ("squares", "finite", "steps", "largest", "largest_at", "not_finite_at")
_APPLY, _SAVE, _LOAD = "_backend_apply_gradients", "save_own_variables", "load_own_variables"
_UPDATE_STEP, _WEIGHT_DECAY = "_backend_update_step", "_apply_weight_decay"
_CHECK_KNOWN = "_check_variables_are_known"


def _check_names(optimizer: Any) -> None:
    names: tuple[str, ...] = (
        _APPLY,
        _UPDATE_STEP,
        _WEIGHT_DECAY,
        _CHECK_KNOWN,
        "_iterations",
        "_learning_rate",
        "_tracker",
        "_trainable_variables",
        "_trainable_variables_indices",
        "_untrack_variable",
        "_use_weight_decay",
        "_var_key",
        "_variables",
    )
    if isinstance(optimizer, keras.optimizers.MultiOptimizer):
        names += ("_inner_optimizers", "_optimizer_map")
        names += ("_var_to_optimizer_idx",) if optimizer.built else ()
    require("change what an optimizer trains", "keras", optimizer, *names)


def inner_optimizers(optimizer: Any) -> tuple[Any, ...]:
    """Return the optimizers inside a wrapper; none for one that updates variables itself."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return (optimizer.inner_optimizer,)
    if isinstance(optimizer, keras.optimizers.MultiOptimizer):
        return tuple(optimizer.optimizers)
    return ()


def skips_steps(optimizer: Any) -> bool:
    """Tell whether an optimizer leaves out steps whose gradients are not finite."""
    return isinstance(optimizer, keras.optimizers.LossScaleOptimizer)


def built_variables(optimizer: Any) -> tuple[keras.Variable, ...]:
    """Return the variables an optimizer was built for, in order; none before it is built."""
    return tuple(optimizer._trainable_variables) if optimizer.built else ()


def iterations_of(optimizer: Any) -> keras.Variable:
    """Return the counter of an optimizer's steps, accumulation steps included."""
    return optimizer._iterations


def rate_of(optimizer: Any) -> Any:
    """Return what an optimizer takes its rate from: a variable, a schedule or a callable."""
    return optimizer._learning_rate


def learning_rate(optimizer: Any) -> float | None:
    """Return the rate an optimizer trains at now, None if it has no single one."""
    try:
        rate = keras.ops.cast(optimizer.learning_rate, "float32")
    except AttributeError:  # MultiOptimizer
        return None
    return float(keras.ops.convert_to_numpy(rate))


def slots_of(optimizer: Any) -> Slots:
    """Return the slots by attribute, one entry for each variable of `built_variables`."""
    if not optimizer.built:
        return {}
    count = len(optimizer._trainable_variables)
    found: Slots = {}
    for name, value in vars(optimizer).items():
        is_list = isinstance(value, (list, tuple)) and len(value) == count
        if name in _NOT_SLOTS or not is_list:
            continue
        if any(isinstance(item, keras.Variable) for item in value) and all(
            item is None or isinstance(item, keras.Variable) for item in value
        ):
            found[name] = value
    return found


def slots_of_variables(optimizer: Any, variables: Iterable[Any]) -> list[keras.Variable]:
    """Return the slots that some of an optimizer's variables have."""
    keys = {key_of(optimizer, variable) for variable in variables}
    wanted = [key_of(optimizer, variable) in keys for variable in built_variables(optimizer)]
    return [
        slot
        for slots in slots_of(optimizer).values()
        for slot, is_wanted in zip(slots, wanted, strict=True)
        if is_wanted and slot is not None
    ]


def scalars_of(optimizer: Any) -> dict[str, keras.Variable]:
    """Return by attribute the state that belongs to no single variable, such as a loss scale."""
    return {
        name: value
        for name, value in vars(optimizer).items()
        if name not in _NOT_SLOTS and isinstance(value, keras.Variable)
    }


def unknown_state(optimizer: Any) -> list[str]:
    """Return the paths of the variables that are neither slots nor scalars."""
    _check_names(optimizer)
    known = {id(optimizer._iterations), id(optimizer._learning_rate)}
    known |= {id(v) for v in scalars_of(optimizer).values()}
    known |= {id(v) for slots in slots_of(optimizer).values() for v in slots}
    return [v.path for v in optimizer._variables if id(v) not in known]


def remapped_variable(optimizer: Any) -> keras.Variable | None:
    """Return a variable to which a `MultiOptimizer` map now assigns another optimizer."""
    if not optimizer.built or not isinstance(optimizer, keras.optimizers.MultiOptimizer):
        return None
    for variable in optimizer._trainable_variables:
        index = optimizer._var_to_optimizer_idx[optimizer._var_key(variable)]
        if optimizer._optimizer_map(variable) is not optimizer._inner_optimizers[index]:
            return variable
    return None


def forget_slots(optimizer: Any) -> None:
    """Reset an optimizer to its state before `build`, except for its settings and scalars."""
    slots = slots_of(optimizer)
    for name, items in slots.items():
        untrack(optimizer, (variable for variable in items if variable is not None))
        if name in EXTRA_SLOTS:
            _override(optimizer, name, [])
        else:
            setattr(optimizer, name, [])
    optimizer._trainable_variables_indices.clear()
    optimizer._trainable_variables = []
    optimizer.built = False


def untrack(optimizer: Any, variables: Iterable[keras.Variable]) -> None:
    """Leave variables out of those that an optimizer saves."""
    for variable in variables:
        optimizer._untrack_variable(variable)


def memento(optimizer: Any) -> Callable[[], None]:
    """Return a function that gives an optimizer its current attributes back."""
    attributes = dict(vars(optimizer))
    for name in _CHANGED_IN_PLACE & attributes.keys():
        attributes[name] = copy.copy(attributes[name])
    tracked, indices = list(optimizer._variables), dict(optimizer._trainable_variables_indices)

    def restore() -> None:
        vars(optimizer).clear()
        vars(optimizer).update(attributes)
        optimizer._variables.clear()
        optimizer._variables.extend(tracked)
        optimizer._tracker.stored_ids["variables"] = {id(v) for v in tracked}
        optimizer._trainable_variables_indices.clear()
        optimizer._trainable_variables_indices.update(indices)

    return restore


# The update step.


def key_of(optimizer: Any, variable: Any) -> Any:
    """Return the key by which an optimizer identifies a variable, also inside a step."""
    return optimizer._var_key(variable)


def index_of(optimizer: Any, variable: Any) -> int:
    """Return a variable's place among those that an optimizer was built for."""
    place: int = optimizer._trainable_variables_indices[key_of(optimizer, variable)]
    return place


def has_weight_decay(optimizer: Any, variable: Any) -> bool:
    """Tell whether weight decay applies to a variable."""
    return bool(optimizer._use_weight_decay(variable))


def update_methods(optimizer: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the method that updates variables and the one that applies weight decay."""
    return getattr(optimizer, _UPDATE_STEP), getattr(optimizer, _WEIGHT_DECAY)


def replaced_update(optimizer: Any) -> Any | None:
    """Return what `replace_update_methods` has set in place of the update step."""
    return vars(optimizer).get(_UPDATE_STEP)


def replace_update_methods(optimizer: Any, update: Any, decay: Any) -> None:
    """Replace an optimizer's own update step and weight decay by other callables."""
    _override(optimizer, _UPDATE_STEP, update)
    _override(optimizer, _WEIGHT_DECAY, decay)


def restore_update_methods(optimizer: Any) -> None:
    """Restore an optimizer's own update step and weight decay."""
    for name in (_UPDATE_STEP, _WEIGHT_DECAY):
        vars(optimizer).pop(name, None)


# Extra slots, which Keras has none of.


def add_extra_slots(optimizer: Any, names: Iterable[str]) -> None:
    """Give an optimizer the extra slots of some names, and take away all others.

    `SUMS` get the sum of the gradients, unscaled and before they are clipped, `NORMS` what
    `NORM_FIELDS` lists of their norms. `DIALS` begin with 1, and nothing here reads them.
    """
    wanted, present = set(names), extra_slots(optimizer)
    for name in present.keys() - wanted:
        untrack(optimizer, present[name])
        vars(optimizer).pop(name)
    if not wanted:
        forget_extra_slots(optimizer)
        return
    for name in sorted(wanted):
        _add_slots(optimizer, name)
    if _APPLY not in vars(optimizer):
        _override(optimizer, _APPLY, _Recording(optimizer, getattr(optimizer, _APPLY)))
        save_without_extra_slots(optimizer)


def renew_extra_slots(optimizer: Any, names: Iterable[str]) -> None:
    """Give an optimizer that was built anew the extra slots that it had."""
    for name in names:
        _add_slots(optimizer, name)


def _add_slots(optimizer: Any, name: str) -> None:
    built = built_variables(optimizer)
    if len(vars(optimizer).get(name, ())) == len(built):
        return
    kind, shape = ("ones", ()) if name == DIALS else ("zeros", (len(NORM_FIELDS),))
    slots = [
        optimizer.add_variable(
            shape=v.shape if name == SUMS else shape,
            initializer=kind,
            dtype="float32",
            name=f"{name.strip('_')}_{n}",
        )
        for n, v in enumerate(built)
    ]
    _override(optimizer, name, slots)


def extra_slots(optimizer: Any) -> dict[str, Sequence[keras.Variable]]:
    """Return the extra slots by name, one for each of `built_variables`."""
    own = vars(optimizer)
    return {name: own[name] for name in EXTRA_SLOTS if name in own}


def save_without_extra_slots(optimizer: Any) -> None:
    """Make an optimizer leave extra slots out of files: its own, and those of what it wraps."""
    for name in (_SAVE, _LOAD):
        _override(optimizer, name, _WithoutExtraSlots(optimizer, name))


def forget_extra_slots(optimizer: Any) -> None:
    """Leave an optimizer as if it had never had extra slots."""
    for name, slots in extra_slots(optimizer).items():
        untrack(optimizer, slots)
        vars(optimizer).pop(name)
    for name in (_APPLY, _SAVE, _LOAD):
        vars(optimizer).pop(name, None)


class _Recording:
    """Records gradients in extra slots, and has them applied as always."""

    def __init__(self, optimizer: Any, own: Callable[..., Any]) -> None:
        self.optimizer, self.own = optimizer, own

    def __call__(self, grads: Any, trainable_variables: Any) -> None:
        slots = extra_slots(self.optimizer)
        places = [index_of(self.optimizer, variable) for variable in trainable_variables]
        if SUMS in slots or NORMS in slots:
            dense = [keras.ops.cast(_dense(gradient), "float32") for gradient in grads]
        if SUMS in slots:
            for n, gradient in zip(places, dense, strict=True):
                self.optimizer.assign_add(slots[SUMS][n], gradient)  # in place, where a backend can
        if NORMS in slots:
            _record_norms([slots[NORMS][n] for n in places], dense)
        self.own(grads, trainable_variables)


def _dense(gradient: Any) -> Any:
    """Return a gradient, of all replicas, with one element for each of its variable's.

    That of an embedding has rows.
    """
    if keras.backend.backend() == "tensorflow":  # Keras would square rows that occur twice apart
        import tensorflow as tf

        whole = tf.convert_to_tensor(gradient)
        replica = tf.distribute.get_replica_context()
        if replica is None or replica.num_replicas_in_sync == 1:
            return whole
        return replica.all_reduce(tf.distribute.ReduceOp.SUM, whole)
    return keras.ops.convert_to_tensor(gradient)


def _record_norms(slots: Sequence[keras.Variable], gradients: Sequence[Any]) -> None:
    """Record the norms of one more gradient of each variable, of all variables at once."""
    ops = keras.ops
    known = ops.stack([slot.value for slot in slots], axis=1)
    squares, finite, steps, largest, at, bad = ops.unstack(known)
    square, now = ops.stack([_squared_norm(gradient) for gradient in gradients]), steps + 1.0
    is_finite = ops.isfinite(square)
    square = ops.where(is_finite, square, 0.0)
    is_largest = square > largest
    is_first_bad = ops.logical_and(ops.logical_not(is_finite), bad == 0.0)
    fields = (
        squares + square,
        finite + ops.cast(is_finite, "float32"),
        now,
        ops.where(is_largest, square, largest),
        ops.where(is_largest, now, at),
        ops.where(is_first_bad, now, bad),
    )
    for slot, value in zip(slots, ops.unstack(ops.stack(fields, axis=1)), strict=True):
        slot.assign(value)


def _squared_norm(gradient: Any) -> Any:
    if keras.backend.backend() == "tensorflow":  # without a square as large as the gradient
        import tensorflow as tf

        return 2.0 * tf.nn.l2_loss(gradient)
    return keras.ops.sum(keras.ops.square(gradient))


class _WithoutExtraSlots:
    """Saves or loads an optimizer as one that has no extra slots: files are plain Keras."""

    def __init__(self, optimizer: Any, name: str) -> None:
        self.optimizer, self.name = optimizer, name

    def __call__(self, store: Any) -> None:
        every = [self.optimizer]
        for optimizer in every:
            every += inner_optimizers(optimizer)
        tracked = [optimizer._variables for optimizer in every]
        extra = {id(v) for opt in every for slots in extra_slots(opt).values() for v in slots}
        try:
            for optimizer, variables in zip(every, tracked, strict=True):
                _override(optimizer, "_variables", [v for v in variables if id(v) not in extra])
            getattr(type(self.optimizer), self.name)(self.optimizer, store)
        finally:
            for optimizer, variables in zip(every, tracked, strict=True):
                _override(optimizer, "_variables", variables)


def refuse_unknown(optimizer: Any, model: str) -> None:
    """Say, instead of Keras, what to do where a step hands over what an optimizer doesn't train."""
    _override(optimizer, _CHECK_KNOWN, _UnknownRefusal(optimizer, model))


class _UnknownRefusal:
    def __init__(self, optimizer: Any, model: str):
        self.optimizer, self.model = optimizer, model

    def __call__(self, variables: Iterable[Any]) -> None:
        known = self.optimizer._trainable_variables_indices
        for variable in variables:
            if key_of(self.optimizer, variable) in known:
                continue
            is_frozen = not variable.trainable
            raise ValueError(
                f"The step of model {self.model!r} must hand to each optimizer what is trainable, "
                f"and what it was built for. Received: {variable.path}, which is "
                + ("frozen" if is_frozen else "another's, or was made trainable by hand")
                + ". Read `trainable_variables` in the step, keep no list made before, and call "
                "keras_freeze.recompile after changing flags by hand."
            )


@contextlib.contextmanager
def counting(optimizer: Any, steps: Any) -> Iterator[None]:
    """Make an optimizer read another iteration count temporarily."""
    clock = optimizer._iterations
    _override(optimizer, "_iterations", steps)
    try:
        yield
    finally:
        _override(optimizer, "_iterations", clock)


@contextlib.contextmanager
def at_rate(optimizer: Any, rate: Any, own: Any) -> Iterator[None]:
    """Make an optimizer read another learning rate temporarily, and then its own."""
    _override(optimizer, "_learning_rate", rate)
    try:
        yield
    finally:
        _override(optimizer, "_learning_rate", own)


def nadam_product(optimizer: Any) -> keras.Variable:
    """Return Nadam's running product of its momentum schedule."""
    require("train variables at rates of their own", "keras", optimizer, "_u_product")
    return optimizer._u_product


def _override(optimizer: Any, name: str, value: Any) -> None:
    # This bypasses the attribute tracking of Keras and TensorFlow: none of it is saved.
    object.__setattr__(optimizer, name, value)


def iterations(optimizer: Any) -> int:
    """Return how many batches an optimizer has applied (accumulation steps count each)."""
    inner = inner_optimizers(optimizer)
    if inner:
        return max(iterations(opt) for opt in inner)
    return int(to_host(optimizer._iterations))
