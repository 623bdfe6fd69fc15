"""`freeze` and `unfreeze`: the classic recipes, their effect, and every way back."""

import effects
import keras
import pytest
from pretrained_models import build_backbone

import keras_freeze as kf
from keras_freeze import policies
from keras_freeze.engine import optimizer_state
from keras_freeze.model_picture import every_layer, opened_layers, weights_of
from keras_freeze.schedules import FreezeSchedule, Phase

L = keras.layers


def frozen_layers(model):
    """Return the names of the layers that hold a weight which no longer trains."""
    weights = [w for w in weights_of(model) if w.potentially_trainable]
    return {w.layer.name for w in weights if not w.variable.trainable}


# The classic recipes.


def vgg16(is_nested):
    """VGG16 without its top, and a new classifier."""
    backbone = keras.applications.VGG16(
        include_top=False, weights=None, input_shape=(224, 224, 3), name="vgg16"
    )
    head = [L.Flatten(name="flatten"), L.Dense(128, "relu", name="fc"), L.Dense(10, name="logits")]
    if is_nested:
        return keras.Sequential([backbone, *head])
    x = backbone.output
    for layer in head:
        x = layer(x)
    return keras.Model(backbone.input, x)


@pytest.mark.parametrize("is_nested", [False, True], ids=["inlined", "nested"])
def test_recipe_first_ten_layers_of_vgg16(is_nested):
    by_hand, model = vgg16(is_nested=False), vgg16(is_nested)
    for layer in by_hand.layers[:10]:
        layer.trainable = False
    result = kf.freeze(model, first=10)
    assert [v.trainable for v in model.weights] == [v.trainable for v in by_hand.weights]
    opened = opened_layers(model)
    assert [x.trainable for x in opened] == [x.trainable for x in by_hand.layers]
    assert (result.trainable_params, result.non_trainable_params) == (16_191_882, 1_735_488)
    assert result.changed_params == 1_735_488
    assert model.count_params() == 17_927_370


def lstm_stack():
    return keras.Sequential(
        [
            keras.Input((32, 32)),
            L.LSTM(32, return_sequences=True, name="lstm_1"),
            L.LSTM(32, return_sequences=True, name="lstm_2"),
            L.Flatten(name="flatten"),
            L.Dense(10, name="dense"),
            L.Softmax(name="softmax"),
            L.Reshape((10, 1), name="reshape"),
        ]
    )


def test_recipe_all_but_the_last_three_layers_of_an_lstm_stack():
    by_hand, model = lstm_stack(), lstm_stack()
    for layer in by_hand.layers[:-3]:
        layer.trainable = False
    result = kf.freeze(model, first=-3)
    assert [x.trainable for x in model.layers] == [x.trainable for x in by_hand.layers]
    assert [v.trainable for v in model.weights] == [v.trainable for v in by_hand.weights]
    assert (result.trainable_params, result.non_trainable_params) == (10_250, 16_640)


def test_recipe_a_list_of_indices(plain):
    model = plain()
    kf.freeze(model, layers=[0, -1])
    assert frozen_layers(model) == {"low", "head"}


def test_recipe_everything_whose_name_lacks_a_word():
    names = ["layer1_conv", "layer2_conv", "layer4_conv", "layer4_conv2", "fc"]
    layers = [L.Dense(4, name=name) for name in names]
    model = keras.Sequential([keras.Input((4,)), *layers])
    kf.freeze(model, ~policies.FreezeMatching("layer4"))
    assert frozen_layers(model) == {"layer1_conv", "layer2_conv", "fc"}
    kf.unfreeze(model, layers=["fc"])
    assert frozen_layers(model) == {"layer1_conv", "layer2_conv"}


def test_recipe_one_layer_by_name(any_model):
    model = any_model()
    name = "head" if "head" in {x.name for x in model.layers} else "kind"
    kf.freeze(model, layers=[name])
    assert frozen_layers(model) == {name}


