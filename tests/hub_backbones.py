"""Backbones of KerasHub, tiny and with random weights, for tests of several folders."""

import pytest

keras_hub = pytest.importorskip("keras_hub")

TINY = {"vocabulary_size": 30, "hidden_dim": 8, "intermediate_dim": 16, "num_layers": 2}
HEADS = {"num_heads": 2, "max_sequence_length": 12}
BLOCKS = ["transformer_layer_0", "transformer_layer_1"]
BART = [
    "embeddings",
    "transformer_encoder_layer_0",
    "transformer_encoder_layer_1",
    "decoder_embeddings",
    "transformer_decoder_layer_0",
    "transformer_decoder_layer_1",
]


def bert():
    return keras_hub.models.BertBackbone(**TINY, **HEADS)


def gpt2():
    return keras_hub.models.GPT2Backbone(**TINY, **HEADS)


def bart():
    return keras_hub.models.BartBackbone(**TINY, **HEADS)


def llama():
    return keras_hub.models.LlamaBackbone(**TINY, num_query_heads=2, num_key_value_heads=1)


def distil_bert():
    return keras_hub.models.DistilBertBackbone(**TINY, **HEADS)


def albert():
    return keras_hub.models.AlbertBackbone(**TINY, **HEADS, embedding_dim=4, num_groups=1)


def vit():
    return keras_hub.models.ViTBackbone(
        image_shape=(32, 32, 3), patch_size=16, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16
    )


def detector():
    """Return a RetinaNet and its image encoder; its backbone holds the pyramid beside that."""
    encoder = keras_hub.models.ResNetBackbone(
        input_conv_filters=[8],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64] * 4,
        stackwise_num_blocks=[1] * 4,
        stackwise_num_strides=[1, 2, 2, 2],
        block_type="bottleneck_block",
        use_pre_activation=False,
        image_shape=(64, 64, 3),
    )
    pyramid = keras_hub.models.RetinaNetBackbone(
        encoder, min_level=3, max_level=5, use_p5=True, image_shape=(64, 64, 3)
    )
    whole = keras_hub.models.RetinaNetObjectDetector(
        pyramid, num_classes=3, pre_logits_num_conv_layers=1
    )
    return whole, encoder


BACKBONES = {
    "bert": (bert, "pooled_output", ["embeddings", *BLOCKS, "pooled_dense"]),
    "bert-sequence": (bert, "sequence_output", ["embeddings", *BLOCKS]),
    "gpt2": (gpt2, None, ["embeddings", *BLOCKS]),
    "bart": (bart, "decoder_sequence_output", BART),
    "llama": (llama, None, ["embeddings", *BLOCKS]),
    "distil-bert": (distil_bert, None, ["embeddings", *BLOCKS]),
    "albert": (albert, "pooled_output", ["embeddings", "group_0_inner_layer_0", "pooled_dense"]),
    "vit": (vit, None, ["embeddings", "transformer_block_1", "transformer_block_2"]),
}
