"""A report says what `model.summary()` says, to the parameter and byte, in any form."""

import io
import json
import re

import effects
import keras
import pytest
import rich.console
from keras.src.utils import summary_utils

import keras_freeze as kf
from keras_freeze.reports import parameters

L = keras.layers


def summary(model):
    """Return the totals that `model.summary()` prints: kind to (parameters, size)."""
    lines = []
    model.summary(print_fn=lambda text, **_: lines.append(text))
    found = re.findall(r"(\S+) params: ([\d,]+) \((.+?)\)", "\n".join(lines))
    return {kind.lower(): (int(params.replace(",", "")), size) for kind, params, size in found}


def assert_equals_summary(model):
    """Compare the totals of both kinds of report with what Keras prints and counts."""
    printed = summary(model)
    for by in ("group", "layer"):
        report = kf.parameter_report(model, by=by)
        assert printed["total"] == (report.total_params, readable(report.total_bytes))
        assert printed["trainable"] == (report.trainable_params, readable(report.trainable_bytes))
        assert printed["non-trainable"] == (
            report.non_trainable_params,
            readable(report.non_trainable_bytes),
        )
        sizes = [report.trainable_bytes, report.non_trainable_bytes, report.total_bytes]
        parts = [model.trainable_weights, model.non_trainable_weights, model.weights]
        assert sizes == [summary_utils.weight_memory_size(weights) for weights in parts]


readable = parameters.readable_bytes


class OwnWeights(keras.Model):
    """A subclassed model with a weight outside its layers and a nested model."""

    def __init__(self):
        super().__init__(name="own")
        self.low = L.Dense(3, name="low")
        self.inner = keras.Sequential([keras.Input((3,)), L.Dense(4), L.BatchNormalization()])
        self.scale = self.add_weight(shape=(4,), name="scale")
        self.top = L.Dense(2, name="top")

    def call(self, x):
        return self.top(self.scale * self.inner(self.low(x)))


def build_subclassed():
    model = OwnWeights()
    model(keras.ops.ones((1, 5)))
    return model


def build_mixed(dtype):
    """Layers of several dtypes, as in half-precision training."""
    policy = keras.dtype_policies.DTypePolicy(dtype)
    return keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            L.Conv2D(5, 3, dtype=policy, name="conv"),
            L.BatchNormalization(dtype=policy, name="norm"),
            L.Flatten(dtype=policy),
            L.Dense(3, dtype="float32", name="head"),
        ]
    )


def build_shared():
    """One dense layer called twice, and a nested model called twice."""
    left, right = keras.Input((4,)), keras.Input((4,))
    tower = keras.Sequential([keras.Input((4,)), L.Dense(4, name="inside")], name="tower")
    shared = L.Dense(4, name="shared")
    x = L.Add()([shared(tower(left)), shared(tower(right))])
    return keras.Model([left, right], L.Dense(2, name="head")(x))


MODELS = {
    "subclassed": build_subclassed,
    "shared": build_shared,
    **{
        dtype: lambda dtype=dtype: build_mixed(dtype)
        for dtype in ("float16", "bfloat16", "mixed_float16", "mixed_bfloat16")
    },
}


def leave(model):
    return None


def freeze_first(model):
    kf.freeze(model, first=1)


def freeze_biases(model):
    kf.freeze(model, matching=".", weights="bias")


def keep_statistics(model):
    kf.freeze(model, matching=".")
    kf.unfreeze(model, matching=".", batch_norm="statistics")


def freeze_by_hand(model):
    model.trainable = False


STATES = [leave, freeze_first, freeze_biases, keep_statistics, freeze_by_hand]


@pytest.fixture(params=STATES, ids=lambda state: state.__name__)
def set_state(request):
    return request.param


def test_totals_equal_the_summary(any_model, set_state):
    model = any_model()
    set_state(model)
    assert_equals_summary(model)


@pytest.mark.parametrize("name", MODELS)
def test_totals_equal_the_summary_for_uncommon_models(name, set_state):
    model = MODELS[name]()
    set_state(model)
    assert_equals_summary(model)


@pytest.mark.parametrize("set_state", [leave, freeze_first], ids=lambda state: state.__name__)
def test_the_optimizer_is_not_counted(plain, data_for, set_state):
    model = effects.compiled(plain())
    model.fit(*data_for(model), verbose=0)
    set_state(model)
    printed, report = summary(model), kf.parameter_report(model)
    assert printed["optimizer"][0] > 0
    assert printed["trainable"][0] == report.trainable_params
    assert printed["non-trainable"][0] == report.non_trainable_params
    assert printed["total"][0] == report.total_params + printed["optimizer"][0]


