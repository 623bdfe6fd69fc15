"""Layer groups of KerasHub models, tiny and with random weights."""

import pathlib

import keras
import pytest
from keras import layers

from keras_freeze.groups.division import layer_groups
from keras_freeze.model_picture import opened_layers

pytest.importorskip("keras_hub")

import hub_families
import keras_hub
from hub_backbones import BACKBONES, BART, BLOCKS, bart, bert, detector, gpt2, llama

pytestmark = pytest.mark.hub


def with_head(inputs, x):
    if len(x.shape) == 3:
        x = layers.GlobalAveragePooling1D(name="new_pool")(x)
    return keras.Model(inputs, layers.Dense(2, name="new_top")(x))


def check_partition(model, groups):
    weights = [id(v) for group in groups for v in group.variables]
    assert len(weights) == len(set(weights))
    assert set(weights) == {id(v) for v in model.weights}
    assert sum(group.total_params for group in groups) == model.count_params()
    found = {id(layer) for group in groups for layer in group.layers}
    assert found == {id(layer) for layer in opened_layers(model)}


def contents(groups):
    return {g.name: [layer.name for layer in g.layers if layer.weights] for g in groups}


@pytest.mark.parametrize(("build", "output", "expected"), BACKBONES.values(), ids=BACKBONES)
def test_backbones_inlined_and_nested(build, output, expected):
    backbone = build()
    inlined = with_head(backbone.input, backbone.output[output] if output else backbone.output)
    groups = layer_groups(inlined, backbone=backbone)
    check_partition(inlined, groups)
    assert [group.name for group in groups] == [*expected, "head"]

    inputs = keras.tree.map_structure(
        lambda tensor: keras.Input(tensor.shape[1:], dtype=tensor.dtype, name=tensor.name),
        backbone.input,
    )
    outputs = backbone(inputs)
    nested = with_head(inputs, outputs[output] if output else outputs)
    in_nested = layer_groups(nested)  # which shows its backbone
    check_partition(nested, in_nested)
    found = contents(in_nested)
    if output == "sequence_output":  # the inlined model has no pooler at all
        found["transformer_layer_1"].remove("pooled_dense")
    assert found == contents(groups)


def test_bert_embeddings_stay_together_and_its_pooler_is_pretrained():
    found = contents(layer_groups(keras_hub.models.BertTextClassifier(bert(), num_classes=2)))
    assert sorted(found["embeddings"]) == [
        "embeddings_layer_norm",
        "position_embedding",
        "segment_embedding",
        "token_embedding",
    ]
    assert list(found) == ["embeddings", *BLOCKS, "pooled_dense", "head"]
    assert found["head"] == ["logits"]


def test_the_last_norm_belongs_to_the_last_block():
    found = contents(layer_groups(llama()))
    assert found["transformer_layer_1"] == ["transformer_layer_1", "sequence_output_layernorm"]


def test_an_embedding_tied_to_the_output_belongs_to_the_input():
    model = keras_hub.models.GPT2CausalLM(gpt2())
    groups = layer_groups(model)
    check_partition(model, groups)
    assert [group.name for group in groups] == ["embeddings", *BLOCKS]
    assert contents(groups)["embeddings"] == ["token_embedding", "position_embedding"]


def test_embeddings_shared_by_encoder_and_decoder_belong_to_the_encoder():
    model = keras_hub.models.BartSeq2SeqLM(bart())
    groups = layer_groups(model)
    check_partition(model, groups)
    assert [group.name for group in groups] == BART
    found = contents(groups)
    assert "token_embedding" in found["embeddings"]
    assert "decoder_position_embedding" in found["decoder_embeddings"]


def test_weights_that_a_task_leaves_unused_make_no_group():
    model = keras_hub.models.BertMaskedLM(bert())
    groups = layer_groups(model)
    check_partition(model, groups)
    assert [group.name for group in groups] == ["embeddings", *BLOCKS, "head"]


@pytest.mark.slow
def test_a_detector_whose_image_encoder_alone_is_pretrained():
    """A KerasHub RetinaNet: its own backbone holds the feature pyramid, which is new here."""
    model, encoder = detector()
    stages = ["conv1", "stack0", "stack1", "stack2", "stack3"]
    groups = layer_groups(model, backbone=encoder)
    check_partition(model, groups)
    assert [group.name for group in groups] == [*stages, "head"]
    assert set(contents(groups)["head"]) == {"fpn", "box_head", "classification_head"}
    found = contents(layer_groups(model))
    assert list(found)[:5] == stages
    assert set(found["head"]) == {"box_head", "classification_head"}


TABLE = pathlib.Path(__file__).parents[2] / "docs" / "keras-hub.md"


def test_the_table_has_every_backbone():
    exported = {name: getattr(keras_hub.models, name) for name in dir(keras_hub.models)}
    backbones = {x for name, x in exported.items() if name.endswith("Backbone")}
    abstract = {keras_hub.models.Backbone, keras_hub.models.FeaturePyramidBackbone}
    assert len(hub_families.FAMILIES) == len(backbones - abstract)
    rows = [line for line in TABLE.read_text().splitlines() if line.startswith("| ")][1:]
    assert [row.split()[1] for row in rows] == list(hub_families.FAMILIES)
    counts = [row.split("|")[3].split() for row in rows]
    one_by_one = sum(count[0] == count[-1] != "-" for count in counts)
    without = sum(count == ["-"] for count in counts)
    text = TABLE.read_text()
    assert f"In {one_by_one} of {len(rows)} families every block" in text
    assert f"block by block. {without} have no custom blocks" in text


def test_a_layer_that_stays_whole_is_divided_by_the_names_of_its_parts():
    model = hub_families.with_head(hub_families.hgnetv2())
    groups = {
        "low": ["embedder", "encoder_stage_0"],
        "high": ["encoder_stage_1"],
        "head": ["new_0", "new_1", "new_2"],
    }
    assert [group.name for group in layer_groups(model, groups)] == ["low", "high", "head"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of KerasHub, while it builds
@pytest.mark.parametrize("family", hub_families.FAMILIES)
def test_the_table_says_how_each_is_divided(family):
    backbone = hub_families.FAMILIES[family]()
    model = hub_families.with_head(backbone)
    check_partition(model, layer_groups(model, backbone=backbone))
    assert hub_families.row(family) in TABLE.read_text().splitlines()
