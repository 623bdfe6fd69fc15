"""`suggest`: what to begin with, by how much data there is and how like the pretraining it is."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

import keras
import numpy as np

from keras_freeze.advice.probes import Score, Targets, probe, targets_of
from keras_freeze.advice.suggestion import (
    Advice,
    ProbedGroup,
    Similarity,
    Suggestion,
    code_of,
    division_of,
)
from keras_freeze.checks import ArgumentError, check_count, first_few
from keras_freeze.findings import (
    has_loss_of_numbers,
    of_inputs,
    of_pretrained_part,
    of_task,
    of_text,
    task_of,
)
from keras_freeze.groups import Backbone, Groups, names_of, picture_of
from keras_freeze.hub_tasks import lists_as_arrays
from keras_freeze.keras_internals import random_state
from keras_freeze.measures import group_features
from keras_freeze.model_picture import ModelPicture, check_model, with_initial_values
from keras_freeze.ranking import rank_in
from keras_freeze.reading import (
    all_labels,
    are_of_numbers,
    as_array,
    as_fit_has,
    as_labels,
    check_batched,
    given_batches,
    is_of_numbers,
    is_whole,
)

_OWNER = "suggest"
_LABELS = "be class numbers, a column for each class, or numbers"
#: Fewer samples a class are little data.
FEW = 1000
# As many samples are looked at, and so many at least.
_MAX_SAMPLES, _MIN_SAMPLES = 1024, 20
# Of so many it is seen what reaches the backbone.
_ROWS = 32
# What was learned has to tell so much more than shuffled weights, or higher groups so much less
# than lower ones, to count.
_LEAST = 0.02
_QUADRANTS = "CS231n notes, transfer learning"
_MEASURED = "benchmarks of this package, where CS231n's notes would train the head alone"
_TRANSFER = "Yosinski et al. 2014, arXiv 1411.1792"


def suggest(
    model: keras.Model,
    x: Any = None,
    y: Any = None,
    *,
    n_samples: int | None = None,
    n_classes: int | None = None,
    similarity: Literal["near", "far"] | None = None,
    batch_size: int = 32,
    groups: Groups | None = None,
    backbone: Backbone | None = None,
) -> Suggestion:
    """Suggest how deep to freeze and how to train, before any training.

    Little data (under 1,000 samples a class) and much, near to what the model was pretrained on and
    far from it, are treated apart.

    With data, it is measured how far the pretrained features carry: a linear probe is fitted on
    the outputs of three layer groups, and on those of the same weights shuffled within each tensor,
    which have the same sizes and know nothing. Where the last group's features tell the targets
    best, the data are near; where earlier ones do, far. Where shuffled weights do as well, and
    higher groups tell less than lower ones, pretraining does not help, and that is said. Where no
    probe is better than guessing, or the task is so easy that shuffled weights do it, probes tell
    nothing, and that is said too. Differences count from 0.02 on, where they are larger than
    their standard error. Of at most 1,024 samples the groups are computed
    twice, and five batches get gradients if the model is compiled: less than two epochs over
    these. The model is not changed. A backbone that nothing seems to have trained is said to be
    so, and nothing is frozen or measured.

    It is a beginning. `GradualUnfreeze("auto")` and `tuning.DepthSweep` measure by training.

    Args:
        model: `keras.Model`, built. Compiled, it has its groups ranked by their gradients too.
        x: The inputs as `fit` takes them: arrays, or `tf.data.Dataset`, `PyDataset` or torch
            `DataLoader`, which should be shuffled, since their first batches are looked at; for a
            KerasHub task, images or texts before its preprocessor. Defaults to None.
        y: The targets, for arrays: class numbers, a column for each class, or numbers. Defaults
            to None.
        n_samples: Int, the samples for training. Defaults to those of `x`.
        n_classes: Int, the classes. Defaults to those in `y`.
        similarity: `"near"` or `"far"`, where there are no data, or instead of measuring it.
        batch_size: Int, for arrays. Defaults to 32.
        groups: How to divide the model, as for `layer_groups`. Defaults to automatically.
        backbone: What is pretrained, as for `layer_groups`. Defaults to None, to be found.

    Returns:
        `Suggestion`, a table; its `callback` is ready to run, its `depth` the number of groups.

    Raises:
        TypeError: if `x` is a generator, which could not be read again.
        ValueError: if neither data nor `n_samples` and `similarity` are given, if there are too few
            samples to measure anything (20), or if the targets are of another kind.

    Example:
        >>> model = keras.Sequential(
        ...     [keras.Input((4,)), *(keras.layers.Dense(4, name=name) for name in "abcd")]
        ... )
        >>> _ = model.get_layer("a").bias.assign([0.1, 0.2, 0.3, 0.4])  # as if it were trained
        >>> found = suggest(model, n_samples=90, n_classes=3, similarity="near", backbone="[abc]")
        >>> found.depth, found.is_small
        (1, True)

    References:
        - [CS231n](https://cs231n.github.io/transfer-learning/): the four cases.
        - [Yosinski et al., 2014](https://arxiv.org/abs/1411.1792): lower layers are general, higher
          ones specific.
        - [Raghu et al., 2019](https://arxiv.org/abs/1902.07208): weights of the same sizes without
          what was learned, to see what pretraining adds.
    """
    check_model(_OWNER, model)
    for name, value in (("n_samples", n_samples), ("n_classes", n_classes)):
        if value is not None:
            check_count(_OWNER, name, value)
    check_count(_OWNER, "batch_size", batch_size)
    if similarity is not None and similarity not in ("near", "far"):
        rule = 'be "near" or "far"'
        raise ArgumentError(_OWNER, "similarity", rule, value=similarity)
    picture = with_initial_values(picture_of(model, groups, backbone))
    if len(picture.groups) < 2:
        raise ArgumentError(
            _OWNER,
            "model",
            "have a pretrained part and a head",
            received=f"model {model.name!r}, of a single layer group",
            advice="Pass backbone= to say what is pretrained.",
        )
    probes: tuple[ProbedGroup, ...] = ()
    ranked: Sequence[str] = ()
    first: tuple[Advice, ...] = ()
    found: Similarity | None = similarity
    untrained = of_pretrained_part(picture)
    if untrained is not None:
        found = "untrained"
        first = (Advice("pretrained weights", untrained.cure, untrained.what, "kf.check"),)
    if x is not None:
        with random_state.preserved():
            given, inputs, labels, count = _read(model, x, y, batch_size)
        first += _about_inputs(picture, given, inputs, x)
        targets = _targets(model, labels)
        unfit = _about_labels(model, *all_labels(model, x, y, labels))
        first += unfit
        n_samples = n_samples or count
        n_classes = n_classes or _classes(model, targets)
        if n_samples is None:
            rule = "be given where the data don't know how many they are"
            raise ArgumentError(_OWNER, "n_samples", rule, value=n_samples)
        if found is None:
            known = _known(model, targets, labels, unfit)
            probes = _probed(picture, inputs, known, batch_size)
            ranked = () if unfit else _ranked(picture, x, y, batch_size)
            found = similarity_of(probes, known.guess)
    if n_samples is None or found is None:
        raise ArgumentError(
            _OWNER,
            "",
            "get data, or n_samples= and similarity=",
            received=f"n_samples={n_samples!r}, similarity={similarity!r}",
            advice='Write similarity="near" or "far", whichever the pretraining is.',
        )
    is_small = n_samples < FEW * (n_classes or 1)
    plan = Suggestion(
        model.name,
        _depth(len(picture.groups), found, is_small),
        picture.group_names,
        found,
        is_small,
        (),
        probes,
        names_of(_OWNER, backbone),
        groups,
    )
    advice = (*first, _about_depth(plan), *_about_training(plan, model, ranked))
    return dataclasses.replace(plan, advice=advice)


def _read(model: keras.Model, x: Any, y: Any, batch_size: int) -> tuple[Any, Any, Any, int | None]:
    """Return what is read of some data.

    Returns:
        Some inputs as they were given, samples as arrays as `fit` has them, their labels, and how
        many there are in all, None if unknown.
    """
    batches: list[tuple[Any, Any]] = []
    given, seen = None, 0
    read = {"size": batch_size, "count": _MAX_SAMPLES}
    for data in given_batches(_OWNER, model, x, y, None, **read):
        batch = as_fit_has(_OWNER, model, data)
        check_batched(_OWNER, batch)
        given = keras.utils.unpack_x_y_sample_weight(data)[0] if given is None else given
        batches.append(keras.utils.unpack_x_y_sample_weight(batch)[:2])
        seen += len(keras.tree.flatten(batches[-1][0])[0])
        if seen >= _MAX_SAMPLES:
            break
    if not batches:
        raise ArgumentError(_OWNER, "x", "have samples", value=x)
    inputs, labels = (
        keras.tree.map_structure(
            lambda *parts: (
                np.concatenate([*map(as_array, parts)])[:_MAX_SAMPLES]
                if parts[0] is not None
                else None
            ),
            *parts,
        )
        for parts in zip(*batches, strict=True)
    )
    count = None if is_whole(x) else len(keras.tree.flatten(lists_as_arrays(model, x))[0])
    if count is None:
        size = getattr(x, "num_batches", None)
        size = size if size is not None else _cardinality(x)
        count = size and size * len(keras.tree.flatten(batches[0][0])[0])
    return given, inputs, labels, count


def _targets(model: keras.Model, labels: Any) -> Targets | None:
    """Return what probes are to tell; None where the labels are no array."""
    if not hasattr(labels, "shape"):
        return None
    task = task_of(model)
    if task is not None and task.rank > 2:
        return None  # a class for each position of a sample
    # By a loss of numbers whole numbers are no classes, and by one of classes all are.
    are_numbers = has_loss_of_numbers(model) and np.ndim(labels) == 1
    return targets_of(labels, are_numbers=are_numbers, are_classes=task is not None)


def _classes(model: keras.Model, targets: Targets | None) -> int | None:
    """Return the number of classes, also where a sample has several; None for numbers."""
    if targets is None or targets.count is not None or task_of(model) is None:
        return None if targets is None else targets.count
    return targets.values.shape[1]


def _about_inputs(picture: ModelPicture, given: Any, inputs: Any, x: Any) -> tuple[Advice, ...]:
    """Return what is wrong with the scale of inputs; refuse those that nothing can be told of."""
    found = of_text(picture.model, inputs)
    if not found and are_of_numbers(inputs):
        rows = keras.tree.map_structure(
            lambda leaf: keras.ops.convert_to_tensor(leaf[:_ROWS]), inputs
        )
        found = of_inputs(picture, rows, given, None if is_whole(x) else inputs)
    for one in found:
        if one.name != "preprocessing":
            advice = f"Try: {one.cure}."
            raise ArgumentError(_OWNER, "x", "fit the model", received=one.what, advice=advice)
    return tuple(Advice(one.name, one.cure, one.what, "kf.check") for one in found)


def _about_labels(model: keras.Model, labels: Any, are_all: bool) -> tuple[Advice, ...]:
    """Return what is wrong with labels for the loss that a model is compiled with."""
    if not getattr(model, "compiled", False):
        return ()
    found = of_task(model, as_labels(labels), are_all=are_all)
    return tuple(
        Advice("labels", one.cure, one.what, "kf.check") for one in found if one.name == "labels"
    )


def _cardinality(x: Any) -> int | None:
    """Return how many batches a dataset or loader has; None if it doesn't know."""
    try:
        size = int(x.cardinality()) if hasattr(x, "cardinality") else len(x)
    except TypeError:
        return None
    return size if size > 0 else None


def _known(
    model: keras.Model, targets: Targets | None, labels: Any, unfit: Sequence[Advice]
) -> Targets:
    if targets is not None:
        return targets
    received = f"{type(labels).__name__}, of shape {np.shape(labels)}"
    advice = 'Pass n_samples= and similarity="near" or "far" instead of data.'
    task = task_of(model)
    if task is not None and task.rank > 2:
        rule = "be one class for each sample"
        received = f"a class for each position, shape {np.shape(labels)}"
        raise ArgumentError(_OWNER, "y", rule, received=received, advice=advice)
    if unfit:
        received, advice = unfit[0].reason, f"Try: {unfit[0].value}."
    elif hasattr(labels, "dtype") and not is_of_numbers(labels):
        received, advice = "text or objects", "Write names, y = np.unique(y, return_inverse=True)."
    raise ArgumentError(_OWNER, "y", _LABELS, received=received, advice=advice)


def _probed(
    picture: ModelPicture, inputs: Any, targets: Targets, batch_size: int
) -> tuple[ProbedGroup, ...]:
    """Return what probes make of three pretrained groups, from input to head."""
    if len(targets.values) < _MIN_SAMPLES:
        raise ArgumentError(
            _OWNER,
            "x",
            f"have at least {_MIN_SAMPLES} samples",
            received=f"{len(targets.values)}",
            advice='Pass similarity="near" or "far" instead.',
        )
    own = group_features(picture, inputs, batch_size=batch_size)
    # A model that is built for batches of some size leaves out what does not fill one.
    targets = targets.first(len(next(iter(own.values()), targets.values)))
    rng = np.random.default_rng(0)
    shuffled = [(v, _shuffled(v, rng)) for group in picture.groups[:-1] for v in group.variables]
    other = group_features(picture, inputs, batch_size=batch_size, values=shuffled)
    depths = {n: g.name for n, g in enumerate(picture.groups[:-1], 1) if g.name in own}
    found = []
    for depth in _three([*depths]):
        name = depths[depth]
        scores: list[Score] = [probe(features[name], targets) for features in (own, other)]
        found.append(ProbedGroup(name, depth, *scores))
    if not found:
        raise ArgumentError(
            _OWNER,
            "model",
            "have pretrained groups that put out numbers",
            received=f"model {picture.model.name!r}",
            advice='Pass similarity="near" or "far" instead of data.',
        )
    return tuple(found)


def _three(depths: Sequence[int]) -> list[int]:
    """Return a third, two thirds and the last of some depths.

    Example:
        >>> _three([1, 2, 3, 4, 5]), _three([1, 2])
        ([2, 4, 5], [1, 2])
    """
    places = {math.ceil(len(depths) * part / 3) for part in (1, 2, 3)}
    return [depths[place - 1] for place in sorted(places) if place > 0]


def _shuffled(variable: keras.Variable, rng: np.random.Generator) -> Any:
    value = np.array(keras.ops.convert_to_numpy(variable.value))
    if keras.backend.is_float_dtype(variable.dtype):
        value = rng.permutation(value.ravel()).reshape(value.shape)
    return keras.ops.convert_to_tensor(value, dtype=variable.dtype)


def similarity_of(probes: Sequence[ProbedGroup], guess: float) -> Similarity:
    """Return how near the data are to the pretraining, against the score of guessing."""
    best = max((group.score for group in probes), key=lambda score: score.value)
    blind = max((group.shuffled for group in probes), key=lambda score: score.value)
    top = probes[-1].score
    loses = best.value - top.value > max(top.error, _LEAST)
    # The best of several is above guessing by chance more often than one.
    if best.value <= guess + 3 * best.error:
        return "unclear"
    if best.value - blind.value <= max(math.hypot(best.error, blind.error), _LEAST):
        # Where higher groups tell less, what was learned leads away; else the task is too easy.
        return "none" if loses else "unclear"
    return "far" if loses else "near"


def _depth(groups: int, similarity: Similarity, is_small: bool) -> int:
    """Return how many groups to freeze.

    At group rates shallow depths are the best or cost little, also with little data, as
    `benchmarks/README.md` shows.
    """
    if similarity in ("none", "untrained") or (similarity == "far" and not is_small):
        return 0
    return max((groups - 1) // 4, 1)


def _about_depth(plan: Suggestion) -> Advice:
    frozen, last = plan.groups[: plan.depth], len(plan.groups) - 1
    depth = f"freezes {plan.depth} of {last}: {first_few(frozen)}" if frozen else "freezes nothing"
    value = f"callback = {plan.code}, which {depth}"
    measured = ""
    if plan.probes:
        scores = [f"{g.name} {g.score} (shuffled {g.shuffled})" for g in plan.probes]
        measured = f" Linear probes, by {plan.probes[0].score.measure}: {', '.join(scores)}."
    if plan.similarity == "untrained":
        return Advice(
            "freeze depth",
            value,
            "frozen, values that nothing has trained would stay as they are",
            f"{_TRANSFER}: from three frozen random layers on near guessing",
        )
    if plan.similarity == "none":
        reason = "what the pretrained features tell, shuffled weights tell as well"
        return Advice(
            "freeze depth",
            f"{value}; compare with a model trained from scratch",
            f"{reason}: pretraining does not help here.{measured}",
            "measured; Raghu et al. 2019, arXiv 1902.07208",
        )
    if plan.similarity == "unclear":
        return Advice(
            "freeze depth",
            value,
            "probes can't tell what pretraining brings: features of shuffled weights, or guessing, "
            "do as well. Group rates are safe at any depth; if no probe is better than "
            f"guessing, look at labels and preprocessing, or give more samples.{measured}",
            "measured; Raghu et al. 2019, arXiv 1902.07208",
        )
    reasons = {
        (True, "near"): "the lowest layers are as they should be, and at group rates the others "
        "gain more by training than few samples overfit",
        (True, "far"): "the lowest layers are general, and at group rates the others adapt, also "
        "to few samples",
        (False, "near"): "enough data to train nearly all without overfitting; the lowest layers "
        "are as they should be",
        (False, "far"): "enough data to train all, and pretrained weights are a good start",
    }
    source = f"{_MEASURED if plan.is_small else _QUADRANTS}; {_TRANSFER}"
    reason = reasons[plan.is_small, plan.similarity]
    return Advice("freeze depth", value, f"{reason}.{measured}", source)


def _about_training(plan: Suggestion, model: keras.Model, ranked: Sequence[str]) -> list[Advice]:
    advice = []
    if plan.similarity != "untrained":
        advice.append(
            Advice(
                "measure it",
                'kf.GradualUnfreeze("auto") with validation_data, or kf.tuning.DepthSweep',
                "a rule is a beginning; a race of depths finds the depth in one fit",
                "benchmarks of this package",
            )
        )
    advice.append(
        Advice(
            "learning rate",
            "kf.find_learning_rate(model, x, y, schedule=callback)",
            "the rate matters more than the depth: at one three times too high, training all at "
            "once loses what the backbone knows",
            "Smith 2015, arXiv 1506.01186; benchmarks of this package",
        )
    )
    if plan.rates is not None:
        advice.append(
            Advice(
                "group rates",
                'rates="default", as above',
                "each lower group trains at the rate of the one above it, divided by up to 2.6",
                "Howard and Ruder 2018, arXiv 1801.06146",
            )
        )
    if ranked:
        ranking = f"kf.rank_groups(model, x, y{division_of(plan)}).top({len(ranked)})"
        advice.append(
            Advice(
                "another choice",
                f"callback = {code_of(plan, ranking)}, which trains "
                f"{first_few([*ranked, 'the head'])}",
                "their gradients are largest relative to their weights: the data ask for a change "
                "there. Compare it with the depth above",
                "Lee et al. 2022, arXiv 2210.11466 (kf.rank_groups)",
            )
        )
    decays = "AdamW(rate, weight_decay=0.01, clipnorm=1.0)"
    optimizer = f"keras.optimizers.{decays if plan.is_small else 'Adam(rate, clipnorm=1.0)'}"
    advice.append(
        Advice(
            "clipping",
            optimizer,
            "the first gradients come through a head at initial values and can be large",
            "Pascanu et al. 2013, arXiv 1211.5063",
        )
    )
    if plan.is_small:
        advice.append(
            Advice(
                "weight decay",
                optimizer,
                "few samples are soon learned by heart",
                "Loshchilov and Hutter 2019, arXiv 1711.05101",
            )
        )
    if plan.is_small and _sees_images(model):
        advice.append(
            Advice(
                "augmentation",
                "layers.RandomTranslation(0.1, 0.1) before the backbone, and RandomFlip where a "
                "mirrored image is of the same class, with kf.PrefixCache(views=8)",
                "more views of few images; kept, they cost little",
                "benchmarks of this package",
            )
        )
    return advice


def _sees_images(model: keras.Model) -> bool:
    inputs = keras.tree.flatten(getattr(model, "inputs", None) or [])
    return len(inputs) == 1 and len(inputs[0].shape) == 4


def _ranked(picture: ModelPicture, x: Any, y: Any, batch_size: int) -> tuple[str, ...]:
    """Return the pretrained groups with the largest relative gradients; none if it isn't known."""
    model = picture.model
    if not getattr(model, "compiled", False) or model.loss is None:
        return ()
    try:
        return rank_in(picture, x, y, None, batch_size, 5).ranked()[:2]
    except ValueError:  # a step of the user's own, or gradients that are not finite
        return ()