@pytest.mark.parametrize("name", ["plain", "batch_norm", "recurrent"])
def test_rows_by_layer_equal_the_lines_of_the_summary(name, request, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    model = request.getfixturevalue(name)()
    kf.freeze(model, first=2)
    lines = []
    model.summary(print_fn=lambda text, **_: lines.append(text), line_length=200)
    printed = re.findall(r"│ (\w+) \((\w+)\)\s.*?([\d,]+) │", "\n".join(lines))
    rows = kf.parameter_report(model, by="layer").rows
    assert [(row.name, row.kind, f"{row.total_params:,}") for row in rows] == printed


@pytest.mark.slow
@pytest.mark.hub
def test_totals_equal_the_summary_for_a_kerashub_model():
    keras_hub = pytest.importorskip("keras_hub")
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=50,
        num_layers=3,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        max_sequence_length=12,
        dtype="mixed_float16",
    )
    for set_state in STATES:
        set_state(backbone)
        assert_equals_summary(backbone)


# The two known figures.


def vgg16():
    backbone = keras.applications.VGG16(
        include_top=False, weights=None, input_shape=(224, 224, 3), name="vgg16"
    )
    head = [L.Flatten(name="flatten"), L.Dense(128, "relu", name="fc"), L.Dense(10, name="logits")]
    return keras.Sequential([backbone, *head], name="photographs")


@pytest.mark.landing
@pytest.mark.parametrize("by", ["group", "layer"])
def test_known_figure_vgg16(by):
    model = vgg16()
    kf.freeze(model, first=10)
    assert_equals_summary(model)
    report = kf.parameter_report(model, by=by)
    assert (report.total_params, readable(report.total_bytes)) == (17_927_370, "68.39 MB")
    assert (report.trainable_params, readable(report.trainable_bytes)) == (16_191_882, "61.77 MB")
    assert report.non_trainable_params == 1_735_488
    assert readable(report.non_trainable_bytes) == "6.62 MB"
    text = str(report)
    assert max(map(len, text.splitlines())) <= 80
    assert {"17,927,370", "68.39 MB", "16,191,882", "61.77 MB", "1,735,488", "6.62 MB"} <= {
        cell.strip() for cell in re.split(r"\s{2,}", text)
    }


@pytest.mark.slow
def test_known_figure_vgg16_by_group():
    model = vgg16()
    kf.freeze(model, first=10)
    rows = kf.parameter_report(model).rows
    assert [(row.name, row.state, row.total_params) for row in rows] == [
        ("block1", "frozen", 38_720),
        ("block2", "frozen", 221_440),
        ("block3", "frozen", 1_475_328),
        ("block4", "trainable", 5_899_776),
        ("block5", "trainable", 7_079_424),
        ("head", "trainable", 3_212_682),
    ]


@pytest.mark.landing
def test_known_figure_lstm_stack():
    model = keras.Sequential(
        [
            keras.Input((32, 32)),
            L.LSTM(32, return_sequences=True),
            L.LSTM(32, return_sequences=True),
            L.Flatten(),
            L.Dense(10),
            L.Softmax(),
            L.Reshape((10, 1)),
        ]
    )
    kf.freeze(model, first=-3)
    report = kf.parameter_report(model, by="layer")
    assert (report.trainable_params, report.non_trainable_params) == (10_250, 16_640)
    assert [(row.kind, row.state) for row in report.rows] == [
        ("LSTM", "frozen"),
        ("LSTM", "frozen"),
        ("Flatten", "-"),
        ("Dense", "trainable"),
        ("Softmax", "-"),
        ("Reshape", "-"),
    ]


# What the rows say.


def test_states(batch_norm):
    model = batch_norm()
    kf.freeze(model, layers=["block1_conv"])
    kf.freeze(model, layers=["block2_conv", "block2_bn"])
    kf.freeze(model, layers=["head"], weights="bias")
    by_group = {row.name: row.state for row in kf.parameter_report(model).rows}
    assert by_group == {
        "block1": "partly frozen (1 of 2 layers)",
        "block2": "frozen",
        "head": "partly frozen (bias)",
    }
    by_layer = {row.name: row.state for row in kf.parameter_report(model, by="layer").rows}
    assert by_layer == {
        "image": "-",
        "block1_conv": "frozen",
        "block1_bn": "trainable",
        "block1_relu": "-",
        "block1_pool": "-",
        "block2_conv": "frozen",
        "block2_bn": "frozen",
        "block2_relu": "-",
        "pool": "-",
        "head": "partly frozen (bias)",
    }


