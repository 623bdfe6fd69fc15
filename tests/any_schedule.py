"""Any schedule that a file can contain, for hypothesis."""

import re

from hypothesis import strategies as st

from keras_freeze import policies
from keras_freeze.schedules import (
    AfterEpochs,
    AfterSteps,
    AllOf,
    AnyOf,
    Cosine,
    FreezeSchedule,
    OnPlateau,
    Phase,
    SlantedTriangular,
    Warmup,
)

NAMES = st.one_of(
    st.text(max_size=5), st.sampled_from(["no", "1e3", "0x1", "1:30", "~", "<<", "="])
)
SPECS = st.one_of(NAMES, st.lists(NAMES, max_size=2))
DIVISIONS = st.one_of(
    st.none(), st.dictionaries(NAMES, SPECS, max_size=2), st.lists(SPECS, max_size=2)
)
NUMBERS = st.floats(0.001, 1000).filter(lambda x: x > 0)
SIMPLE_POLICIES = st.one_of(
    st.builds(policies.FreezeFirst, st.integers(-9, 9)),
    st.builds(policies.FreezeBefore, st.one_of(st.integers(-9, 9), NAMES)),
    st.builds(policies.FreezeLayers, st.lists(st.one_of(st.integers(), NAMES), min_size=1)),
    st.builds(policies.FreezeMatching, st.text(min_size=1, max_size=5).map(re.escape)),
    st.builds(
        policies.FreezeGroups,
        st.one_of(st.integers(-9, 9), NAMES, st.lists(NAMES, min_size=1, max_size=3)),
        DIVISIONS,
    ),
)
POLICIES = st.recursive(
    SIMPLE_POLICIES,
    lambda inner: st.one_of(
        st.builds(lambda a, b: a | b, inner, inner),
        st.builds(lambda a, b: a & b, inner, inner),
        inner.map(lambda policy: ~policy),
        st.builds(policies.FreezeWeights, st.lists(NAMES, min_size=1, max_size=2), inner),
        st.builds(policies.FreezeWeights, NAMES),
    ),
    max_leaves=4,
)
MONITORS = st.sampled_from(["val_loss", "accuracy", "val_f1"])
TRIGGERS = st.recursive(
    st.one_of(
        st.builds(AfterEpochs, st.integers(1, 10**6)),
        st.builds(AfterSteps, st.integers(1, 10**9)),
        st.builds(
            OnPlateau,
            MONITORS,
            st.integers(1, 9),
            st.floats(0, 1),
            st.sampled_from(["auto", "min", "max"]),
            st.integers(0, 9),
        ),
        st.builds(OnPlateau, NAMES.filter(bool), mode=st.sampled_from(["min", "max"])),
    ),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(AnyOf),
        st.lists(inner, min_size=1, max_size=3).map(AllOf),
    ),
    max_leaves=5,
)
CURVES = st.one_of(
    st.builds(Warmup, st.integers(1, 10**6)),
    st.builds(
        SlantedTriangular,
        st.one_of(st.none(), st.integers(1, 99)),
        st.floats(0.01, 0.99),
        st.floats(1.1, 99),
    ),
    st.builds(Cosine, st.one_of(st.none(), st.integers(1, 99)), st.floats(0, 0.99)),
)
PHASES = st.builds(
    Phase,
    st.one_of(st.none(), st.integers(-9, 9), NAMES, st.lists(NAMES, max_size=3), POLICIES),
    rates=st.one_of(
        st.none(),
        st.just("default"),
        st.floats(1, 1000),
        st.dictionaries(NAMES, NUMBERS, max_size=3),
    ),
    batch_norm=st.sampled_from(["frozen", "follow", "statistics", "train"]),
    weights=st.one_of(st.just("all"), NAMES, st.lists(NAMES, min_size=1, max_size=2)),
    until=TRIGGERS,
    restore_best=st.one_of(st.booleans(), MONITORS),
    curve=st.one_of(st.none(), CURVES),
)
SCHEDULES = st.builds(
    FreezeSchedule,
    st.lists(PHASES, min_size=1, max_size=3),
    st.integers(0, 9),
    st.lists(st.tuples(NAMES, st.integers(0, 10**9)), max_size=2).map(tuple),
)
