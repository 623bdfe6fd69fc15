"""With LoRA, a group may train what `enable_lora` left trainable; the base stays frozen."""

import keras
import numpy as np
import pytest
from effects import compiled, moved, trained, values
from pretrained_models import as_if_trained

import keras_freeze as kf
from keras_freeze.model_picture import read_model
from keras_freeze.policies import lost_in_a_file

pytestmark = pytest.mark.backend


def moved_weights(before, model):
    return {tuple(path.split("/")[-2:]) for path in moved(before, model)}


LORA = {"lora_kernel_a", "lora_kernel_b"}


def of(layer, *names):
    return {(layer, name) for name in names}


@pytest.mark.filterwarnings("ignore:.*ends with flags of single variables")
@pytest.mark.parametrize("is_frozen", [True, False], ids=["frozen layer", "trainable layer"])
@pytest.mark.parametrize(
    "mode", [None, *(pytest.param(mode, marks=pytest.mark.slow) for mode in ("int8", "int4"))]
)
def test_a_bias_trains_where_it_did_when_lora_came(is_frozen, mode, plain, data_for):
    model = plain()
    low = model.get_layer("low")
    low.trainable = not is_frozen
    if mode:
        low.quantize(mode)
    low.enable_lora(2)
    compiled(model)
    before = values(model)
    x, y = data_for(model)
    callback = kf.GradualUnfreeze(1, keep_frozen="middle", verbose=0)
    history = model.fit(x, y, epochs=2, batch_size=4, verbose=0, callbacks=[callback])
    expected = of("head", "kernel", "bias") | of("low", *LORA, *(() if is_frozen else ("bias",)))
    assert moved_weights(before, model) == expected
    assert history.history["trainable_params"] == [18, 18 + 2 * (4 + 6) + 6 * (not is_frozen)]


def test_a_bias_that_only_a_schedule_has_frozen_trains_with_its_group(plain, data_for):
    """LoRA comes between two fits, while the group waits."""
    model = compiled(plain())
    x, y = data_for(model)
    callback = kf.GradualUnfreeze({0: "head", 1: "middle"}, total_epochs=2, verbose=0)
    model.fit(x, y, epochs=1, verbose=0, callbacks=[callback])
    model.get_layer("middle").enable_lora(2)
    before = values(model)
    fit = {"epochs": 2, "initial_epoch": 1, "batch_size": 4, "verbose": 0}
    model.fit(x, y, **fit, callbacks=[callback])
    expected = of("head", "kernel", "bias") | of("middle", *LORA, "bias")
    assert moved_weights(before, model) == expected


def test_lora_that_comes_in_a_fit(plain, data_for):
    class Adapt(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 0:
                self._model.get_layer("middle").enable_lora(2)

    model = compiled(plain())
    x, y = data_for(model)
    before = values(model)
    callback = kf.GradualUnfreeze({0: "head", 1: "middle"}, cache=False, verbose=0)
    model.fit(x, y, epochs=2, verbose=0, callbacks=[Adapt(), callback])
    assert {w for w in moved_weights(before, model) if w[0] != "head"} == of("middle", "bias")
    assert {p.split("/")[-1] for p in trained(model) if "middle" in p} == {*LORA, "bias"}


@pytest.mark.slow_on_jax
@pytest.mark.filterwarnings("ignore:.*ends with flags of single variables")
@pytest.mark.hub
@pytest.mark.parametrize(
    "callback",
    [
        kf.GradualUnfreeze(1, verbose=0),
        pytest.param(kf.FreezeScheduler({0: None}, verbose=0), marks=pytest.mark.slow),
    ],
    ids=["in stages", "at once"],
)
@pytest.mark.slow
def test_a_hub_backbone_trains_what_its_enable_lora_left(callback):
    keras_hub = pytest.importorskip("keras_hub")
    from hub_backbones import bert

    keras.utils.set_random_seed(0)
    backbone = as_if_trained(bert())
    backbone.enable_lora(2)
    left = {id(v) for v in backbone.trainable_variables}
    model = keras_hub.models.BertTextClassifier(backbone, num_classes=2)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = {id(v): np.array(keras.ops.convert_to_numpy(v.value)) for v in model.weights}
    features = {
        name: np.ones((4, 12), "int32") for name in ("token_ids", "segment_ids", "padding_mask")
    }
    training = []
    record = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: training.append(len(model.trainable_variables))
    )
    fit = {"epochs": 3, "verbose": 0, "shuffle": False}
    model.fit(features, np.zeros(4, "int32"), **fit, callbacks=[callback, record])
    new = {id(v) for v in model.get_layer("logits").weights}
    may = left | new
    for variable in model.weights:
        value = keras.ops.convert_to_numpy(variable.value)
        assert id(variable) in may or value.tobytes() == before[id(variable)].tobytes()
    assert {id(v) for v in model.trainable_variables} == may
    in_a_block = len(left) // 2
    stages = [len(new), len(new) + in_a_block, len(may)]
    assert training == (stages if "Gradual" in repr(callback) else [len(may)] * 3)


