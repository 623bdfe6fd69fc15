"""Wrong arguments: for each the exception, and the text that says what to do about it."""

import re

import keras
import numpy as np
import pytest
from pretrained_models import as_if_trained

import keras_freeze as kf
from keras_freeze import explain, policies, schedules, tuning
from keras_freeze.schedules import FreezeSchedule, Phase, multipliers


def model():
    layers = [keras.Input((4,)), *(keras.layers.Dense(3, name=n) for n in ("low", "mid", "top"))]
    return as_if_trained(keras.Sequential(layers, name="net"))


def compiled():
    net = model()
    net.compile("sgd", "mse")
    return net


def frozen():
    net = compiled()
    net.trainable = False
    net.compile("sgd", "mse")
    return net


def in_order(*parts):
    """Return a pattern that finds these texts in this order, whatever stands between."""
    return "(?s)" + ".*".join(map(re.escape, parts))


def of_batches(size):
    return keras.Sequential([keras.Input((4,), batch_size=size), keras.layers.Dense(3)])


def unbuilt():
    return keras.Sequential([keras.layers.Dense(3)], name="raw")


def fit(callback, epochs=3):
    net = compiled()
    net.fit(np.ones((4, 4)), np.ones((4, 3)), epochs=epochs, verbose=0, callbacks=[callback])


GROUPS = {"low": "low", "mid": "mid", "top": "top"}
NOT_A_POLICY = "A freeze policy must be a keras_freeze.policies.FreezePolicy or a callable"