WEIGHTS = {
    "only kernels": ("kernel", {"kernel"}),
    "only biases": ("bias", {"bias"}),
    "recurrent kernels": ("recurrent_kernel", {"recurrent_kernel"}),
    "several": (["kernel", "recurrent_kernel"], {"kernel", "recurrent_kernel"}),
    "all": ("all", {"kernel", "recurrent_kernel", "bias", "embeddings"}),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_recipe_weights_by_name(recurrent, case):
    weights, expected = WEIGHTS[case]
    model = recurrent()
    kf.freeze(model, matching=".", weights=weights)
    assert {v.name for v in model.weights if not v.trainable} == expected
    assert {v.name for v in model.trainable_weights}.isdisjoint(expected)


def test_weights_of_some_layers_only(recurrent):
    model = recurrent()
    result = kf.freeze(model, layers=["lstm_2"], weights="recurrent_kernel")
    assert result.frozen == ("recurrent/lstm_2/lstm_cell/recurrent_kernel",)
    assert all(layer.trainable for layer in every_layer(model))


def transformer(blocks):
    """An encoder with learned positions, as one writes it with Keras layers."""
    tokens = keras.Input((8,), dtype="int32", name="tokens")
    x = L.Embedding(20, 8, name="token_embedding")(tokens)
    for n in range(blocks):
        y = L.LayerNormalization(name=f"block{n}_norm1")(x)
        y = L.MultiHeadAttention(2, 4, name=f"block{n}_attention")(y, y)
        x = L.Add(name=f"block{n}_add1")([x, y])
        y = L.LayerNormalization(name=f"block{n}_norm2")(x)
        y = L.Dense(16, "gelu", name=f"block{n}_up")(y)
        x = L.Add(name=f"block{n}_add2")([x, L.Dense(8, name=f"block{n}_down")(y)])
    x = L.GlobalAveragePooling1D(name="mean")(x)
    return keras.Model(tokens, L.Dense(3, activation="softmax", name="classifier")(x))


def test_recipe_embeddings_and_half_of_a_transformer():
    model = transformer(blocks=12)
    kf.freeze(model, groups=7)
    trained = {path.split("/")[0].split("_")[0] for path in effects.trained(model)}
    assert trained == {*(f"block{n}" for n in range(6, 12)), "classifier"}
    twin = transformer(blocks=12)
    kf.freeze(twin, matching=r"embedding|^block[0-5]_")
    assert effects.flags(twin) == effects.flags(model)


def test_recipe_shared_trunk_with_two_heads(multi_input, data_for):
    model = effects.compiled(multi_input(), eager=True)
    kf.freeze(model, before="head")
    moved = effects.moved_by_fit(model, data_for(model))
    assert moved == {"kind/kernel", "kind/bias", "size/kernel", "size/bias"}
    kf.unfreeze(model, layers=["trunk"])
    kf.freeze(model, layers=["size"])
    moved = effects.moved_by_fit(model, data_for(model))
    assert moved == {"kind/kernel", "kind/bias", "trunk/kernel", "trunk/bias"}


def test_recipe_inference_only(any_model, data_for):
    model = effects.compiled(any_model(), eager=True)
    kf.freeze(model, matching=".")
    assert model.trainable_variables == []
    assert not model.trainable
    before = effects.values(model)
    model.evaluate(*data_for(model), verbose=0)
    model.predict(data_for(model)[0], verbose=0)
    assert effects.moved(before, model) == set()


def test_recipe_a_new_classifier_and_only_that_trains(batch_norm, data_for):
    old = batch_norm()
    features = old.get_layer("pool").output
    model = keras.Model(old.input, L.Dense(3, activation="softmax", name="classifier")(features))
    kf.freeze(effects.compiled(model, eager=True), before="classifier")
    moved = effects.moved_by_fit(model, data_for(model))
    assert moved == {"classifier/kernel", "classifier/bias"}


# Effect.


WAYS = {
    "first": {"first": 1},
    "negative first": {"first": -2},
    "groups": {"layers": ["low"]},
    "before": {"before": "middle"},
    "layers": {"layers": ["low"]},
    "matching": {"matching": "low"},
    "policy": {"policy": policies.FreezeFirst(1)},
    "callable": {"policy": lambda variable, layer: layer.name == "low"},
}


@pytest.mark.parametrize("case", WAYS)
@pytest.mark.at_commit("before", "callable", "matching")
def test_every_way_to_say_it_freezes_and_unfreezes(plain, data_for, case):
    way = dict(WAYS[case])
    policy = [way.pop("policy")] if "policy" in way else []
    model = effects.compiled(plain(), eager=True)
    every = set(effects.values(model))
    low = {"plain/low/kernel", "plain/low/bias"}
    assert set(kf.freeze(model, *policy, **way).frozen) == low
    assert effects.moved_by_fit(model, data_for(model)) == every - low
    assert set(kf.unfreeze(model, *policy, **way).unfrozen) == low
    assert effects.moved_by_fit(model, data_for(model)) == every


@pytest.mark.backend
def test_frozen_stays_to_the_bit_and_the_rest_moves_in_a_compiled_step(any_model, data_for):
    """In a traced step, trained before and after: Keras alone would continue with the old set."""
    model = effects.compiled(any_model())
    data = data_for(model)
    model.fit(*data, batch_size=8, verbose=0)
    result = kf.freeze(model, first=-2)
    assert result.frozen and result.recompiled
    trained = effects.trained(model)
    assert trained.isdisjoint(result.frozen)
    moved = effects.moved_by_fit(model, data, epochs=2)
    assert {path for path in moved if "moving" not in path} == trained


@pytest.mark.backend
def test_the_optimizer_keeps_its_state(plain, data_for):
    model = effects.compiled(plain(), keras.optimizers.Adam(0.01))
    data = data_for(model)
    model.fit(*data, batch_size=8, epochs=2, verbose=0)
    optimizer = model.optimizer
    slots = [optimizer_state.to_host(v) for v in optimizer._momentums[2:]]
    result = kf.freeze(model, layers=["low"])
    assert result.recompiled
    assert model.optimizer is optimizer
    assert int(optimizer.iterations) == 4
    kept = [optimizer_state.to_host(v) for v in optimizer._momentums]
    assert [a.tobytes() for a in kept] == [b.tobytes() for b in slots]
    model.fit(*data, batch_size=8, verbose=0)
    assert int(optimizer.iterations) == 6


@pytest.mark.backend
def test_an_uncompiled_model_is_frozen_for_a_later_compile(plain, data_for):
    model = plain()
    result = kf.freeze(model, layers=["low"])
    assert not result.recompiled
    effects.compiled(model)
    moved = effects.moved_by_fit(model, data_for(model))
    assert moved == set(effects.values(model)) - set(result.frozen)


@pytest.mark.backend
@pytest.mark.parametrize("unfreezes", [False, True], ids=["freeze", "unfreeze"])
def test_inside_a_fit_in_the_middle_of_an_epoch(plain, data_for, unfreezes):
    model = effects.compiled(plain())
    low = {"plain/low/kernel", "plain/low/bias"}
    if unfreezes:
        kf.freeze(model, layers=["low"])
    seen = {}

    class Switch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen[batch] = effects.values(self.model)
            if batch == 1:
                (kf.unfreeze if unfreezes else kf.freeze)(self.model, layers=["low"])

    x, y = data_for(model, rows=32)
    start = effects.values(model)
    model.fit(x, y, batch_size=8, verbose=0, callbacks=[Switch()])
    every = set(start)
    assert effects.changed(start, seen[1]) == (every - low if unfreezes else every)
    assert effects.changed(seen[1], seen[3]) == (every if unfreezes else every - low)
    assert int(model.optimizer.iterations) == 4


# Every way back: whatever state a model was left in, it can be frozen and unfrozen completely.


def freeze_biases(model):
    kf.freeze(model, matching=".", weights="bias")


def freeze_in_part(model):
    kf.freeze(model, first=-1, weights=["kernel"])
    kf.unfreeze(model, matching=".", weights=["bias"], batch_norm="statistics")


def keep_statistics(model):
    kf.freeze(model, matching=".")
    kf.unfreeze(model, matching=".", batch_norm="statistics")


def freeze_layer_by_layer(model):
    for layer in model.layers:
        layer.trainable = False


def freeze_by_the_model(model):
    model.trainable = False


def freeze_variable_by_variable(model):
    for variable in model.trainable_variables:
        variable.trainable = False


def freeze_by_the_model_and_unfreeze_a_layer(model):
    model.trainable = False
    model.layers[-1].trainable = True


def freeze_underhand(model):
    """The flag of the layers alone, as it is after part of Keras's own work was undone."""
    for layer in every_layer(model):
        layer._trainable = False


STATES = [
    freeze_biases,
    freeze_in_part,
    keep_statistics,
    freeze_layer_by_layer,
    freeze_by_the_model,
    freeze_variable_by_variable,
    freeze_by_the_model_and_unfreeze_a_layer,
    freeze_underhand,
]


@pytest.fixture(params=STATES, ids=lambda state: state.__name__)
def leave(request):
    return request.param


def able(model):
    """Return the paths of all that was made to be trained."""
    weights = weights_of(model)
    return {w.variable.path for w in weights if w.potentially_trainable}


def assert_wholly(model, trainable):
    assert effects.trained(model) == (able(model) if trainable else set())
    assert {path for path, flag in effects.flags(model).items() if flag} == effects.trained(model)
    assert {layer.trainable for layer in every_layer(model)} == {trainable}


def test_any_state_can_be_frozen_and_unfrozen_completely(any_model, leave):
    model = any_model()
    leave(model)
    kf.freeze(model, matching=".")
    assert_wholly(model, trainable=False)
    leave(model)
    kf.unfreeze(model, matching=".", batch_norm="follow")
    assert_wholly(model, trainable=True)
    kf.freeze(model, matching=".")
    assert_wholly(model, trainable=False)


@pytest.mark.at_commit(
    "freeze_in_part", "freeze_by_the_model_and_unfreeze_a_layer", "freeze_underhand"
)
def test_after_unfreezing_everything_a_fit_moves_every_weight(batch_norm, data_for, leave):
    model = effects.compiled(batch_norm(), eager=True)
    data = data_for(model)
    model.fit(*data, batch_size=8, verbose=0)
    leave(model)
    kf.freeze(model, matching=".")
    kf.unfreeze(model, matching=".", batch_norm="follow")
    assert effects.moved_by_fit(model, data) == set(effects.values(model))


@pytest.mark.backend
def test_a_model_frozen_by_hand_trains_after_unfreezing_in_a_compiled_step(batch_norm, data_for):
    model = batch_norm()
    model.trainable = False
    effects.compiled(model)
    kf.unfreeze(model, matching=".", batch_norm="follow")
    assert effects.moved_by_fit(model, data_for(model)) == set(effects.values(model))


def test_unfreezing_a_layer_of_a_frozen_model_trains_just_that(any_model, data_for):
    model = any_model()
    model.trainable = False
    effects.compiled(model, eager=True)
    result = kf.unfreeze(model, layers=[-1])
    assert result.unfrozen
    assert effects.moved_by_fit(model, data_for(model)) == set(result.unfrozen)


def test_moving_statistics_never_become_trainable(batch_norm):
    model = batch_norm()
    for variable in model.non_trainable_variables:
        assert "moving" in variable.path
    for mode in ("frozen", "follow", "statistics", "train"):
        kf.unfreeze(model, lambda variable, layer: True, batch_norm=mode)
        assert not any(v.trainable for v in model.weights if "moving" in v.path)


# What the calls return.


def test_the_result_says_what_changed(plain):
    model = plain()
    result = kf.freeze(model, layers=["low", "middle"], weights="bias")
    assert result == kf.FreezeResult(
        frozen=("plain/low/bias", "plain/middle/bias"),
        unfrozen=(),
        changed_params=11,
        trainable_params=72,
        non_trainable_params=11,
        recompiled=False,
    )
    assert str(result) == (
        "froze 2 and unfroze 0 variables (11 parameters); 72 train, 11 are frozen"
    )
    assert repr(result) == (
        "FreezeResult(frozen=2, unfrozen=0, changed_params=11, trainable_params=72, "
        "non_trainable_params=11, recompiled=False)"
    )
    assert result._repr_html_() == (
        f"<details><summary>{result}</summary>"
        "<br>frozen: plain/low/bias, plain/middle/bias</details>"
    )
    result = kf.unfreeze(model, first=2)
    assert result.unfrozen == ("plain/low/bias", "plain/middle/bias")
    assert (result.frozen, result.changed_params, result.non_trainable_params) == ((), 11, 0)


def test_the_old_name_of_what_was_unfrozen_still_works(plain):
    model = plain()
    kf.freeze(model, matching=".")
    result = kf.unfreeze(model, first=1)
    with pytest.warns(DeprecationWarning, match=r"thawed is now called FreezeResult\.unfrozen"):
        assert result.thawed == result.unfrozen != ()


def test_what_is_so_already_is_not_reported_and_traces_nothing(plain, data_for):
    model = effects.compiled(plain())
    model.fit(*data_for(model), verbose=0)
    assert kf.freeze(model, layers=["low"]).recompiled
    model.fit(*data_for(model), verbose=0)
    step = model.train_function
    again = kf.freeze(model, layers=["low"])
    assert (again.frozen, again.unfrozen, again.changed_params) == ((), (), 0)
    assert not again.recompiled
    assert model.train_function is step


def test_what_is_not_named_stays_as_it_is(plain):
    model = plain()
    kf.freeze(model, layers=["low"])
    kf.freeze(model, layers=["head"])
    assert frozen_layers(model) == {"low", "head"}
    kf.unfreeze(model, layers=["low"])
    assert frozen_layers(model) == {"head"}


@pytest.mark.parametrize("function", [kf.freeze, kf.unfreeze])
def test_a_failed_call_changes_nothing(plain, function):
    model = plain()
    kf.freeze(model, layers=["low"])
    before = effects.flags(model)
    with pytest.raises(ValueError, match="weights"):
        function(model, layers=["middle"], weights="kernle")
    with pytest.raises(ValueError, match="layers"):
        function(model, layers=["middle", "nowhere"])
    assert effects.flags(model) == before


@pytest.mark.backend
def test_a_file_keeps_what_is_frozen_in_whole_layers(any_model, tmp_path):
    model = any_model()
    kf.freeze(model, first=-2)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert [v.trainable for v in loaded.weights] == [v.trainable for v in model.weights]
    kf.unfreeze(loaded, matching=".", batch_norm="follow")
    assert_wholly(loaded, trainable=True)


def test_a_kernel_that_lora_replaces_stays_frozen(plain):
    model = plain()
    model.get_layer("low").enable_lora(2)
    kf.freeze(model, matching=".")
    kf.unfreeze(model, matching=".", batch_norm="follow")
    low = model.get_layer("low")
    assert not low._kernel.trainable
    assert low.lora_kernel_a.trainable
    assert low.bias.trainable


# The backbone itself, and everything.


@pytest.mark.parametrize("is_nested", [False, True], ids=["inlined", "nested"])
def test_a_backbone_is_frozen_before_a_head_is_put_on_it_and_by_itself_after(is_nested):
    def backbone_and_model():
        inputs = keras.Input((8, 8, 3))
        x = L.BatchNormalization(name="bn")(L.Conv2D(4, 3, name="conv")(inputs))
        backbone = keras.Model(inputs, L.ReLU(name="relu")(x), name="backbone")
        y = keras.Input((8, 8, 3)) if is_nested else backbone.input
        features = L.Flatten()(backbone(y) if is_nested else backbone.output)
        return backbone, lambda: keras.Model(y, L.Dense(2, name="head")(features))

    first, build_first = backbone_and_model()
    kf.freeze(first)
    second, build_second = backbone_and_model()
    models = [build_first(), build_second()]
    kf.freeze(models[1], second)
    for model in models:
        assert frozen_layers(model) == {"conv", "bn"}
        assert {x.name for x in every_layer(model) if not x.trainable} >= {"conv", "bn", "relu"}
        model.compile("sgd", "mse")
        kf.unfreeze(model)
        assert frozen_layers(model) == set()
        assert all(layer.trainable for layer in every_layer(model))


def test_a_layer_is_frozen_by_itself(plain):
    model = plain()
    kf.freeze(model, model.get_layer("middle"), weights="kernel")
    assert [v.trainable for v in model.weights] == [True, True, False, True, True, True]


class TestUnfreezeOnly:
    def test_biases(self, plain, data_for):
        model = effects.compiled(plain(), eager=True)
        kf.freeze(model, layers=["low"])
        result = kf.unfreeze_only(model, weights="bias")
        biases = {f"plain/{name}/bias" for name in ("low", "middle", "head")}
        assert effects.moved_by_fit(model, data_for(model)) == biases
        assert result.unfrozen == ("plain/low/bias",)
        assert set(result.frozen) == {"plain/middle/kernel", "plain/head/kernel"}

    @pytest.mark.parametrize("mode", ["statistics", "follow", "frozen"])
    def test_norms(self, mode, batch_norm, data_for):
        model = effects.compiled(batch_norm(), eager=True)
        if mode == "frozen":
            with pytest.raises(ValueError, match="must name something that can train"):
                kf.unfreeze_only(model, weights=["gamma", "beta"], batch_norm=mode)
            assert len(model.trainable_variables) == 8
            return
        kf.unfreeze_only(model, weights=["gamma", "beta"], batch_norm=mode)
        moved = {path.split("/")[-1] for path in effects.moved_by_fit(model, data_for(model))}
        statistics = {"moving_mean", "moving_variance"} if mode == "follow" else set()
        assert moved == {"gamma", "beta"} | statistics

    def test_biases_below_and_all_of_the_head(self, plain):
        model = plain()
        part = kf.policies.FreezeWeights("bias") | kf.policies.FreezeLayers(["head"])
        kf.unfreeze_only(model, part)
        trained = [variable.path.removeprefix("plain/") for variable in model.trainable_variables]
        assert trained == ["low/bias", "middle/bias", "head/kernel", "head/bias"]

    def test_what_it_names_must_be_there(self, plain):
        with pytest.raises(ValueError, match=r"unfreeze_only\(weights=...\) must name variables"):
            kf.unfreeze_only(plain(), weights="gama")


def test_a_line_says_which_variables_of_a_group_unfreeze(plain, data_for, capsys):
    model = effects.compiled(plain(), eager=True)
    phases = [Phase(2, until=1), Phase(2, weights="kernel", until=1), Phase()]
    callback = kf.FreezeScheduler(FreezeSchedule(phases), backbone=["low", "middle"])
    model.fit(*data_for(model), epochs=3, verbose=0, callbacks=[callback])
    said = capsys.readouterr().out
    assert "Epoch 2/3: biases of middle and low unfreeze" in said
    assert "Epoch 3/3: a new phase begins: 2 variables change within groups" in said


class TestNewLayersAmongTrainedOnes:
    def unet(self):
        encoder = build_backbone()
        x = L.UpSampling2D(4, name="up")(encoder.output)
        x = L.BatchNormalization(name="decoder_bn")(L.Conv2D(4, 3, name="decoder")(x))
        return encoder, keras.Model(encoder.input, L.Conv2D(1, 1, name="mask")(x))

    @pytest.mark.parametrize(
        "call", [{"before": "head"}, {"groups": -1}, {"first": -1}], ids=lambda way: next(iter(way))
    )
    def test_counting_them_is_warned_of(self, call):
        said = (
            r"freeze: 2 layers of model .* \(decoder and decoder_bn\) are frozen at initial values"
        )
        with pytest.warns(UserWarning, match=said):
            kf.freeze(self.unet()[1], **call)
        with pytest.warns(UserWarning, match=r"unfreeze_only: 2 layers .*decoder"):
            kf.unfreeze_only(self.unet()[1], groups=["head"])

    def test_naming_them_is_not(self):
        encoder, model = self.unet()
        kf.freeze(model, before="head", backbone=encoder)
        kf.freeze(self.unet()[1], matching="decoder|low")
        kf.freeze(keras.Sequential([keras.Input((4,)), L.Dense(3, name="a"), L.Dense(2)]), first=1)


def test_weights_alone_name_a_part_of_a_compiled_model(plain):
    model = effects.compiled(plain(), eager=True)
    kf.freeze(model, weights="kernel")
    assert [variable.name for variable in model.trainable_variables] == ["bias"] * 3