@pytest.mark.filterwarnings("ignore:.*ends with flags of single variables")
def test_adapters_can_be_named_alone(plain, data_for):
    model = plain()
    model.get_layer("low").enable_lora(2)
    compiled(model, eager=True)
    kf.unfreeze_only(model, weights="lora")
    before = values(model)
    x, y = data_for(model)
    model.fit(x, y, epochs=1, batch_size=4, verbose=0)
    assert moved_weights(before, model) == of("low", *LORA)
    assert kf.freeze(model, kf.policies.FreezeWeights("lora")).trainable_params == 0
    with pytest.raises(ValueError, match=r"weights=...\) must name variables of the layers chosen"):
        kf.unfreeze(plain(), weights="lora")


@pytest.mark.filterwarnings("ignore:.*ends with flags of single variables")
def test_a_kernel_that_lora_has_frozen_may_be_named(plain, data_for):
    model = plain()
    model.get_layer("low").enable_lora(2)
    compiled(model)
    before = values(model)
    x, y = data_for(model)
    schedule = {0: kf.schedules.Phase("low", weights="kernel")}
    callback = kf.FreezeScheduler(schedule, backbone=["low"], verbose=0)
    model.fit(x, y, epochs=2, batch_size=4, verbose=0, callbacks=[callback])
    assert {w for w in moved_weights(before, model) if w[0] == "low"} == of("low", *LORA, "bias")
    assert kf.freeze(model, layers=["low"], weights="kernel").frozen == ()
    for unfreeze in (kf.unfreeze, kf.unfreeze_only):
        with pytest.raises(ValueError, match="must name variables that LoRA has not frozen"):
            unfreeze(model, layers=["low"], weights="kernel")


def test_lora_on_float8_is_refused_before_the_first_step(plain):
    model = plain()
    model.get_layer("low").enable_lora(2)
    model.get_layer("low").quantize("float8")
    with pytest.raises(ValueError, match=r"LoRA on float, int8 or int4 .* layer 'low'"):
        kf.GradualUnfreeze(1).preview(compiled(model), epochs=3)


