"""Decide whether and where the model of a fit is cut, and try the cut on the first batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

import keras

from keras_freeze.checks import counted
from keras_freeze.cuts import ONLY_GRAPHS, Frontier, NoCut, Reason, Setting, find
from keras_freeze.features import Library
from keras_freeze.keras_internals import processes
from keras_freeze.keras_internals.own_code import STEP_METHODS, replaced_methods
from keras_freeze.model_picture import every_layer
from keras_freeze.prefix_cache.audit import Audit
from keras_freeze.prefix_cache.batches import Batch, Kind
from keras_freeze.prefix_cache.compiled_prefix import Prefix, Start
from keras_freeze.prefix_cache.graph_replay import NotReachedError
from keras_freeze.prefix_cache.lowering import lowerable
from keras_freeze.prefix_cache.replicas import has_replicas, is_mirrored
from keras_freeze.prefix_cache.sharing import SharedCut
from keras_freeze.prefix_cache.weight_watch import Watch

# Below so many multiplications a sample, or this part of the forward pass, the frozen part takes
# less time than the keys of the samples and a second function call.
MIN_WORK = 1e6
MIN_SHARE = 0.05

# What a cache puts into a model.
OURS = frozenset({"make_train_function", "make_test_function"})


@dataclasses.dataclass(frozen=True)
class Options:
    """What the user asked of the cache of a fit, and what is known of the fit.

    Attributes:
        inference: Bool, whether frozen layers are called in inference mode.
        auto: Bool, whether to leave the model whole where a cut would not save time.
        custom_step: Bool, whether the steps of the model may be the user's own.
        steps: Int, batches in an epoch; None if not known.
        epochs_left: Returns how many epochs the model stays frozen as it is; None if that is not
            known.
        views: Int, how many augmented views of each sample are kept; None for none.
        max_bytes: Int, into which all views have to fit; None for as many as are asked for.
        library: `Library` to share features with other trainings; None to share none.
        look_ahead: Int, batches whose features are computed together.
        lowers: Bool, whether layers before the cut compute in bfloat16 instead of float32.
    """

    inference: bool
    auto: bool
    custom_step: bool
    steps: int | None
    epochs_left: Callable[[], int | None]
    views: int | None = None
    max_bytes: int | None = None
    library: Library | None = None
    look_ahead: int = 1
    lowers: bool = False


@dataclasses.dataclass(eq=False)
class CutPlan:
    """How a model is cut in the current phase.

    Attributes:
        frontier: Where.
        prefix: Computes what crosses it.
        watch: Its weights.
        positions: Of these weights in what JAX's trainer passes into a step.
        place: What differs between cuts: the tensors that are kept, and the dtype policies before.
        layers: All layers before the cut, nested ones included.
        audit: Computes features again that were looked up.
        draw: Computes another augmentation of a batch; None if nothing is augmented.
        drawn: The augmentation of the first batch, by which the cut was planned.
        shared: The features that are shared with other trainings; None if none can be.
        settings: What it was made for: flags and dtype policies before the cut.
    """

    frontier: Frontier
    prefix: Prefix
    watch: Watch
    positions: tuple[int, ...]
    place: tuple[Any, ...]
    layers: tuple[keras.Layer, ...]
    audit: Audit
    draw: Prefix | None = None
    drawn: tuple[Any, ...] = ()
    shared: SharedCut | None = None
    settings: tuple[Any, ...] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.settings = self._present_settings()

    def values(self, state: tuple[Any, ...]) -> list[Any] | None:
        """Return the values of the weights in a step of JAX, None elsewhere."""
        return _values(self.positions, state)

    def augmented(self, batch: Batch) -> Batch:
        """Return a batch with what its samples are augmented to this time, if they are."""
        if self.draw is None:
            return batch
        drawn, self.drawn = self.drawn or tuple(self.draw(batch)), ()
        return dataclasses.replace(batch, drawn=drawn)

    def share(self, library: Library, batch: Batch) -> None:
        """Share features through a library, if all that is kept can be named."""
        present = self.values(batch.state) or []
        values = dict(zip(map(id, self.watch.variables), present, strict=bool(present)))
        by_name = isinstance(batch.x, Mapping)
        is_drawn = self.draw is not None
        shared = SharedCut(library, self.prefix, values, by_name=by_name, is_drawn=is_drawn)
        self.shared = shared if shared.is_possible else None

    def is_outdated(self) -> bool:
        """Tell whether something was set by hand that takes effect without a new step.

        Where steps are traced, what is set takes effect with the next trace.
        """
        is_traced = keras.backend.backend() != "torch" and not self.prefix.model.run_eagerly
        return not is_traced and self.settings != self._present_settings()

    def _present_settings(self) -> tuple[Any, ...]:
        layers = tuple(layer.trainable for layer in self.layers)
        variables = tuple(variable.trainable for variable in self.watch.variables)
        return layers, variables, _policies(self.layers)


def search(model: keras.Model, options: Options, kind: Kind = "train") -> Frontier | NoCut:
    """Decide where a model is cut in steps of a kind, as it is frozen now, or why not."""
    if options.views is not None and has_replicas(model):
        detail = "views of a sample are not kept under a strategy of tf.distribute"
        return NoCut(Reason.UNSUPPORTED_STEP, detail)
    trained = {id(v) for v in model.trainable_variables}
    inference = options.inference or kind == "test"
    views = options.views is not None and kind == "train"
    setting = Setting(
        trained, inference=inference, training_writes=not options.inference, views=views
    )
    frontier = find(model, setting)
    if isinstance(frontier, NoCut) or options.inference or not options.auto:
        return frontier
    first = (options.views or 1) if frontier.augmentation else 1  # epochs before any is repeated
    epochs_left = options.epochs_left()
    if epochs_left is not None and epochs_left <= first and options.library is None:
        if first == 1:
            return NoCut(Reason.SHORT_PHASE)
        detail = f"the first {first} views of a sample are new, and the model trains as it is for"
        return NoCut(Reason.SHORT_FOR_VIEWS, f"{detail} {counted(epochs_left, 'epoch')} only")
    if frontier.work >= MIN_WORK and frontier.share >= MIN_SHARE:
        return frontier
    ends = f"; it ends there because {frontier.ended_by.detail}" if frontier.ended_by else ""
    return NoCut(
        Reason.LITTLE_WORK,
        f"the frozen part (up to {frontier.name}{ends}) takes too little time of a step. Pass "
        "PrefixCache(auto=False) to use the cache anyway",
    )


def is_same_place(one: Frontier | NoCut, other: Frontier | NoCut) -> bool:
    """Tell whether the same tensors are kept at two cuts."""
    if isinstance(one, NoCut) or isinstance(other, NoCut):
        return False
    return _ids(one) == _ids(other) and one.augmentation is other.augmentation is None


def make(
    model: keras.Model,
    frontier: Frontier,
    batch: Batch,
    last: CutPlan | None,
    *,
    lowers: bool = False,
) -> CutPlan:
    """Make the plan of a cut.

    Args:
        model: `keras.Model`, compiled.
        frontier: Where it is cut.
        batch: The first `Batch`.
        last: The plan before it. If it cut the model at the same place and no weight has changed
            since, its watch is reused.
        lowers: Bool, as in `Options`. Defaults to False.
    """
    variables = {id(v): v for layer in frontier.layers for v in layer.weights}
    every_variable = (*model.trainable_variables, *model.non_trainable_variables)
    order = {id(v): n for n, v in enumerate(every_variable)}
    positions = tuple(order[i] for i in variables)
    values = _values(positions, batch.state)
    called = [node.operation for cut in frontier.cuts for node in cut.before]
    outer = [x for x in (*frontier.layers, *called) if isinstance(x, keras.Layer)]
    layers = tuple(dict.fromkeys(x for layer in outer for x in every_layer(layer)))
    place = _ids(frontier), _policies(layers)
    is_watched = last is not None and last.place == place and not last.watch.changed(values)
    watch = last.watch if last and is_watched else Watch(list(variables.values()), values)
    draw, start, drawn = None, None, ()
    if frontier.augmentation is not None:
        draw = Prefix(model, frontier.augmentation, training=True)
        drawn = tuple(draw(batch))  # to know its shapes
        masked = tuple(mask for own in draw.masked or [] for mask in own)
        start = Start(frontier.augmentation.cuts[0].kept, masked, tuple(draw.shapes(batch)))
    lowered = lowerable(frontier) if lowers else ()
    training = not frontier.setting.inference
    prefix = Prefix(model, frontier, training, start, lowered)
    return CutPlan(frontier, prefix, watch, positions, place, layers, Audit(prefix), draw, drawn)


def trial(plan: CutPlan, batch: Batch) -> list[Any] | NoCut:
    """Compute a batch, before anything is looked up.

    Returns:
        List of the features of the batch; or `NoCut` if the model can't be cut there.
    """
    try:
        flat = plan.prefix(batch)
    except NotReachedError:
        name = plan.prefix.model.name
        return NoCut(Reason.OWN_CODE, f"a call of model {name!r} does not reach its frozen layers")
    if any(tensor.shape[0] != batch.rows for tensor in flat):
        detail = f"{plan.frontier.name} does not return one row per sample"
        return NoCut(Reason.ACROSS_SAMPLES, detail)
    return flat


def reason_against_step(
    model: keras.Model, kind: Kind, *, custom_step: bool, is_wrapped: bool = False
) -> NoCut | None:
    """Return why a model's train or test step can't be wrapped at all; None if it can.

    Args:
        model: `keras.Model`, compiled.
        kind: "train" or "test".
        custom_step: Bool, whether a step of the user's own may be.
        is_wrapped: Bool, whether the cache is in its steps already. Defaults to False.
    """
    own = own_code(model, kind) - (OURS if is_wrapped else frozenset())
    if has_replicas(model) and not is_mirrored(model):
        strategy = type(model.distribute_strategy).__name__
        detail = f"{strategy} spreads the model; of tf.distribute, MirroredStrategy alone is cut"
    elif has_replicas(model) and own:
        detail = f"model {model.name!r} has {_listed(own)} of its own, on several devices"
    elif processes.count() > 1:
        detail = "several processes train it, of which each would have to cut the same steps"
    elif keras.backend.backend() == "torch" and model.jit_compile:
        detail = "torch.compile makes one function of the whole step"
    else:
        return _reason_against_code(model, own, custom_step)
    return NoCut(Reason.UNSUPPORTED_STEP, detail)


def own_code(model: keras.Model, kind: Kind) -> frozenset[str]:
    """Return which methods that a step of this kind calls are not Keras's."""
    other = "test" if kind == "train" else "train"
    return frozenset(n for n in replaced_methods(model) if f"{other}_" not in n)


def _reason_against_code(
    model: keras.Model, own: frozenset[str], custom_step: bool
) -> NoCut | None:
    if not own or (custom_step and own <= STEP_METHODS):
        return None
    detail = f"model {model.name!r} has {_listed(own)} of its own"
    if own <= STEP_METHODS:
        detail += (
            ". Pass PrefixCache(custom_step=True) if its steps call the model on the batch as it "
            "came, with the model's own weights, and need no gradient of the input or of frozen "
            "weights"
        )
    else:
        detail += f", and {ONLY_GRAPHS}"
    return NoCut(Reason.OWN_CODE, detail)


def _listed(names: Collection[str]) -> str:
    return " and ".join(f"a {name}" for name in sorted(names))


def _values(positions: tuple[int, ...], state: tuple[Any, ...]) -> list[Any] | None:
    if not state:
        return None
    both = [*state[0], *state[1]]
    return [both[n] for n in positions]


def _ids(frontier: Frontier) -> tuple[int, ...]:
    return tuple(id(tensor) for cut in frontier.cuts for tensor in cut.kept)


def _policies(layers: tuple[keras.Layer, ...]) -> tuple[str, ...]:
    return tuple(layer.dtype_policy.name for layer in layers)
