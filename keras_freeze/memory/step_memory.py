"""The memory of one training step, as values, and how it is put together."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any

import keras

from keras_freeze.cuts import Frontier, Setting as CutSetting, find
from keras_freeze.keras_internals.graph import walked_graph
from keras_freeze.memory.activations import Activations, NotKnown, activations_of
from keras_freeze.memory.backward_rules import Setting, item_bytes
from keras_freeze.memory.measured import MeasuredMemory
from keras_freeze.memory.optimizer_memory import optimizer_bytes
from keras_freeze.model_picture import bytes_of


@dataclasses.dataclass(frozen=True)
class ServedMemory:
    """A training step whose frozen layers the prefix cache serves.

    Attributes:
        up_to: Str, the names of the layers whose output is kept.
        feature_bytes: Int, size of the features of one sample, which are kept in memory or files.
        working_bytes: Int, as in `StepMemory`, without the layers that are served.
        total_bytes: Int, of a step; None where the optimizer's state is not known.
    """

    up_to: str
    feature_bytes: int
    working_bytes: int
    total_bytes: int | None


@dataclasses.dataclass(frozen=True)
class StepMemory:
    """What one training step takes, in bytes. An estimate, but for weights and gradients.

    Attributes:
        batch_size: Int, samples in a batch.
        weight_bytes: Int, all weights, frozen ones included.
        frozen_bytes: Int, of these what doesn't train.
        gradient_bytes: Int, one gradient for each weight that trains.
        optimizer_bytes: Int, what the optimizer holds for what trains; None if not known.
        activation_bytes: Int, what the forward pass keeps for the backward pass; None if not known.
        working_bytes: Int, what is in memory beside that at the most, while one layer is computed;
            None if not known.
        not_known: Mapping from `"optimizer"` and `"activations"` to why they are not known.
        doubts: Tuple of str, what is counted roughly, and how.
        lowest: Str or None, the first layer that trains; None if not known.
        served: `ServedMemory`; None where there is nothing that a prefix cache could serve.
        measured: `MeasuredMemory`, what the compiler says; None if it was not asked.
    """

    batch_size: int
    weight_bytes: int
    frozen_bytes: int
    gradient_bytes: int
    optimizer_bytes: int | None
    activation_bytes: int | None
    working_bytes: int | None
    not_known: Mapping[str, str] = dataclasses.field(default_factory=dict)
    doubts: tuple[str, ...] = ()
    lowest: str | None = None
    served: ServedMemory | None = None
    measured: MeasuredMemory | None = None

    @property
    def known_bytes(self) -> int:
        """The sum of what is known."""
        parts = (self.optimizer_bytes, self.activation_bytes, self.working_bytes)
        return self.weight_bytes + self.gradient_bytes + sum(part or 0 for part in parts)

    @property
    def total_bytes(self) -> int | None:
        """The sum of all parts; None where one of them is not known."""
        return None if self.not_known else self.known_bytes

    def to_dict(self) -> dict[str, Any]:
        """Return all as plain data, ready for JSON."""
        return {
            **dataclasses.asdict(self),
            "doubts": list(self.doubts),
            "total_bytes": self.total_bytes,
        }


def step_memory(
    model: keras.Model,
    batch_size: int,
    trained: Collection[int] | None = None,
    flags: Mapping[int, bool] | None = None,
    *,
    measured: MeasuredMemory | None = None,
) -> StepMemory:
    """Estimate the memory of a training step.

    Args:
        model: `keras.Model`, built.
        batch_size: Int, samples in a batch.
        trained: Ids of the variables that train. Defaults to those that are trainable now, for
            which it is also looked for what a prefix cache could serve.
        flags: The layers' own flags by id. Defaults to the present ones.
        measured: What the compiler says. Defaults to None.

    Returns:
        `StepMemory`. Model and optimizer stay as they are.

    Example:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, use_bias=False)])
        >>> model.compile(keras.optimizers.SGD(momentum=0.9))
        >>> memory = step_memory(model, batch_size=8)
        >>> memory.weight_bytes, memory.gradient_bytes, memory.activation_bytes
        (32, 32, 64)
    """
    cut = None
    if trained is None:
        trained = {id(variable) for variable in model.trainable_variables}
        found = find(model, CutSetting(trained))
        cut = found if isinstance(found, Frontier) else None
    setting = Setting(frozenset(trained), dict(flags or {}))
    served = _calls_before(cut)
    activations = activations_of(model, batch_size, setting, served)
    optimizer = optimizer_bytes(model, setting.trained)
    weights = {id(variable): bytes_of(variable) for variable in model.weights}
    gradients = sum(size for i, size in weights.items() if i in setting.trained)
    known = activations if isinstance(activations, Activations) else None
    memory = StepMemory(
        batch_size=batch_size,
        weight_bytes=sum(weights.values()),
        frozen_bytes=sum(weights.values()) - gradients,
        gradient_bytes=gradients,
        optimizer_bytes=None if isinstance(optimizer, NotKnown) else optimizer,
        activation_bytes=None if known is None else known.kept_bytes,
        working_bytes=None if known is None else known.peak_bytes - known.kept_bytes,
        not_known=_reasons(optimizer=optimizer, activations=activations),
        doubts=() if known is None else known.doubts,
        lowest=None if known is None else known.lowest,
        measured=measured,
    )
    if cut is None or known is None:
        return memory
    return dataclasses.replace(memory, served=_served(memory, cut, known))


def check_batch(model: keras.Model, batch_size: int) -> int | None:
    """Return the batch size that the inputs of a model are made for, if it is another one."""
    graph = walked_graph(model)
    inputs = () if graph is None else graph.inputs
    fixed = (tensor.shape[0] for tensor in inputs if tensor.shape[0] is not None)
    return next((size for size in fixed if size != batch_size), None)


def _reasons(**parts: Any) -> dict[str, str]:
    return {name: part.reason for name, part in parts.items() if isinstance(part, NotKnown)}


def _calls_before(cut: Frontier | None) -> set[int]:
    """Return the ids of the calls before a cut; of nested models that are cut, those inside."""
    cuts = () if cut is None else cut.cuts
    inner = {i for one in cuts for i in one.inner}
    return {id(node) for one in cuts for node in one.before if id(node) not in inner}


def _served(memory: StepMemory, cut: Frontier, activations: Activations) -> ServedMemory:
    kept = [tensor for one in cut.cuts for tensor in one.kept]
    sizes = (math.prod(tensor.shape[1:]) * item_bytes(tensor.dtype) for tensor in kept)
    working = activations.served_peak_bytes - activations.kept_bytes
    saved = (memory.working_bytes or 0) - working
    total = memory.total_bytes
    return ServedMemory(cut.name, sum(sizes), working, None if total is None else total - saved)