@pytest.mark.filterwarnings("ignore:.*ends with flags of single variables")
class TestWithBase:
    @pytest.fixture
    def adapted(self, plain):
        model = plain()
        model.get_layer("middle").enable_lora(2)
        return compiled(model)

    def test_the_base_unfreezes_with_its_adapters(self, adapted, data_for):
        x, y = data_for(adapted)
        before = values(adapted)
        callback = kf.GradualUnfreeze({0: "head", 1: "middle"}, lora="with_base", verbose=0)
        fit = {"batch_size": 4, "verbose": 0, "shuffle": False}
        history = adapted.fit(x, y, epochs=2, **fit, callbacks=[callback])
        moved_here = of("head", "kernel", "bias") | of("middle", "kernel", "bias", *LORA)
        assert moved_weights(before, adapted) == moved_here
        middle = sum(np.prod(v.shape) for v in adapted.get_layer("middle").weights)
        head = sum(np.prod(v.shape) for v in adapted.get_layer("head").weights)
        assert history.history["trainable_params"] == [head, head + middle]

    @pytest.mark.slow_on_jax
    def test_it_trains_as_a_base_that_was_unfrozen_by_hand(self, adapted, plain, data_for):
        by_hand = plain()
        by_hand.get_layer("middle").enable_lora(2)
        by_hand.set_weights(adapted.get_weights())
        by_hand.get_layer("middle")._kernel.trainable = True
        compiled(by_hand)
        x, y = data_for(adapted)
        fit = {"epochs": 2, "batch_size": 4, "verbose": 0, "shuffle": False}
        callback = kf.FreezeScheduler({0: None}, lora="with_base", verbose=0)
        adapted.fit(x, y, **fit, callbacks=[callback])
        by_hand.fit(x, y, **fit)
        for ours, theirs in zip(adapted.get_weights(), by_hand.get_weights(), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7)

    def test_what_trains_can_be_frozen_again(self, adapted, data_for):
        x, y = data_for(adapted)
        callback = kf.FreezeScheduler({0: None}, lora="with_base", verbose=0)
        adapted.fit(x, y, epochs=1, verbose=0, callbacks=[callback])
        frozen = kf.freeze(adapted, layers=["middle"])
        assert not adapted.get_layer("middle").trainable_variables
        others = (v for v in adapted.weights if v.path.split("/")[-2] != "middle")
        assert frozen.trainable_params == sum(np.prod(v.shape) for v in others)

    @pytest.mark.slow_on_jax
    def test_the_base_trains_after_a_fit_of_the_adapters(self, adapted, data_for):
        x, y = data_for(adapted)
        adapted.fit(x, y, verbose=0, callbacks=[kf.FreezeScheduler({0: None}, verbose=0)])
        before = values(adapted)
        whole = kf.FreezeScheduler({0: None}, lora="with_base", verbose=0)
        adapted.fit(x, y, verbose=0, callbacks=[whole])
        assert ("middle", "kernel") in moved_weights(before, adapted)
        (row,) = (row for row in kf.parameter_report(adapted).rows if row.name == "middle")
        assert row.state == "trainable"

    def test_a_later_fit_of_the_adapters_leaves_the_base(self, adapted, data_for):
        x, y = data_for(adapted)
        whole = kf.GradualUnfreeze({0: "head", 1: "rest"}, lora="with_base", verbose=0)
        adapted.fit(x, y, epochs=2, verbose=0, callbacks=[whole])
        before = values(adapted)
        callback = kf.FreezeScheduler({0: 1, 1: None}, verbose=0)
        adapted.fit(x, y, epochs=2, verbose=0, callbacks=[callback])
        moved_here = {w for w in moved_weights(before, adapted) if w[0] == "middle"}
        assert moved_here == of("middle", *LORA, "bias")

    def test_a_backup_made_without_it_is_refused(self, adapted, data_for, tmp_path):
        x, y = data_for(adapted)

        def stop(epoch, logs):
            if epoch == 1:
                raise KeyboardInterrupt

        def callbacks(**lora):
            schedule = kf.FreezeScheduler({0: 1, 1: None}, **lora, verbose=0)
            return [schedule, kf.BackupAndRestore(tmp_path / "backup")]

        stopping = keras.callbacks.LambdaCallback(on_epoch_end=stop)
        with pytest.raises(KeyboardInterrupt):
            adapted.fit(x, y, epochs=3, verbose=0, callbacks=[*callbacks(), stopping])
        with pytest.raises(ValueError, match=r"lora=...\) must be that of the backup"):
            adapted.fit(x, y, epochs=3, verbose=0, callbacks=callbacks(lora="with_base"))

    def test_a_file_that_would_lose_the_base_is_warned_of(self, adapted):
        kf.FreezeScheduler({0: None}, lora="with_base").prepare(adapted)
        assert "kernel" in str(lost_in_a_file(read_model(adapted)))

    def test_adapters_that_come_in_a_fit_after_one(self, adapted, data_for):
        class Adapt(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                if epoch == 0:
                    self._model.get_layer("low").enable_lora(2)

        x, y = data_for(adapted)
        adapted.fit(x, y, verbose=0, callbacks=[kf.GradualUnfreeze({0: "head"}, verbose=0)])
        whole = kf.FreezeScheduler({0: 1, 1: 1, 2: None}, lora="with_base", cache=False, verbose=0)
        adapted.fit(x, y, epochs=3, verbose=0, callbacks=[Adapt(), whole])
        kernels = {path.split("/")[-2] for path in trained(adapted) if path.endswith("/kernel")}
        assert kernels == {"low", "middle", "head"}

    @pytest.mark.hub
    @pytest.mark.slow_on_jax
    def test_all_that_a_hub_backbone_froze_unfreezes(self):
        keras_hub = pytest.importorskip("keras_hub")
        from hub_backbones import bert

        backbone = as_if_trained(bert())
        backbone.enable_lora(2)
        model = keras_hub.models.BertTextClassifier(backbone, num_classes=2)
        callback = kf.GradualUnfreeze(lora="with_base")
        every = sum(np.prod(v.shape) for v in model.weights)
        assert callback.preview(model, epochs=8).rows[-1].trainable_params == every

    def test_a_quantized_base_is_refused(self, plain, data_for):
        model = plain()
        model.get_layer("middle").quantize("int8")
        model.get_layer("middle").enable_lora(2)
        compiled(model)
        x, y = data_for(model)
        with pytest.raises(ValueError, match="where base weights are quantized"):
            model.fit(x, y, verbose=0, callbacks=[kf.GradualUnfreeze(lora="with_base")])

    def test_another_word_is_refused(self):
        with pytest.raises(ValueError, match='be "adapters" or "with_base"'):
            kf.GradualUnfreeze(lora="all")