def freeze_batch_norm(model):
    kf.freeze(model, layers=["block1_bn", "block2_bn"])


def keep_statistics_of_one(model):
    kf.freeze(model, layers=["block2_bn"])
    kf.unfreeze(model, layers=["block2_bn"], batch_norm="statistics")


def freeze_layer_and_norm(model):
    kf.freeze(model, layers=["block2_conv", "block1_bn"])


def adapt_head(model):
    model.get_layer("head").enable_lora(2)


@pytest.mark.parametrize(
    ("change", "group", "state"),
    [
        (freeze_batch_norm, "block1", "partly frozen (BatchNorm)"),
        (keep_statistics_of_one, "block2", "partly frozen (BatchNorm statistics)"),
        (keep_statistics_of_one, "block1", "trainable"),
        (freeze_layer_and_norm, "both", "partly frozen (BatchNorm, 1 of 4 layers)"),
        (adapt_head, "head", "partly frozen (LoRA)"),
        (adapt_head, "block2", "trainable"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_partly_frozen_says_what_is(change, group, state, batch_norm):
    model = batch_norm()
    change(model)
    groups = {"both": "block", "head": "head"} if group == "both" else None
    rows = kf.parameter_report(model, groups=groups).rows
    assert {row.name: row.state for row in rows}[group] == state


def test_up_to_two_kinds_of_single_weights_are_named(recurrent):
    model = recurrent()
    for layer, weights, expected in (
        ("lstm_1", ["bias", "kernel"], "bias and kernel"),
        ("lstm_2", "recurrent_kernel", "single weights"),
    ):
        kf.freeze(model, layers=[layer], weights=weights)
        (row,) = kf.parameter_report(model, groups={"all": "."}).rows
        assert row.state == f"partly frozen ({expected})"


def test_moving_statistics_never_count_as_trainable(batch_norm):
    row = kf.parameter_report(batch_norm(), by="layer").rows[2]
    assert (row.name, row.trainable_params, row.non_trainable_params) == ("block1_bn", 8, 8)
    assert (row.trainable_bytes, row.non_trainable_bytes) == (32, 32)
    assert (row.total_params, row.total_bytes) == (16, 64)


def test_a_nested_backbone_is_reported_as_an_inlined_one(batch_norm, nested):
    for by in ("group", "layer"):
        inlined, opened = (kf.parameter_report(m(), by=by).rows for m in (batch_norm, nested))
        assert [row for row in inlined if row.total_params] == [
            row for row in opened if row.total_params
        ]


def test_groups_can_be_given(plain):
    report = kf.parameter_report(plain(), groups={"low": "low", "rest": ["middle", "head"]})
    assert [(row.name, row.kind, row.total_params) for row in report.rows] == [
        ("low", "Dense", 30),
        ("rest", "2 Dense", 53),
    ]


def test_a_weight_outside_all_layers_has_a_row_of_its_own():
    last = kf.parameter_report(build_subclassed(), by="layer").rows[-1]
    assert (last.name, last.kind, last.total_params) == ("own", "OwnWeights", 4)


def test_a_report_stays_as_it_was(plain):
    model = plain()
    report = kf.parameter_report(model)
    kf.freeze(model, matching=".")
    assert report.trainable_params == 83
    assert kf.parameter_report(model).trainable_params == 0


@pytest.mark.parametrize(
    "size", [0, 1, 1023, 1024, 1536, 1024**2 - 1, 1024**2, 71_709_480, 1024**3, 5 * 1024**4]
)
def test_sizes_are_written_as_in_the_summary(size):
    assert readable(size) == summary_utils.readable_memory_size(size)


# Its forms.


def with_name(name):
    layers = [keras.Input((4,)), L.Dense(3, name=name), L.Dense(2, name="logits")]
    return kf.parameter_report(keras.Sequential(layers, name="a[b]<i>"), by="layer")


def test_plain_text_has_no_escape_codes(plain, monkeypatch):
    report = kf.parameter_report(plain())
    expected = str(report)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "30")
    assert str(report) == expected
    assert "\x1b" not in expected
    assert not any(line != line.rstrip() for line in expected.splitlines())


def test_plain_text_in_a_notebook_is_text(plain, monkeypatch):
    """There rich shows what it prints instead of writing it to the given file."""
    report = kf.parameter_report(plain())
    expected = str(report)
    monkeypatch.setattr(rich.console, "_is_jupyter", lambda: True)
    assert str(report) == expected
    assert "83" in expected


@pytest.mark.parametrize("name", ["[red]conv", ":smile:", "a[bold]b", "[0]"])
def test_names_are_not_markup(name):
    report = with_name(name)
    assert name in str(report)
    assert "a[b]<i>" in str(report)


def test_long_names_never_push_the_numbers_out():
    name = "a_very_long_name_" * 8
    text = str(with_name(name))
    assert max(map(len, text.splitlines())) <= 80
    assert re.search(r"a_very_\S*…\S*long_name_ +Dense", text)
    assert re.search(r"trainable\s+15\s+0\s+60.00 B", text)


def test_rich_form_dims_what_is_frozen(plain):
    model = plain()
    kf.freeze(model, layers=["low"])
    console = rich.console.Console(
        file=io.StringIO(), force_terminal=True, color_system="standard", width=100
    )
    console.print(kf.parameter_report(model, by="layer"))
    lines = [line for line in console.file.getvalue().splitlines() if "Dense" in line]
    assert ["\x1b[2m" in line for line in lines] == [True, False, False]


def test_html_form_escapes_names():
    html = with_name("<b>&conv")._repr_html_()
    assert "&lt;b&gt;&amp;conv" in html
    assert "<b>" not in html
    assert ">a[b]&lt;i&gt;</div></caption>" in html


def test_html_form_has_a_cell_for_everything(plain):
    html = kf.parameter_report(plain(), by="layer")._repr_html_()
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", html)
    cells = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in rows]
    spans = [sum(map(int, re.findall(r'colspan="(\d)"', row))) for row in rows]
    widths = [len(row) + max(0, span - 1) for row, span in zip(cells, spans, strict=True)]
    assert set(widths) == {6}
    assert cells[0] == ["layer", "kind", "state", "trainable", "non-trainable", "size"]
    assert cells[1] == ["low", "Dense", "trainable", "30", "0", "120.00 B"]
    assert cells[-1] == ["total", "83", "332.00 B"]


def test_dict_form_survives_json(any_model):
    model = any_model()
    kf.freeze(model, first=1)
    report = kf.parameter_report(model)
    data = json.loads(json.dumps(report.to_dict()))
    assert data == report.to_dict()
    names = ["trainable_params", "non_trainable_params", "total_params"]
    names += [name.replace("params", "bytes") for name in names]
    assert set(data) == {"model", "by", "rows", *names}
    assert all(data[name] == getattr(report, name) for name in names)
    again = kf.ParameterReport(
        data["model"], data["by"], tuple(parameters.ReportRow(**row) for row in data["rows"])
    )
    assert again == report


def test_the_repr_is_one_line(plain):
    assert repr(kf.parameter_report(plain())) == (
        "ParameterReport(model='plain', by='group', rows=3, trainable_params=83, "
        "non_trainable_params=0)"
    )


# Groups named by position.


def numbered():
    stack = [keras.Input((8, 8, 3)), L.SeparableConv2D(2, 3), L.SeparableConv2D(2, 3)]
    return keras.Sequential([*stack, L.Flatten(), L.Dense(2)], name="numbered")


def test_the_first_layer_is_shown_beside_a_place_and_not_stored():
    first, second = (kf.parameter_report(numbered()) for _ in range(2))
    assert [row.name for row in first.rows] == ["group0", "group1", "head"]
    for form in (first.__rich__().as_text(120), first._repr_html_()):
        assert f"SeparableConv2D ({first.rows[1].first_layer})" in re.sub(r"\s+", " ", form)
    assert first == second
    assert first.rows[0].first_layer != second.rows[0].first_layer
    assert "first_layer" not in json.dumps(first.to_dict())


def many_groups():
    names = [f"encoder_transformer_layer_{n}_feed_forward_output" for n in range(29)]
    stack = [L.LSTM(2, return_sequences=True, name=name) for name in names]
    return keras.Sequential([keras.Input((3, 2)), *stack, L.Dense(2)], name="many")


@pytest.mark.parametrize("width", [80, 120])
def test_names_of_thirty_groups_stay_apart_at_any_width(width):
    model = many_groups()
    model.layers[3].trainable = False
    report = kf.parameter_report(model)
    lines = report._table().as_text(width).splitlines()
    assert len(report.rows) == 30
    assert max(map(len, lines)) <= width
    shown = [line.split()[0] for line in lines[4:34]]
    assert len(set(shown)) == 30
    assert all(line.count("LSTM") == 1 for line in lines[4:33])