# What is wrong: (the call, its exception, what the message says, in this order).
CASES = {
    # freeze and unfreeze: which part
    "freeze nothing named of a compiled model": (
        lambda: kf.freeze(compiled()),
        ValueError,
        [
            "which part of a compiled model",
            "Received: model='net' and no part of it.",
            'matching="."',
        ],
    ),
    "freeze a number": (
        lambda: kf.freeze(model(), 10),
        TypeError,
        ["freeze(policy=...) must be a freeze policy, or a layer", "10,", "first=10", "groups=10"],
    ),
    "unfreeze a number": (
        lambda: kf.unfreeze(model(), 10),
        TypeError,
        ["unfreeze(policy=...) must be a freeze policy, or a layer", "first=10", "groups=10"],
    ),
    "freeze two ways": (
        lambda: kf.freeze(model(), first=1, matching="low"),
        ValueError,
        ["freeze(...) must get at most one of", "Received: first= and matching=."],
    ),
    "unfreeze_only of nothing": (
        lambda: kf.unfreeze_only(model(), weights="bia"),
        ValueError,
        ["unfreeze_only(weights=...) must name variables of the layers chosen.", "Did you mean"],
    ),
    "unfreeze policy and more": (
        lambda: kf.unfreeze(model(), policies.FreezeFirst(1), groups=1),
        ValueError,
        ["unfreeze(...) must get at most one of", "Received: a policy and groups=.", "Combine"],
    ),
    "freeze no model": (
        lambda: kf.freeze("net", first=1),
        TypeError,
        ["freeze(model=...) must be a keras.Model.", "Received: model='net'."],
    ),
    "unfreeze a layer": (
        lambda: kf.unfreeze(keras.layers.Dense(3, name="d"), first=1),
        TypeError,
        ["unfreeze(model=...) must be a keras.Model.", "Received: model=<Dense name=d"],
    ),
    "freeze unbuilt": (
        lambda: kf.freeze(unbuilt(), first=1),
        ValueError,
        ["freeze(model=...) must be built.", "model='raw'", "Call model.build(input_shape)"],
    ),
    "first too many": (
        lambda: kf.freeze(model(), first=9),
        ValueError,
        ["freeze(first=...) must be within the 3 layers of model 'net'", "Received: first=9."],
    ),
    "first too few": (
        lambda: kf.unfreeze(model(), first=-4),
        ValueError,
        ["unfreeze(first=...) must be within the 3 layers", "Received: first=-4."],
    ),
    "first no int": (
        lambda: kf.freeze(model(), first="low"),
        TypeError,
        ["freeze(first=...) must be an int.", "Received: first='low'.", "groups= or before="],
    ),
    "first bool": (
        lambda: kf.freeze(model(), first=True),
        TypeError,
        ["freeze(first=...) must be an int.", "Received: first=True."],
    ),
    "groups too many": (
        lambda: kf.freeze(model(), groups=12),
        ValueError,
        ["freeze(groups=...) must be within the", "layer groups of model 'net'", "groups=12."],
    ),
    "groups unknown": (
        lambda: kf.freeze(model(), groups=["haed"]),
        ValueError,
        ["freeze(groups=...) must name", "Received: 'haed'.", "Did you mean 'head'?", "Available"],
    ),
    "groups float": (
        lambda: kf.freeze(model(), groups=1.5),
        TypeError,
        ["freeze(groups=...) must be an int, a group's name or a sequence", "groups=1.5."],
    ),
    "groups empty": (
        lambda: kf.freeze(model(), groups=[]),
        ValueError,
        ["freeze(groups=...) must name at least one group.", "Received: groups=[].", "groups=0"],
    ),
    "before unknown": (
        lambda: kf.freeze(model(), before="medium"),
        ValueError,
        ["freeze(before=...) must name a layer or group of model 'net'", "before='medium'."],
    ),
    "before misspelt": (
        lambda: kf.freeze(model(), before="mld"),
        ValueError,
        ["Received: before='mld'.", "Did you mean 'mid'?", "Layers: low, mid, top."],
    ),
    "before too many": (
        lambda: kf.freeze(model(), before=7),
        ValueError,
        ["freeze(before=...) must be within the", "Received: before=7."],
    ),
    "before float": (
        lambda: kf.unfreeze(model(), before=0.5),
        TypeError,
        ["unfreeze(before=...) must be the name of a layer or group, or an int.", "before=0.5."],
    ),
    "layers a string": (
        lambda: kf.freeze(model(), layers="low"),
        TypeError,
        ["freeze(layers=...) must be a sequence", "layers='low'.", "layers=[...] even for one"],
    ),
    "layers an object": (
        lambda: kf.freeze(model(), layers=[keras.layers.Dense(1, name="d")]),
        TypeError,
        ["freeze(layers=...) must hold indices and names only.", "<Dense name=d", "its name"],
    ),
    "layers unknown": (
        lambda: kf.freeze(model(), layers=["lwo"]),
        ValueError,
        ["freeze(layers=...) must name layers of model 'net'.", "'lwo'.", "Did you mean 'low'?"],
    ),
    "layers out of range": (
        lambda: kf.freeze(model(), layers=[0, 3]),
        ValueError,
        ["freeze(layers=...) must hold indices within the 3 layers", "Received: 3."],
    ),
    "layers empty": (
        lambda: kf.freeze(model(), layers=[]),
        ValueError,
        ["freeze(layers=...) must hold at least one index or name.", "layers=[].", "first=0"],
    ),
    "matching nothing": (
        lambda: kf.freeze(model(), matching="topp"),
        ValueError,
        [
            "freeze(matching=...) must match a layer or variable of model 'net'.",
            "Received: matching='topp'.",
            "Did you mean 'top'",
            "Layers: low, mid, top.",
        ],
    ),
    "matching invalid": (
        lambda: kf.freeze(model(), matching="low("),
        ValueError,
        ["freeze(matching=...) must be a valid regular expression.", "'low('", "re.escape"],
    ),
    "matching compiled": (
        lambda: kf.freeze(model(), matching=re.compile("low")),
        TypeError,
        ["freeze(matching=...) must be a str", "Received: matching=re.compile('low')."],
    ),
    "matching empty": (
        lambda: kf.unfreeze(model(), matching=""),
        ValueError,
        ["unfreeze(matching=...) must not be empty.", 'To match everything, write ".".'],
    ),
    "freeze a name": (
        lambda: kf.freeze(model(), "low"),
        TypeError,
        [NOT_A_POLICY, "Received: 'low'.", "freeze(model, layers=[...])"],
    ),
    "freeze a layer of another model": (
        lambda: kf.freeze(model(), model().layers[0]),
        ValueError,
        ["freeze(policy=...) must be a part of the model", "'low', of which model 'net' has none"],
    ),
    "freeze a class": (
        lambda: kf.freeze(model(), policies.FreezeFirst),
        TypeError,
        [NOT_A_POLICY, "Received: <class"],
    ),
    # freeze and unfreeze: what of it
    "weights unknown": (
        lambda: kf.freeze(model(), first=1, weights="kernal"),
        ValueError,
        ["freeze(weights=...) must name variables", "'kernal'.", "Did you mean 'kernel'?", "bias"],
    ),
    "weights not there": (
        lambda: kf.unfreeze(model(), first=1, weights=["kernel", "gamma"]),
        ValueError,
        ["unfreeze(weights=...) must name variables", "weights='gamma'.", "bias, kernel."],
    ),
    "weights of nothing": (
        lambda: kf.freeze(model(), first=0, weights="kernel"),
        ValueError,
        ["freeze(weights=...) must name variables of the layers chosen.", "Available: none."],
    ),
    "weights empty": (
        lambda: kf.freeze(model(), first=1, weights=[]),
        TypeError,
        ['freeze(weights=...) must be "all", or a name or names', "Received: weights=[]."],
    ),
    "weights int": (
        lambda: kf.freeze(model(), first=1, weights=1),
        TypeError,
        ['freeze(weights=...) must be "all"', "Received: weights=1."],
    ),
    "freeze batch_norm": (
        lambda: kf.freeze(model(), first=1, batch_norm="freeze"),
        ValueError,
        ["freeze(batch_norm=...) must be one of frozen, follow, statistics, train.", "'freeze'."],
    ),
    "unfreeze batch_norm": (
        lambda: kf.unfreeze(model(), first=1, batch_norm=True),
        ValueError,
        ["unfreeze(batch_norm=...) must be one of frozen, follow", "Received: batch_norm=True."],
    ),
    "freeze batch_norm unhashable": (
        lambda: kf.freeze(model(), first=1, batch_norm=["frozen"]),
        ValueError,
        ["freeze(batch_norm=...) must be one of", "Received: batch_norm=['frozen']."],
    ),
    # recompile
    "recompile uncompiled": (
        lambda: kf.recompile(model()),
        ValueError,
        ["recompile(model=...) must get a compiled model.", "model='net'", "model.compile("],
    ),
    "recompile no model": (
        lambda: kf.recompile("net"),
        ValueError,
        ["recompile(model=...) must get a compiled model.", "Received: model='net'."],
    ),
    # layer_groups
    "groups of no model": (
        lambda: kf.layer_groups("net"),
        TypeError,
        ["layer_groups(model=...) must be a keras.Model.", "Received: model='net'."],
    ),
    "groups of unbuilt": (
        lambda: kf.layer_groups(unbuilt()),
        ValueError,
        ["layer_groups(model=...) must be built.", "model='raw'", "Call model.build(input_shape)"],
    ),
    "groups of no weights": (
        lambda: kf.layer_groups(keras.Sequential([keras.Input((4,)), keras.layers.ReLU()])),
        ValueError,
        ["layer_groups(model=...) must have weights.", "nothing to freeze"],
    ),
    "groups incomplete": (
        lambda: kf.layer_groups(model(), {"a": "low"}),
        ValueError,
        ["layer_groups(groups=...) must cover every layer with weights.", "mid, top"],
    ),
    "groups overlapping": (
        lambda: kf.layer_groups(model(), {"a": "low|mid", "b": "mid|top"}),
        ValueError,
        ["layer_groups(groups=...) must put each layer", "'a' and 'b'", "'mid'"],
    ),
    "groups unmatched": (
        lambda: kf.layer_groups(model(), ["low", "mdi", "top"]),
        ValueError,
        ["layer_groups(groups=...) must match layers with weights.", "'mdi'", "Did you mean 'mid'"],
    ),
    "groups an int": (
        lambda: kf.layer_groups(model(), 3),
        (TypeError, ValueError),
        ["layer_groups(groups=...) must be a mapping", "Received: groups=3."],
    ),
    # parameter_report
    "report by": (
        lambda: kf.parameter_report(model(), by="weight"),
        ValueError,
        ['parameter_report(by=...) must be "group" or "layer".', "Received: by='weight'."],
    ),
    "report unbuilt": (
        lambda: kf.parameter_report(unbuilt(), by="layer"),
        ValueError,
        ["parameter_report(model=...) must be built.", "model='raw'"],
    ),
    "report no model": (
        lambda: kf.parameter_report(None),
        TypeError,
        ["parameter_report(model=...) must be a keras.Model.", "Received: model=None."],
    ),
    "report by layer with groups": (
        lambda: kf.parameter_report(model(), by="layer", groups=GROUPS),
        ValueError,
        ['parameter_report(groups=...) must be None where by="layer".', "Leave out one"],
    ),
    "report batch size": (
        lambda: kf.parameter_report(model(), batch_size=0),
        ValueError,
        ["parameter_report(batch_size=...) must be a positive integer.", "batch_size=0"],
    ),
    "report fixed batch size": (
        lambda: kf.parameter_report(of_batches(8), batch_size=32),
        ValueError,
        ["parameter_report(batch_size=...) must be 8, the batch size that", "batch_size=32."],
    ),
    "report measured alone": (
        lambda: kf.parameter_report(compiled(), measured=True),
        ValueError,
        ["parameter_report(measured=...) must be False without a batch size.", "Pass batch_size="],
    ),
    # rank_groups
    "rank batches": (
        lambda: kf.rank_groups(compiled(), np.ones((4, 4)), np.ones((4, 3)), batches=0),
        ValueError,
        ["rank_groups(batches=...)", "Received: batches=0."],
    ),
    "rank without targets": (
        lambda: kf.rank_groups(compiled(), np.ones((4, 4))),
        ValueError,
        ["rank_groups(y=...) must be given where x are arrays.", "Received: y=None."],
    ),
    "rank no model": (
        lambda: kf.rank_groups(None, np.ones((4, 4))),
        TypeError,
        ["rank_groups(model=...) must be a keras.Model.", "Received: model=None."],
    ),
    # check
    "check a schedule that is no callback": (
        lambda: kf.check(compiled(), schedule="even"),
        TypeError,
        ["check(schedule=...) must be a callback such as GradualUnfreeze().", "'even'"],
    ),
    "check a schedule and a backbone": (
        lambda: kf.check(compiled(), schedule=kf.GradualUnfreeze(), backbone="low"),
        ValueError,
        ["check(backbone=...) must be left out where there is a schedule.", "to the callback"],
    ),
    "check a generator": (
        lambda: kf.check(compiled(), iter([np.ones((4, 4))])),
        TypeError,
        ["check(x=...) must be data that can be read again"],
    ),
    "check no samples": (
        lambda: kf.check(compiled(), np.ones((0, 4))),
        ValueError,
        ["check(x=...) must have samples."],
    ),
    "check batches of none": (
        lambda: kf.check(compiled(), batch_size=0),
        ValueError,
        ["check(batch_size=...) must be a positive integer. Received: batch_size=0."],
    ),
    # suggest
    "suggest by inputs that are all the same": (
        lambda: kf.suggest(compiled(), np.ones((32, 4)), np.arange(32) % 3),
        ValueError,
        ["suggest(x=...) must fit the model. Received: All 32 samples are the same", "Try: x[0]"],
    ),
    "suggest by inputs that are not finite": (
        lambda: kf.suggest(compiled(), np.full((32, 4), np.nan), np.arange(32) % 3),
        ValueError,
        ["suggest(x=...) must fit the model. Received: Inputs contain NaN", "np.nan_to_num"],
    ),
    "suggest by inputs of another shape": (
        lambda: kf.suggest(compiled(), np.ones((32, 5)), np.arange(32) % 3),
        ValueError,
        ["suggest(x=...) must fit the model.", "has the shape (None, 5)"],
    ),
    "suggest by text": (
        lambda: kf.suggest(compiled(), np.full((32, 4), "a"), np.arange(32) % 3),
        ValueError,
        ["suggest(x=...) must fit the model. Received: Inputs are text, such as 'a'"],
    ),
    "a preview of no epochs": (
        lambda: kf.GradualUnfreeze().preview(compiled(), 0),
        ValueError,
        ["preview(epochs=...) must be a positive integer. Received: epochs=0."],
    ),
    "a preview of a part of an epoch": (
        lambda: kf.FreezeScheduler({0: 1}).preview(compiled(), 2.5),
        ValueError,
        ["preview(epochs=...) must be a positive integer. Received: epochs=2.5."],
    ),
    "a rate for a model in which nothing trains": (
        lambda: kf.find_learning_rate(frozen(), np.ones((32, 4)), np.arange(32) % 2),
        ValueError,
        ["find_learning_rate(model=...) must have something that trains.", "kf.unfreeze(model"],
    ),
    "a rate without labels": (
        lambda: kf.find_learning_rate(compiled(), np.ones((32, 4))),
        ValueError,
        ["find_learning_rate(y=...) must be given where x are arrays.", "Received: y=None."],
    ),
    "a rate by no samples": (
        lambda: kf.find_learning_rate(compiled(), np.ones((0, 4)), np.ones(0)),
        ValueError,
        ["find_learning_rate(x=...) must have samples."],
    ),
    "suggest without data or numbers": (
        lambda: kf.suggest(compiled()),
        ValueError,
        ["suggest(...) must get data, or n_samples= and similarity=.", 'similarity="near"'],
    ),
    "suggest a third similarity": (
        lambda: kf.suggest(compiled(), n_samples=3, similarity="high"),
        ValueError,
        ['suggest(similarity=...) must be "near" or "far". Received: similarity=\'high\'.'],
    ),
    "suggest by no samples": (
        lambda: kf.suggest(compiled(), n_samples=0, similarity="near"),
        ValueError,
        ["suggest(n_samples=...) must be a positive integer. Received: n_samples=0."],
    ),
    "suggest by too few samples": (
        lambda: kf.suggest(compiled(), np.ones((8, 4)), np.arange(8) % 2),
        ValueError,
        ["suggest(x=...) must have at least 20 samples. Received: 8."],
    ),
    "suggest by labels of no known kind": (
        lambda: kf.suggest(compiled(), np.eye(32, 4), np.full((32, 2, 2), 0.5)),
        ValueError,
        [
            "suggest(y=...) must be class numbers, a column for each class, or numbers.",
            "of shape (32, 2, 2)",
        ],
    ),
    "suggest by labels that are text": (
        lambda: kf.suggest(compiled(), np.eye(32, 4), np.array(["a", "b"] * 16)),
        ValueError,
        ["suggest(y=...)", "text, such as 'a'", "names, y = np.unique(y, return_inverse=True)."],
    ),
    "suggest by labels that are text without a loss": (
        lambda: kf.suggest(model(), np.eye(32, 4), np.array(["a", "b"] * 16)),
        ValueError,
        ["Received: text or objects.", "Write names, y = np.unique(y, return_inverse=True)."],
    ),
    "suggest by a generator": (
        lambda: kf.suggest(compiled(), iter([np.ones((4, 4))])),
        TypeError,
        ["suggest(x=...) must be data that can be read again"],
    ),
    "explain a sample without its axis": (
        lambda: kf.explain.activations(compiled(), np.ones(4), "low"),
        ValueError,
        ["explain.activations(x=...) must have 2 axes, the first for samples.", "x[None]"],
    ),
    # find_learning_rate
    "no model to find a rate for": (
        lambda: kf.find_learning_rate(None, np.ones((4, 4))),
        TypeError,
        ["find_learning_rate(model=...) must be a keras.Model.", "Received: model=None."],
    ),
    "few steps": (
        lambda: kf.find_learning_rate(compiled(), np.ones((4, 4)), np.ones((4, 3)), steps=2),
        ValueError,
        ["find_learning_rate(steps=...) must be an int of at least 20", "Received: steps=2."],
    ),
    # explain
    "activations of an unknown layer": (
        lambda: explain.activations(model(), np.ones((4, 4)), "lo"),
        ValueError,
        ["explain.activations(layer=...) must be a layer of model 'net'.", "Did you mean 'low'?"],
    ),
    "heat map of a table": (
        lambda: explain.heatmap(model(), np.ones((4, 4))),
        ValueError,
        ["explain.heatmap(x=...) must have positions", "float64 of shape (4, 4)."],
    ),
    "maximisation without images": (
        lambda: explain.activation_maximisation(model(), "low"),
        ValueError,
        ["activation_maximisation(model=...) must be Functional or Sequential", "(None, 4)"],
    ),
    "similarity to no model": (
        lambda: explain.similarity(model(), None, np.ones((4, 4))),
        TypeError,
        ["explain.similarity(reference=...) must be a model, or weights", "reference=None."],
    ),
    # policies
    "FreezeFirst": (
        lambda: policies.FreezeFirst(2.0),
        TypeError,
        ["FreezeFirst(count=...) must be an int.", "Received: count=2.0."],
    ),
    "FreezeFirst too many": (
        lambda: policies.FreezeFirst(4).select(model()),
        ValueError,
        ["FreezeFirst(count=...) must be within the 3 layers of model 'net'", "count=4."],
    ),
    "FreezeGroups": (
        lambda: policies.FreezeGroups(["low", 1]),
        TypeError,
        ["FreezeGroups(groups=...) must be an int, a group's name", "groups=['low', 1]."],
    ),
    "FreezeGroups unknown": (
        lambda: policies.FreezeGroups("topp", GROUPS).select(model()),
        ValueError,
        ["FreezeGroups(groups=...) must name layer groups", "'topp'.", "Did you mean 'top'?"],
    ),
    "FreezeBefore": (
        lambda: policies.FreezeBefore(None),
        TypeError,
        ["FreezeBefore(cut=...) must be the name of a layer or group", "Received: cut=None."],
    ),
    "FreezeLayers": (
        lambda: policies.FreezeLayers([True]),
        TypeError,
        ["FreezeLayers(layers=...) must hold indices and names only.", "Received: True."],
    ),
    "FreezeMatching": (
        lambda: policies.FreezeMatching("*low"),
        ValueError,
        ["FreezeMatching(pattern=...) must be a valid regular expression.", "nothing to repeat"],
    ),
    "FreezeWeights names": (
        lambda: policies.FreezeWeights([]),
        TypeError,
        ["FreezeWeights(names=...) must be a name or names of variables", "Received: names=[]."],
    ),
    "FreezeWeights unknown": (
        lambda: policies.FreezeWeights("kernle").select(model()),
        ValueError,
        ["FreezeWeights(names=...) must name variables", "'kernle'.", "Did you mean 'kernel'?"],
    ),
    "two entries for one group": (
        lambda: kf.freeze(model(), groups=["low", "lo."]),
        ValueError,
        ["freeze(groups=...) must name each group once.", "'low' and 'lo.'", "Remove one"],
    ),
    "two rates for one group": (
        lambda: multipliers({"low": 1.0, "lo.": 2.0}, ["low", "top"]),
        ValueError,
        ["multipliers(rates=...) must name each group once.", "'low' and 'lo.'"],
    ),
    "FreezeWhere no callable": (
        lambda: policies.FreezeWhere("low"),
        TypeError,
        ["FreezeWhere(predicate=...) must be a callable (variable, layer) -> bool.", "'low'."],
    ),
    "FreezeWhere one argument": (
        lambda: policies.FreezeWhere(lambda variable: True),
        TypeError,
        ["FreezeWhere(predicate=...) must be a callable (variable, layer) -> bool.", "<lambda>"],
    ),
    "FreezeWhere without return": (
        lambda: kf.freeze(model(), lambda variable, layer: None),
        TypeError,
        ["FreezeWhere(predicate=...) must return True or False.", "None for variable", "kernel"],
    ),
    "or": (
        lambda: policies.FreezeFirst(1) | "top",
        TypeError,
        [NOT_A_POLICY, "Received: 'top'.", "FreezeLayers([...])"],
    ),
    "and": (
        lambda: policies.FreezeFirst(1) & 1,
        TypeError,
        [NOT_A_POLICY, "Received: 1."],
    ),
    "as_policy": (
        lambda: policies.as_policy(["low"]),
        TypeError,
        [NOT_A_POLICY, "Received: ['low']."],
    ),
    # schedules
    "Phase frozen": (
        lambda: Phase(1.5),
        TypeError,
        ["Phase(frozen=...) must be an int (layer groups from the input)", "frozen=1.5."],
    ),
    "Phase frozen class": (
        lambda: Phase(policies.FreezeFirst),
        TypeError,
        ["Phase(frozen=...) must be", "a freeze policy or callable", "Received: frozen=<class"],
    ),
    "Phase rates": (
        lambda: Phase("low", rates=0),
        ValueError,
        [
            'Phase(rates=...) must be "default", "auto", None, a positive factor',
            "rates=0.",
            "freeze it",
        ],
    ),
    "Phase rates below one": (
        lambda: Phase("low", rates=0.5),
        ValueError,
        ["Phase(rates=...) must be a factor of at least 1", "rates=0.5.", "Did you mean 2?"],
    ),
    "Phase rates nan": (
        lambda: Phase("low", rates={"top": float("nan")}),
        ValueError,
        ["Phase(rates=...) must be", "positive multiplier.", "nan"],
    ),
    "Phase batch_norm": (
        lambda: Phase("low", batch_norm=True),
        ValueError,
        ["Phase(batch_norm=...) must be one of frozen, follow", "Received: batch_norm=True."],
    ),
    "FreezeSchedule no mapping": (
        lambda: FreezeSchedule("block1"),
        TypeError,
        ["FreezeSchedule(phases=...) must be a sequence of Phase, or a mapping", "'block1'."],
    ),
    "Phase weights": (
        lambda: Phase("low", weights=3),
        TypeError,
        ['Phase(weights=...) must be "all", or a name or names', "Received: weights=3."],
    ),
    "Phase until": (
        lambda: Phase("low", until="soon"),
        TypeError,
        ["Phase(until=...) must be a trigger of", "an int (epochs)", "Received: until='soon'."],
    ),
    "Phase until no epochs": (
        lambda: Phase("low", until=0),
        ValueError,
        ["Phase(until=...) must be a positive integer.", "Received: until=0."],
    ),
    "Phase curve": (
        lambda: Phase("low", curve="cosine"),
        TypeError,
        ["Phase(curve=...) must be a keras_freeze.schedules.Curve or None.", "'cosine'."],
    ),
    "Phase restore_best": (
        lambda: Phase("low", restore_best=1.0),
        TypeError,
        ["Phase(restore_best=...) must be True, False or the name of a metric.", "1.0."],
    ),
    "Phase restore_best by what": (
        lambda: Phase("low", restore_best="val_quality"),
        ValueError,
        ["Phase(restore_best=...) must name a metric whose name", "'val_quality'."],
    ),
    "AfterSteps": (
        lambda: schedules.AfterSteps(2.5),
        ValueError,
        ["AfterSteps(steps=...) must be a positive integer.", "Received: steps=2.5."],
    ),
    "OnPlateau monitor": (
        lambda: schedules.OnPlateau(3),
        ValueError,
        ["OnPlateau(monitor=...) must be the name of a metric.", "Received: monitor=3."],
    ),
    "OnPlateau patience": (
        lambda: schedules.OnPlateau(patience=0),
        ValueError,
        ["OnPlateau(patience=...) must be a positive integer.", "patience=0."],
    ),
    "OnPlateau cooldown": (
        lambda: schedules.OnPlateau(cooldown=-1),
        ValueError,
        ["OnPlateau(cooldown=...) must be a non-negative integer.", "cooldown=-1."],
    ),
    "OnPlateau min_delta": (
        lambda: schedules.OnPlateau(min_delta=float("nan")),
        ValueError,
        ["OnPlateau(min_delta=...) must be a non-negative number.", "nan."],
    ),
    "OnPlateau mode": (
        lambda: schedules.OnPlateau("loss", mode="lowest"),
        ValueError,
        ['OnPlateau(mode=...) must be "auto", "min" or "max".', "'lowest'."],
    ),
    "OnPlateau mode unknown": (
        lambda: schedules.OnPlateau("val_quality"),
        ValueError,
        ['OnPlateau(mode=...) must be "min" or "max" where', "val_quality"],
    ),
    "AutoFreeze intervals": (
        lambda: kf.AutoFreeze(intervals=1),
        ValueError,
        ["AutoFreeze(intervals=...) must be at least 2.", "intervals=1."],
    ),
    "AutoFreeze percentile": (
        lambda: kf.AutoFreeze(percentile=101),
        ValueError,
        ["AutoFreeze(percentile=...) must be from 0 to 100.", "percentile=101."],
    ),
    "AutoFreeze criterion": (
        lambda: kf.AutoFreeze(criterion="loss"),
        ValueError,
        ["AutoFreeze(criterion=...) must be", '"svcca"', "criterion='loss'."],
    ),
    "AutoFreeze probe": (
        lambda: kf.AutoFreeze(criterion="cka"),
        ValueError,
        ["AutoFreeze(probe=...) must be given", "probe=x_train[:256]"],
    ),
    "AutoFreeze tolerance": (
        lambda: kf.AutoFreeze(tolerance=0),
        ValueError,
        ["AutoFreeze(tolerance=...) must be positive, or None.", "tolerance=0."],
    ),
    "AutoFreeze monitor": (
        lambda: kf.AutoFreeze(tolerance=1, monitor="val_quality"),
        ValueError,
        ["AutoFreeze(mode=...) must be", "monitor='val_quality'"],
    ),
    "AutoFreeze min_trainable": (
        lambda: kf.AutoFreeze(min_trainable=0),
        ValueError,
        ["AutoFreeze(min_trainable=...) must be a positive integer.", "min_trainable=0."],
    ),
    "AutoFreeze warm_up": (
        lambda: kf.AutoFreeze(warm_up=-1),
        ValueError,
        ["AutoFreeze(warm_up=...) must be a non-negative integer.", "warm_up=-1."],
    ),
    "AutoFreeze reference": (
        lambda: kf.AutoFreeze(criterion="cka", probe=np.ones((4, 2)), reference="last"),
        ValueError,
        ['AutoFreeze(reference=...) must be "interval" or "pretrained".', "reference='last'."],
    ),
    "ProgressiveFreeze first": (
        lambda: kf.ProgressiveFreeze(first=0),
        ValueError,
        ["ProgressiveFreeze(first=...) must be above 0, at most 1.", "first=0."],
    ),
    "ProgressiveFreeze rates": (
        lambda: kf.ProgressiveFreeze(rates="auto"),
        ValueError,
        ['ProgressiveFreeze(rates=...) must be other than "auto"', "rates='auto'."],
    ),
    "GradualUnfreeze log_details": (
        lambda: kf.GradualUnfreeze(log_details=["gradient"]),
        ValueError,
        ["GradualUnfreeze(log_details=...) must be True, False, or some of", "['gradient']"],
    ),
    "ProgressiveFreeze shape": (
        lambda: kf.ProgressiveFreeze(shape="square"),
        ValueError,
        ['ProgressiveFreeze(shape=...) must be "cubic" or "linear".', "shape='square'."],
    ),
    "Annealing lives": (
        lambda: schedules.Annealing({"low": 1.5}),
        ValueError,
        ["Annealing(lives=...) must map groups to numbers above 0, at most 1.", "1.5"],
    ),
    "TopGradient k": (
        lambda: schedules.TopGradient(0, np.ones((4, 2))),
        ValueError,
        ["TopGradient(k=...) must be a positive integer.", "k=0."],
    ),
    "TopGradient by": (
        lambda: schedules.TopGradient(1, np.ones((4, 2)), by="norm"),
        ValueError,
        ['TopGradient(by=...) must be "relative_gradient_norm" or', "by='norm'."],
    ),
    "Auto method": (
        lambda: schedules.Auto("halving"),
        ValueError,
        ['Auto(method=...) must be "race" or "sequence".', "'halving'."],
    ),
    "Auto then": (
        lambda: schedules.Auto(then="end"),
        ValueError,
        ['Auto(then=...) must be "continue" or "stop".', "'end'."],
    ),
    "Auto monitor": (
        lambda: schedules.Auto(monitor=None),
        ValueError,
        ["Auto(monitor=...) must be the name of a metric.", "Received: monitor=None."],
    ),
    "Auto mode": (
        lambda: schedules.Auto(monitor="val_quality"),
        ValueError,
        ['Auto(mode=...) must be "min" or "max" where', "val_quality"],
    ),
    "Auto min_gain": (
        lambda: schedules.Auto(min_gain=-0.1),
        ValueError,
        ["Auto(min_gain=...) must be a non-negative number.", "min_gain=-0.1."],
    ),
    "Auto budget": (
        lambda: schedules.Auto(budget=1.0),
        ValueError,
        ["Auto(budget=...) must be between 0 and 1.", "budget=1.0."],
    ),
    "Auto stall": (
        lambda: schedules.Auto(stall=0),
        ValueError,
        ["Auto(stall=...) must be a positive integer.", "stall=0."],
    ),
    "Auto patience": (
        lambda: schedules.Auto(patience=0),
        ValueError,
        ["Auto(patience=...) must be a positive integer.", "patience=0."],
    ),
    "When condition": (
        lambda: schedules.When("loss < 1"),
        TypeError,
        ["When(condition=...) must be a callable (logs) -> bool.", "'loss < 1'."],
    ),
    "When arguments": (
        lambda: schedules.When(lambda: True),
        TypeError,
        ["When(condition=...) must take one argument, the logs of the epoch."],
    ),
    "AnyOf": (
        lambda: schedules.AnyOf(()),
        ValueError,
        ["AnyOf(triggers=...) must be a sequence of triggers.", "()."],
    ),
    "AllOf": (
        lambda: schedules.AllOf(schedules.AfterEpochs(1)),
        ValueError,
        ["AllOf(triggers=...) must be a sequence of triggers.", "AfterEpochs(epochs=1)."],
    ),
    "Warmup": (
        lambda: schedules.Warmup(0),
        ValueError,
        ["Warmup(steps=...) must be a positive integer.", "steps=0."],
    ),
    "Warmup without an end": (
        lambda: schedules.Warmup(None),
        ValueError,
        ["Warmup(steps=...) must be a positive integer.", "shorter than its phase"],
    ),
    "SlantedTriangular cut": (
        lambda: schedules.SlantedTriangular(cut_fraction=1.0),
        ValueError,
        ["SlantedTriangular(cut_fraction=...) must be between 0 and 1.", "1.0."],
    ),
    "SlantedTriangular ratio": (
        lambda: schedules.SlantedTriangular(ratio=1),
        ValueError,
        ["SlantedTriangular(ratio=...) must be above 1", "ratio=1."],
    ),
    "Cosine floor": (
        lambda: schedules.Cosine(floor=1),
        ValueError,
        ["Cosine(floor=...) must be from 0 and below 1.", "floor=1."],
    ),
    "gradual model": (
        lambda: schedules.gradual(3),
        TypeError,
        ["gradual(model=...) must be a keras.Model, its layer groups, or their names", "model=3."],
    ),
    "chain_thaw one group": (
        lambda: schedules.chain_thaw(["head"]),
        ValueError,
        ["chain_thaw(model=...) must have at least two layer groups.", "('head',)."],
    ),
    "progressive_freeze str": (
        lambda: schedules.progressive_freeze("block1"),
        ValueError,
        ["progressive_freeze(model=...) must have at least two layer groups."],
    ),
    "linear_probe_then_fine_tune model": (
        lambda: schedules.linear_probe_then_fine_tune(None),
        TypeError,
        ["linear_probe_then_fine_tune(model=...) must be a keras.Model", "None."],
    ),
    "FreezeSchedule endless phase": (
        lambda: FreezeSchedule([Phase("low"), Phase()]),
        ValueError,
        ["FreezeSchedule(phases=...) must end each phase but the last.", "`until` for phase 0"],
    ),
    "FreezeSchedule until and epochs": (
        lambda: FreezeSchedule({0: Phase("low", until=2), 4: None}),
        ValueError,
        ["FreezeSchedule(phases=...) must not give `until`", "at epoch 0."],
    ),
    "FreezeSchedule start": (
        lambda: FreezeSchedule({2: "low"}, start=1),
        ValueError,
        ["FreezeSchedule(start=...) must be left out", "start=1 and phases from epoch 2."],
    ),
    "FreezeSchedule file": (
        lambda: kf.FreezeScheduler("even"),
        FileNotFoundError,
        ["FreezeSchedule.from_yaml(path=...) must name a file.", "path='even'.", "to_yaml"],
    ),
    "preview batch size": (
        lambda: kf.GradualUnfreeze().preview(compiled(), 3, batch_size=2.5),
        ValueError,
        ["preview(batch_size=...) must be a positive integer.", "batch_size=2.5"],
    ),
    "preview of an unknown group": (
        lambda: FreezeSchedule({0: "lwo"}).preview(model(), 3),
        ValueError,
        ["must name layer groups", "'lwo'."],
    ),
    "BackupAndRestore folder": (
        lambda: kf.BackupAndRestore(""),
        ValueError,
        ["Empty `backup_dir` argument passed"],
    ),
    "BackupAndRestore remote": (
        lambda: kf.BackupAndRestore("gs://bucket/run"),
        ValueError,
        ["BackupAndRestore(backup_dir=...) must be a folder of a mounted", "'gs://bucket/run'."],
    ),
    "FreezeScheduler batch_norm twice": (
        lambda: kf.FreezeScheduler(FreezeSchedule({0: 1}), batch_norm="train"),
        ValueError,
        ["FreezeScheduler(batch_norm=...) must be left out", "batch_norm='train'."],
    ),
    "BackupAndRestore save_freq": (
        lambda: kf.BackupAndRestore("backup", save_freq=100),
        ValueError,
        ['BackupAndRestore(save_freq=...) must be "epoch".', "save_freq=100."],
    ),
    "FreezeSchedule empty": (
        lambda: FreezeSchedule({}),
        ValueError,
        ["FreezeSchedule(phases=...) must have at least one phase.", "{0: None}"],
    ),
    "FreezeSchedule negative": (
        lambda: FreezeSchedule({-1: None}),
        ValueError,
        ["FreezeSchedule(phases=...) must have epochs as keys", "Received: -1.", "from 0"],
    ),
    "FreezeSchedule names": (
        lambda: FreezeSchedule({"head": 0}),
        ValueError,
        ["FreezeSchedule(phases=...) must have epochs as keys", "Received: 'head'."],
    ),
    "even_starts groups": (
        lambda: schedules.even_starts(0, 4),
        ValueError,
        ["even_starts(groups=...) must be a positive integer.", "Received: groups=0."],
    ),
    "even_starts epochs": (
        lambda: schedules.even_starts(3, 2.5),
        ValueError,
        ["even_starts(epochs=...) must be a positive integer.", "Received: epochs=2.5."],
    ),
    "unfreeze_plan name": (
        lambda: schedules.unfreeze_plan({0: "top", 1: "lo"}, ["low", "top"]),
        ValueError,
        ["must name layer groups of the model.", "Received: 'lo'.", "Did you mean 'low'"],
    ),
    "unfreeze_plan twice": (
        lambda: schedules.unfreeze_plan({0: "top", 1: ["low", "top"]}, ["low", "top"]),
        ValueError,
        [
            "must name each group once.",
            "Received: 'top' and 'top', which both stand for 'top'.",
            "Remove",
        ],
    ),
    "unfreeze_plan count": (
        lambda: schedules.unfreeze_plan({0: 2}, ["low", "top"]),
        TypeError,
        ["must map each epoch to a group's name or a sequence of names.", "2 at epoch 0."],
    ),
    "multipliers text": (
        lambda: schedules.multipliers("fast", ["low", "top"]),
        ValueError,
        ['multipliers(rates=...) must be "default", "auto", None', "Received: rates='fast'."],
    ),
    "multipliers name": (
        lambda: schedules.multipliers({"lwo": 1.0}, ["low", "top"]),
        ValueError,
        ["multipliers(rates=...) must name layer groups", "'lwo'.", "Did you mean 'low'?"],
    ),
    # FreezeScheduler
    "FreezeScheduler schedule": (
        lambda: kf.FreezeScheduler(3),
        TypeError,
        ["FreezeScheduler(schedule=...) must be a FreezeSchedule, the path", "schedule=3."],
    ),
    "FreezeScheduler phase": (
        lambda: kf.FreezeScheduler({0: 0.5}),
        TypeError,
        ["Phase(frozen=...) must be an int", "Received: frozen=0.5."],
    ),
    "FreezeScheduler rates": (
        lambda: kf.FreezeScheduler({0: 1}, rates=-2.6),
        ValueError,
        ['FreezeScheduler(rates=...) must be "default", "auto", None', "Received: rates=-2.6."],
    ),
    "FreezeScheduler batch_norm": (
        lambda: kf.FreezeScheduler({0: 1}, batch_norm="off"),
        ValueError,
        ["FreezeScheduler(batch_norm=...) must be one of", "Received: batch_norm='off'."],
    ),
    "FreezeScheduler total_epochs": (
        lambda: kf.FreezeScheduler({0: 1}, total_epochs=1.5),
        TypeError,
        ["FreezeScheduler(total_epochs=...) must be an int.", "Received: total_epochs=1.5."],
    ),
    "FreezeScheduler verbose": (
        lambda: kf.FreezeScheduler({0: 1}, verbose=3),
        ValueError,
        ["FreezeScheduler(verbose=...) must be 0, 1 or 2.", "Received: verbose=3."],
    ),
    "fit: everything frozen": (
        lambda: fit(kf.FreezeScheduler({0: "low", 1: policies.FreezeMatching(".")})),
        ValueError,
        [
            "FreezeScheduler(schedule=...) must leave at least one trainable variable.",
            "at epoch 1",
            "'net'",
        ],
    ),
    "fit: unknown group": (
        lambda: fit(kf.FreezeScheduler({0: None, 2: "lwo"}, groups=GROUPS)),
        ValueError,
        ["must name layer groups", "'lwo'.", "Did you mean 'low'?", "In the phase at epoch 2 of"],
    ),
    "fit: unmatched policy": (
        lambda: fit(kf.FreezeScheduler({0: policies.FreezeMatching("conv")})),
        ValueError,
        ["FreezeMatching(pattern=...) must match", "Received: pattern='conv'.", "epoch 0 of"],
    ),
    "fit: rates of an unknown group": (
        lambda: fit(kf.FreezeScheduler({0: 1}, groups=GROUPS, rates={"lwo": 0.1})),
        ValueError,
        ["FreezeScheduler(rates=...) must name layer groups", "'lwo'.", "Did you mean 'low'?"],
    ),
    "fit: groups that match nothing": (
        lambda: fit(kf.FreezeScheduler({0: 1}, groups=["low", "mdi", "top"])),
        ValueError,
        ["layer_groups(groups=...) must match layers", "'mdi'", "Did you mean 'mid'"],
    ),
    # FreezeGuard
    **{
        f"FreezeGuard every {value!r}": (
            lambda value=value: kf.FreezeGuard(value),
            ValueError,
            ['FreezeGuard(every=...) must be "epoch" or a positive int', f"every={value!r}."],
        )
        for value in (0, -1, 1.5, True, None, "step")
    },
    **{
        f"MaxNorm max_value {value!r}": (
            lambda value=value: kf.MaxNorm(value),
            ValueError,
            ["MaxNorm(max_value=...) must be a positive number, or a mapping", f"{value!r}."],
        )
        for value in (0.0, -1, "2", {}, {"low": None})
    },
    "FreezeGuard action": (
        lambda: kf.FreezeGuard(action="ignore"),
        ValueError,
        ['FreezeGuard(action=...) must be "raise" or "warn".', "Received: action='ignore'."],
    ),
    # LiveView
    "LiveView form": (
        lambda: kf.LiveView("html"),
        ValueError,
        ['LiveView(form=...) must be "auto", "notebook", "terminal" or "lines".', "form='html'."],
    ),
    "LiveView metric": (
        lambda: kf.LiveView(metric=1),
        ValueError,
        ["LiveView(metric=...) must be the name of a metric, or None.", "metric=1."],
    ),
    **{
        f"LiveView interval {value!r}": (
            lambda value=value: kf.LiveView(interval_s=value),
            ValueError,
            ["LiveView(interval_s=...) must be a non-negative number of seconds.", f"{value!r}."],
        )
        for value in (-1.0, "1", None, float("nan"))
    },
    # PrefixCache
    "PrefixCache max_bytes": (
        lambda: kf.PrefixCache("1 GB"),
        TypeError,
        ["PrefixCache(max_bytes=...) must be an int.", "Received: max_bytes='1 GB'."],
    ),
    "PrefixCache negative": (
        lambda: kf.PrefixCache(-1),
        ValueError,
        ["PrefixCache(max_bytes=...) must not be negative.", "Received: max_bytes=-1."],
    ),
    "RandomSearch cache": (
        lambda: tuning.RandomSearch(lambda hp: None, "loss", cache="auto"),
        TypeError,
        ["RandomSearch(cache=...) must be a bool or a PrefixCache.", "Received: cache='auto'."],
    ),
    "RandomSearch isolate": (
        lambda: tuning.RandomSearch(lambda hp: None, "loss", isolate="yes"),
        TypeError,
        ["RandomSearch(isolate=...) must be a bool.", "Received: isolate='yes'."],
    ),
    "RandomSearch isolate and a cache on the device": (
        lambda: tuning.RandomSearch(
            lambda hp: None, "loss", isolate=True, cache=kf.PrefixCache(9, on_device=True)
        ),
        ValueError,
        ["RandomSearch(cache=...) must not keep features on the device with isolate=True"],
    ),
    "RandomSearch worker_timeout_s": (
        lambda: tuning.RandomSearch(lambda hp: None, "loss", worker_timeout_s=0),
        ValueError,
        ["RandomSearch(worker_timeout_s=...) must be a positive number."],
    ),
    "DepthSweep chief_timeout_s": (
        lambda: tuning.DepthSweep(lambda: None, chief_timeout_s=float("nan")),
        ValueError,
        ["DepthSweep(chief_timeout_s=...) must be a positive number."],
    ),
    "optuna_objective cache": (
        lambda: tuning.optuna_objective(lambda hp: None, cache="auto"),
        TypeError,
        ["optuna_objective(cache=...) must be a bool or a PrefixCache."],
    ),
    "optuna_objective prune": (
        lambda: tuning.optuna_objective(lambda hp: None, prune=1),
        TypeError,
        ["optuna_objective(prune=...) must be a bool.", "Received: prune=1."],
    ),
    "optuna_objective objective": (
        lambda: tuning.optuna_objective(lambda hp: None, objective=""),
        ValueError,
        ["optuna_objective(objective=...) must be the name of a metric."],
    ),
    "PrefixCache on_device": (
        lambda: kf.PrefixCache(on_device="gpu"),
        TypeError,
        ["PrefixCache(on_device=...) must be a bool.", "Received: on_device='gpu'."],
    ),
    "PrefixCache on_device without max_bytes": (
        lambda: kf.PrefixCache(on_device=True),
        ValueError,
        ["PrefixCache(max_bytes=...) must be given with on_device=True.", "the device's memory"],
    ),
    "PrefixCache on_device and views": (
        lambda: kf.PrefixCache(10**9, on_device=True, views=2),
        ValueError,
        ["PrefixCache(views=...) must be left out with on_device=True.", "Received: views=2."],
    ),
    "PrefixCache on_device and keep": (
        lambda: kf.PrefixCache(10**9, "features", on_device=True, keep=True),
        ValueError,
        ["PrefixCache(keep=...) must be left out with on_device=True.", "Received: keep=True."],
    ),
    "PrefixCache mode": (
        lambda: kf.PrefixCache(mode="eval"),
        ValueError,
        ['PrefixCache(mode=...) must be "training" or "inference".', "Received: mode='eval'."],
    ),
    "PrefixCache verbose": (
        lambda: kf.PrefixCache(verbose=2),
        ValueError,
        ["PrefixCache(verbose=...) must be 0 or 1.", "Received: verbose=2."],
    ),
    # GradualUnfreeze
    "GradualUnfreeze cache": (
        lambda: kf.GradualUnfreeze(cache="yes"),
        ValueError,
        ['GradualUnfreeze(cache=...) must be "auto", True, False or a PrefixCache.', "'yes'."],
    ),
    "GradualUnfreeze schedule": (
        lambda: kf.GradualUnfreeze("evenly"),
        ValueError,
        ['GradualUnfreeze(schedule=...) must be "even", "auto", a positive', "'evenly'."],
    ),
    "GradualUnfreeze zero": (
        lambda: kf.GradualUnfreeze(0),
        ValueError,
        ["GradualUnfreeze(schedule=...) must be", "(epochs per group)", "Received: schedule=0."],
    ),
    "GradualUnfreeze late": (
        lambda: kf.GradualUnfreeze({1: "head"}),
        ValueError,
        ["GradualUnfreeze(schedule=...) must be", "that begins at epoch 0,", "{1: 'head'}."],
    ),
    "GradualUnfreeze empty": (
        lambda: kf.GradualUnfreeze({}),
        ValueError,
        ["GradualUnfreeze(schedule=...) must be", "Received: schedule={}."],
    ),
    "GradualUnfreeze epoch": (
        lambda: kf.GradualUnfreeze({0: "head", "4": "low"}),
        ValueError,
        ["GradualUnfreeze(schedule=...) must have epochs as keys", "Received: '4'."],
    ),
    "GradualUnfreeze count": (
        lambda: kf.GradualUnfreeze({0: "head", 4: 2}),
        TypeError,
        ["GradualUnfreeze(schedule=...) must map each epoch to a group's name", "2 at epoch 4."],
    ),
    "GradualUnfreeze rates": (
        lambda: kf.GradualUnfreeze(rates="slow"),
        ValueError,
        ['GradualUnfreeze(rates=...) must be "default", "auto", None', "Received: rates='slow'."],
    ),
    "GradualUnfreeze batch_norm": (
        lambda: kf.GradualUnfreeze(batch_norm="eval"),
        ValueError,
        ["GradualUnfreeze(batch_norm=...) must be one of", "Received: batch_norm='eval'."],
    ),
    "GradualUnfreeze total_epochs": (
        lambda: kf.GradualUnfreeze(total_epochs=0),
        ValueError,
        ["GradualUnfreeze(total_epochs=...) must be at least 1.", "Received: total_epochs=0."],
    ),
    "fit: plan with an unknown group": (
        lambda: fit(kf.GradualUnfreeze({0: "head", 1: "lwo"}, groups=GROUPS)),
        ValueError,
        ["GradualUnfreeze(schedule=...) must name layer groups", "'lwo'.", "Did you mean 'low'?"],
    ),
    "fit: plan that names a group twice": (
        lambda: fit(kf.GradualUnfreeze({0: "head", 1: "top"}, groups=GROUPS)),
        ValueError,
        [
            "GradualUnfreeze(schedule=...) must name each group once.",
            "'head' and 'top', which both stand for 'top'.",
        ],
    ),
    "fit: plan that trains nothing": (
        lambda: fit(kf.GradualUnfreeze({0: [], 1: "head"}, groups=GROUPS)),
        ValueError,
        [
            "GradualUnfreeze(schedule=...) must leave at least one trainable variable.",
            "epoch 0",
            "low, mid",
        ],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_argument_raises(case):
    call, exception, parts = CASES[case]
    with pytest.raises(exception, match=in_order(*parts)):
        call()


def test_every_public_callable_has_a_case():
    owners = {name for name in kf.__all__ if callable(getattr(kf, name))}
    owners |= {*policies.__all__, *schedules.__all__}
    owners |= {name for name in explain.__all__ if name.islower()}
    owners -= {"FreezePolicy", "Trigger", "Curve"}  # which are abstract
    owners -= {"Selection", "FreezeResult", "LayerGroup", "ParameterReport", "SchedulePreview"}
    owners -= {"Decisions", "Findings", "GroupRanking", "LearningRateRange"}
    owners -= {"ScheduleRecord", "Suggestion"}
    # A policy in words, a constant, a plan that GradualUnfreeze checks, and one under test above.
    owners -= {"as_policy", "DEFAULT_RATES", "unfreeze_plan", "AfterEpochs", "preview"}
    said = " ".join(part for _, _, parts in CASES.values() for part in parts)
    assert {owner for owner in owners if f"{owner}(" not in said} == set()


WARNINGS = {
    "a phase that is not reached": (
        lambda: fit(kf.FreezeScheduler({0: 1, 5: None}, verbose=0)),
        ["FreezeScheduler: the phase at epoch 5 is not reached in 3 epochs.", "total_epochs=."],
    ),
    "a plan that is not reached": (
        lambda: fit(kf.GradualUnfreeze({0: "head", 4: "low"}, groups=GROUPS, verbose=0)),
        ["GradualUnfreeze: the phase at epoch 4 is not reached in 3 epochs."],
    ),
    "a single group": (
        lambda: fit(kf.GradualUnfreeze(groups={"all": "."}, verbose=0)),
        ["GradualUnfreeze finds a single layer group in model 'net'", "Pass groups="],
    ),
}


@pytest.mark.parametrize("case", WARNINGS)
def test_where_training_can_continue_one_warning_says_so(case):
    call, parts = WARNINGS[case]
    with pytest.warns(UserWarning, match=in_order(*parts)) as caught:
        call()
    assert [warning.category for warning in caught].count(UserWarning) == 1
