"""Decide whether and where the model of a fit is cut, and try it on the first batch."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras

from keras_freeze.model_picture import every_layer
from keras_freeze.prefix_cache.audit import Audit, is_own
from keras_freeze.prefix_cache.batches import Batch
from keras_freeze.prefix_cache.compiled_prefix import Prefix
from keras_freeze.prefix_cache.graph_replay import NotReachedError
from keras_freeze.prefix_cache.model_cut import Frontier
from keras_freeze.prefix_cache.sharing import SharedCut
from keras_freeze.prefix_cache.weight_watch import Watch

# Below so many multiplications a sample, or this part of the forward pass, the frozen part takes
# less time than it takes to tell samples apart and to call two functions instead of one.
LEAST_WORK = 1e6
LEAST_SHARE = 0.05


@dataclasses.dataclass(eq=False)
class CutPlan:
    """How a model is cut in the present phase.

    Attributes:
        frontier: Where.
        prefix: Computes what crosses it.
        watch: Its weights.
        positions: Of these weights in what JAX's trainer passes into a step.
        place: What tells cuts apart: the tensors that are kept, and the dtype policies before.
        layers: All layers before the cut, nested ones included.
        audit: Computes features again that were looked up.
        shared: What other trainings may have computed of it; None if there are none.
    """

    frontier: Frontier
    prefix: Prefix
    watch: Watch
    positions: tuple[int, ...]
    place: tuple[Any, ...]
    layers: tuple[keras.Layer, ...]
    audit: Audit
    shared: SharedCut | None = None

    def values(self, state: tuple[Any, ...]) -> list[Any] | None:
        """Return the values of the weights in a step of JAX, None elsewhere."""
        return _values(self.positions, state)

    def settings(self) -> tuple[Any, ...]:
        """Return what may be changed by hand before the cut: what is frozen, and dtype policies."""
        layers = tuple(layer.trainable for layer in self.frontier.layers)
        variables = tuple(variable.trainable for variable in self.watch.variables)
        return layers, variables, _policies(self.layers)


def make(
    model: keras.Model, frontier: Frontier, inference: bool, batch: Batch, last: CutPlan | None
) -> CutPlan:
    """Make the plan of a cut.

    Args:
        model: `keras.Model`, compiled.
        frontier: Where it is cut.
        inference: Bool, whether frozen layers are called as at inference.
        batch: The first `Batch`.
        last: The plan before it. If it cut the model at the same place and no weight has changed
            since, it goes on watching them.
    """
    variables = {id(v): v for layer in frontier.layers for v in layer.weights}
    order = {
        id(v): n for n, v in enumerate((*model.trainable_variables, *model.non_trainable_variables))
    }
    positions = tuple(order[i] for i in variables)
    values = _values(positions, batch.state)
    prefix = Prefix(model, frontier, training=not inference)
    layers = _layers(frontier)
    place = _ids(frontier), _policies(layers)
    is_watched = last is not None and last.place == place and not last.watch.changed(values)
    watch = last.watch if last and is_watched else Watch(list(variables.values()), values)
    return CutPlan(frontier, prefix, watch, positions, place, layers, Audit(prefix))


def trial(plan: CutPlan, batch: Batch) -> list[Any] | str:
    """Compute a batch, and some of its samples alone, before anything is looked up.

    Returns:
        List of the features of the batch; or the reason why the model can't be cut there.
    """
    name = plan.prefix.model.name
    try:
        flat = plan.prefix(batch)
        if any(tensor.shape[0] != batch.rows for tensor in flat):
            return f"{plan.frontier.name} returns something else than a row for each sample"
        if is_own(plan.prefix, batch, flat):
            return flat
    except NotReachedError:
        return f"model {name!r} does not pass the batch itself to its frozen layers"
    except Exception as error:  # of the model's own code, which may expect other arguments
        return f"model {name!r} can't be called on a batch's inputs alone: {error}"
    return (
        f"the output of {plan.frontier.name} for a sample depends on the samples beside it, or on "
        "chance"
    )


def is_heavy(frontier: Frontier) -> bool:
    """Tell whether what is before a cut takes long enough to be worth keeping."""
    return frontier.work >= LEAST_WORK and frontier.share >= LEAST_SHARE


def reason_against(model: keras.Model) -> str:
    """Say why a model's steps can't be wrapped at all; "" if they can."""
    if model.steps_per_execution > 1:
        return "a step makes several batches (steps_per_execution)"
    strategy = getattr(model, "distribute_strategy", None)
    if strategy is not None and strategy.num_replicas_in_sync > 1:
        return "the model is spread over several devices"
    if keras.distribution.distribution() is not None:
        return "the model is spread over several devices"
    if keras.backend.backend() == "torch" and model.jit_compile:
        return "torch.compile makes one function of the whole step"
    return ""


def _values(positions: tuple[int, ...], state: tuple[Any, ...]) -> list[Any] | None:
    if not state:
        return None
    both = [*state[0], *state[1]]
    return [both[n] for n in positions]


def _ids(frontier: Frontier) -> tuple[int, ...]:
    whole = [id(layer) for layer in frontier.layers] if frontier.children else []
    return (*whole, *(id(tensor) for cut in frontier.cuts for tensor in cut.kept))


def _policies(layers: tuple[keras.Layer, ...]) -> tuple[str, ...]:
    return tuple(layer.dtype_policy.name for layer in layers)


def _layers(frontier: Frontier) -> tuple[keras.Layer, ...]:
    """Return all layers before the cut, nested ones included."""
    called = [node.operation for cut in frontier.cuts for node in cut.before]
    layers = [x for x in (*frontier.layers, *called) if isinstance(x, keras.Layer)]
    return tuple(dict.fromkeys(x for layer in layers for x in every_layer(layer)))
