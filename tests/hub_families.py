"""Tiny configurations of every backbone of KerasHub 0.32, one function per family.

Every function builds one `keras_hub.models.*Backbone` with random weights from a configuration
alone: no preset, no download. The models are as small as their classes allow, with three blocks
per stack; images are 32 or 64 pixels wide. `FAMILIES` maps a family's name to its function, and
`python tests/hub_families.py` prints how each is divided, for `docs/keras-hub.md`.

Three exported names are aliases and have no function of their own: `ESM2Backbone` (of
`ESMBackbone`), `Qwen2Backbone` (of `QwenBackbone`) and `SmolLMBackbone` (of `SmolLM3Backbone`).
"""

import collections

import keras
import keras_hub
from keras_hub.src.models.blip2.blip2_custom_opt import BLIP2CustomOPT  # not exported
from keras_hub.src.models.vae.vae_backbone import VAEBackbone  # not exported

from keras_freeze.groups.division import layer_groups
from keras_freeze.keras_internals.layers import sublayers
from keras_freeze.model_picture import every_layer, is_composite, parts_of

layers = keras_hub.layers
models = keras_hub.models

WIDTHS = {"hidden_dim": 8, "intermediate_dim": 16}
STACK = {"num_layers": 3, "num_heads": 2, **WIDTHS}
TEXT = {"vocabulary_size": 30, **STACK}
SHORT_TEXT = {**TEXT, "max_sequence_length": 16}
DECODER = {
    "vocabulary_size": 30,
    "num_layers": 3,
    "num_query_heads": 2,
    "num_key_value_heads": 1,
    **WIDTHS,
}
IMAGE = {"image_shape": (32, 32, 3)}
PATCHES = {**IMAGE, "patch_size": 16}


def rows(*values):
    """One row per stack, with the stack's value once for each of its three blocks."""
    return [[value] * 3 for value in values]


# Text encoders.


def albert():
    return models.AlbertBackbone(**SHORT_TEXT, embedding_dim=8, num_groups=3)


def bert():
    return models.BertBackbone(**SHORT_TEXT)


def deberta_v3():
    return models.DebertaV3Backbone(**SHORT_TEXT, bucket_size=4)


def distil_bert():
    return models.DistilBertBackbone(**SHORT_TEXT)


def electra():
    return models.ElectraBackbone(vocab_size=30, embedding_dim=8, max_sequence_length=16, **STACK)


def esm():
    return models.ESMBackbone(**TEXT)


def f_net():
    return models.FNetBackbone(vocabulary_size=30, num_layers=3, max_sequence_length=16, **WIDTHS)


def roberta():
    return models.RobertaBackbone(**SHORT_TEXT)


def roformer_v2():
    return models.RoformerV2Backbone(**TEXT, head_size=4)


def xlm_roberta():
    return models.XLMRobertaBackbone(**SHORT_TEXT)


def xlnet():
    return models.XLNetBackbone(**TEXT)


# Text decoders.


def bloom():
    return models.BloomBackbone(**TEXT)


def falcon():
    return models.FalconBackbone(vocabulary_size=30, num_layers=3, num_attention_heads=2, **WIDTHS)


def gemma():
    return models.GemmaBackbone(**DECODER, head_dim=4)


def gpt2():
    return models.GPT2Backbone(**SHORT_TEXT)


def gpt_neo_x():
    return models.GPTNeoXBackbone(**TEXT, rotary_percentage=0.5)


def gpt_oss():
    return models.GptOssBackbone(**DECODER, num_experts=2)


def llama():
    return models.LlamaBackbone(**DECODER)


def llama3():
    return models.Llama3Backbone(**DECODER)


def mistral():
    return models.MistralBackbone(**DECODER)


def mixtral():
    return models.MixtralBackbone(**DECODER, num_experts=2)


def opt():
    return models.OPTBackbone(**SHORT_TEXT)


def phi3():
    return models.Phi3Backbone(**DECODER)


def qwen():
    return models.QwenBackbone(**DECODER)


def qwen3():
    return models.Qwen3Backbone(**DECODER, head_dim=4)


QWEN3_5 = {
    "vocabulary_size": 30,
    "num_layers": 3,
    "layer_types": ["linear_attention", "linear_attention", "full_attention"],
    "num_query_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "hidden_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 4,
    "linear_value_head_dim": 4,
}


def qwen3_5():
    return models.Qwen3_5Backbone(**QWEN3_5, intermediate_dim=16)


def qwen3_5_moe():
    return models.Qwen3_5MoeBackbone(
        **QWEN3_5,
        moe_intermediate_dim=8,
        shared_expert_intermediate_size=8,
        num_experts=2,
        top_k=1,
    )


def qwen3_moe():
    return models.Qwen3MoeBackbone(
        **DECODER, head_dim=4, moe_intermediate_dim=8, num_experts=2, top_k=1
    )


def qwen_moe():
    return models.QwenMoeBackbone(
        **DECODER,
        moe_intermediate_dim=8,
        shared_expert_intermediate_dim=8,
        num_experts=2,
        top_k=1,
    )


def rwkv7():
    return models.RWKV7Backbone(
        vocabulary_size=30,
        num_layers=3,
        hidden_size=8,
        head_size=4,
        intermediate_dim=16,
        gate_lora=4,
        mv_lora=4,
        aaa_lora=4,
        decay_lora=4,
    )


def smollm3():
    return models.SmolLM3Backbone(
        vocabulary_size=30,
        num_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        attention_bias=False,
        attention_dropout=0.0,
        rope_layer_enabled_list=[True, True, False],
        layer_types=["full_attention"] * 3,
        mlp_bias=False,
        layer_norm_epsilon=1e-6,
        max_position_embeddings=16,
        rope_theta=10000.0,
        partial_rotary_factor=1.0,
        **WIDTHS,
    )


# Encoders with decoders, for text and for audio.

T5_GEMMA = {"vocabulary_size": 30}
for side in "encoder", "decoder":
    T5_GEMMA |= {
        f"{side}_hidden_dim": 8,
        f"{side}_intermediate_dim": 16,
        f"{side}_num_layers": 3,
        f"{side}_num_attention_heads": 2,
        f"{side}_num_key_value_heads": 1,
        f"{side}_head_dim": 4,
        f"{side}_layer_types": ["full_attention"] * 3,
    }


def bart():
    return models.BartBackbone(**SHORT_TEXT)


def edrec():
    return models.EdRecBackbone(
        vocab_size=30, num_layers_enc=3, num_layers_dec=3, num_heads=2, **WIDTHS
    )


def moonshine():
    return models.MoonshineBackbone(
        vocabulary_size=30,
        filter_dim=8,
        encoder_num_layers=3,
        decoder_num_layers=3,
        encoder_num_heads=2,
        decoder_num_heads=2,
        **WIDTHS,
    )


def t5():
    return models.T5Backbone(**TEXT)


def t5gemma():
    return models.T5GemmaBackbone(**T5_GEMMA)


def t5gemma2():
    return models.T5Gemma2Backbone(**T5_GEMMA)


def whisper():
    return models.WhisperBackbone(
        **TEXT, num_mels=4, max_encoder_sequence_length=16, max_decoder_sequence_length=16
    )


# Convolutional networks for images.


def cspnet():
    return models.CSPNetBackbone(
        stem_filters=4,
        stem_kernel_size=3,
        stem_strides=2,
        stackwise_depth=[3, 3, 3],
        stackwise_strides=[2, 2, 2],
        stackwise_num_filters=[8, 8, 8],
        block_type="dark_block",
        stage_type="csp",
        block_ratio=[0.5],
        image_shape=(64, 64, 3),
    )


def densenet():
    return models.DenseNetBackbone(stackwise_num_repeats=[3, 3], growth_rate=4, **IMAGE)


def efficientnet():
    return models.EfficientNetBackbone(
        stackwise_width_coefficients=[1.0, 1.0],
        stackwise_depth_coefficients=[1.0, 1.0],
        stackwise_kernel_sizes=[3, 3],
        stackwise_num_repeats=[3, 3],
        stackwise_input_filters=[8, 8],
        stackwise_output_filters=[8, 8],
        stackwise_expansion_ratios=[2, 2],
        stackwise_squeeze_and_excite_ratios=[0.0, 0.25],
        stackwise_strides=[1, 2],
        stackwise_block_types=["fused", "unfused"],
        num_features=8,
        input_shape=(32, 32, 3),
    )


HGNET = {
    "depths": [3, 3],
    "embedding_size": 4,
    "hidden_sizes": [8, 8],
    "stem_channels": [3, 4, 4],
    "hidden_act": "relu",
    "use_learnable_affine_block": False,
    # Per stage: channels in, between and out, then blocks, layers per block and kernel size.
    "stackwise_stage_filters": [(4, 4, 8, 3, 2, 3), (8, 4, 8, 3, 2, 3)],
    "apply_downsample": [False, True],
    "use_lightweight_conv_block": [False, True],
}


def hgnetv2():
    return models.HGNetV2Backbone(**HGNET, **IMAGE)


def mobilenet():
    return models.MobileNetBackbone(
        stackwise_expansion=rows(8, 8),
        stackwise_num_blocks=[3, 3],
        stackwise_num_filters=rows(8, 8),
        stackwise_kernel_size=rows(3, 3),
        stackwise_num_strides=[[2, 1, 1], [2, 1, 1]],
        stackwise_se_ratio=rows(None, 0.5),
        stackwise_activation=rows("relu", "hard_swish"),
        stackwise_padding=rows(1, 1),
        input_num_filters=8,
        output_num_filters=8,
        depthwise_filters=8,
        depthwise_stride=1,
        depthwise_residual=False,
        last_layer_filter=8,
        **IMAGE,
    )


def mobilenetv5():
    return models.MobileNetV5Backbone(
        stackwise_block_types=rows("er", "uir", "mqa"),
        stackwise_num_blocks=[3, 3, 3],
        stackwise_num_filters=rows(8, 8, 8),
        stackwise_strides=[[2, 1, 1], [2, 1, 1], [1, 1, 1]],
        stackwise_act_layers=rows("gelu", "gelu", "gelu"),
        stackwise_exp_ratios=rows(2.0, 2.0, 1.0),
        stackwise_se_ratios=rows(0.0, 0.0, 0.0),
        stackwise_dw_kernel_sizes=rows(0, 3, 3),
        stackwise_dw_start_kernel_sizes=rows(0, 0, 0),
        stackwise_dw_end_kernel_sizes=rows(0, 0, 0),
        stackwise_exp_kernel_sizes=rows(3, 0, 0),
        stackwise_pw_kernel_sizes=rows(1, 0, 0),
        stackwise_num_heads=rows(0, 0, 2),
        stackwise_key_dims=rows(0, 0, 4),
        stackwise_value_dims=rows(0, 0, 4),
        stackwise_kv_strides=rows(1, 1, 1),
        stackwise_use_cpe=rows(False, False, False),
        stem_size=8,
        num_features=8,
        msfa_output_resolution=4,
        **IMAGE,
    )


def resnet():
    return models.ResNetBackbone(  # the first stack must have 64 filters
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 8],
        stackwise_num_blocks=[3, 3],
        stackwise_num_strides=[1, 2],
        block_type="basic_block",
        **IMAGE,
    )


def vgg():
    return models.VGGBackbone(stackwise_num_repeats=[3, 3], stackwise_num_filters=[4, 8], **IMAGE)


def xception():
    return models.XceptionBackbone(
        stackwise_conv_filters=[[4, 4], [8, 8], [8, 8, 8], [8, 8, 8], [8, 8, 8], [8, 8]],
        stackwise_pooling=[False, True, False, False, False, False],
        **IMAGE,
    )


# Transformers for images and for video.


def deit():
    return models.DeiTBackbone(**PATCHES, **STACK)


def dinov2():
    return models.DINOV2Backbone(**PATCHES, **STACK, position_embedding_shape=(32, 32, 3))


def dinov3():
    return models.DINOV3Backbone(**PATCHES, **STACK)


def mit():
    return models.MiTBackbone(
        num_layers=2,
        hidden_dims=[4, 8],
        layerwise_depths=[3, 3],
        layerwise_num_heads=[1, 2],
        layerwise_sr_ratios=[2, 1],
        layerwise_patch_sizes=[7, 3],
        layerwise_strides=[4, 2],
        max_drop_path_rate=0.1,
        **IMAGE,
    )


def swin_transformer():
    return models.SwinTransformerBackbone(
        embed_dim=8, depths=[3, 3], num_heads=[2, 2], window_size=2, mlp_ratio=2.0, **IMAGE
    )


def video_prism():
    return models.VideoPrismBackbone(
        num_frames=2,
        num_heads=2,
        num_spatial_layers=3,
        num_temporal_layers=3,
        num_auxiliary_layers=3,
        num_text_layers=3,
        vocabulary_size=30,
        **PATCHES,
        **WIDTHS,
    )


def vit():
    return models.ViTBackbone(**PATCHES, num_layers=3, num_heads=2, hidden_dim=8, mlp_dim=16)


VIT_DET = {
    "hidden_size": 8,
    "num_layers": 3,
    "intermediate_dim": 16,
    "num_heads": 2,
    "global_attention_layer_indices": [2],
    "window_size": 2,
    "num_output_channels": 8,
}


def vit_det():
    return models.ViTDetBackbone(**PATCHES, **VIT_DET)


# Networks around an image encoder.


def basnet():
    encoder = models.ResNetBackbone(
        input_conv_filters=[2],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 8, 8, 8],
        stackwise_num_blocks=[2, 2, 2, 2],
        stackwise_num_strides=[1, 2, 2, 2],
        block_type="basic_block_vd",
    )
    return models.BASNetBackbone(
        encoder, num_classes=1, projection_filters=2, image_shape=(64, 64, 3)
    )


def d_fine():
    backbone = models.HGNetV2Backbone(**HGNET, out_features=["stage1", "stage2"])
    return models.DFineBackbone(
        backbone,
        decoder_in_channels=[8, 8],
        encoder_hidden_dim=8,
        num_labels=4,
        num_denoising=4,
        learn_initial_query=False,
        num_queries=5,
        anchor_image_size=(32, 32),
        feat_strides=[4, 8],
        num_feature_levels=2,
        hidden_dim=8,
        encoder_in_channels=[8, 8],
        encode_proj_layers=[1],
        num_attention_heads=2,
        encoder_ffn_dim=16,
        num_encoder_layers=3,
        hidden_expansion=1.0,
        depth_multiplier=1.0,
        eval_idx=-1,
        num_decoder_layers=3,
        decoder_attention_heads=2,
        decoder_ffn_dim=16,
        decoder_n_points=[2, 2],
        lqe_hidden_dim=8,
        num_lqe_layers=2,
        out_features=["stage1", "stage2"],
        **IMAGE,
    )


def deeplab_v3():
    return models.DeepLabV3Backbone(
        image_encoder=cspnet(),
        spatial_pyramid_pooling_key="P4",
        low_level_feature_key="P2",
        upsampling_size=4,
        dilation_rates=[2, 4],
        projection_filters=8,
        image_shape=(64, 64, 3),
    )


def depth_anything():
    encoder = models.DINOV2Backbone(
        **STACK, patch_size=4, position_embedding_shape=(32, 32, 3), **IMAGE
    )
    return models.DepthAnythingBackbone(
        encoder,
        feature_keys=["stage1", "stage2", "stage3"],
        reassemble_factors=[2, 1, 0.5],
        neck_hidden_dims=[8, 8, 8],
        fusion_hidden_dim=8,
        head_hidden_dim=8,
        head_in_index=-1,
    )


def parseq():
    encoder = models.ViTBackbone(
        **PATCHES, num_layers=3, num_heads=2, hidden_dim=8, mlp_dim=16, use_class_token=False
    )
    return models.PARSeqBackbone(
        encoder,
        vocabulary_size=30,
        max_label_length=8,
        decoder_hidden_dim=8,
        num_decoder_layers=3,
        num_decoder_heads=2,
        decoder_mlp_dim=16,
    )


def retinanet():
    return models.RetinaNetBackbone(
        cspnet(), min_level=3, max_level=4, use_p5=False, image_shape=(64, 64, 3)
    )


def sam():
    return models.SAMBackbone(
        image_encoder=models.ViTDetBackbone(**PATCHES, **VIT_DET),
        prompt_encoder=layers.SAMPromptEncoder(
            hidden_size=8,
            image_embedding_size=(2, 2),
            input_image_size=(32, 32),
            mask_in_channels=4,
        ),
        mask_decoder=layers.SAMMaskDecoder(
            hidden_size=8,
            num_layers=3,
            intermediate_dim=16,
            num_heads=2,
            embedding_dim=8,
            iou_head_hidden_dim=8,
        ),
    )


def sam3():
    patches = {"image_shape": (64, 64, 3), "patch_size": 8}
    return models.SAM3PromptableConceptBackbone(
        vision_encoder=layers.SAM3VisionEncoder(
            **STACK,
            **patches,
            fpn_hidden_dim=8,
            fpn_scale_factors=[4.0, 2.0, 1.0, 0.5],
            pretrain_image_shape=(64, 64, 3),
            window_size=2,
            global_attn_indexes=[2],
        ),
        text_encoder=layers.SAM3TextEncoder(**TEXT, embedding_dim=8),
        geometry_encoder=layers.SAM3GeometryEncoder(**STACK, roi_size=3),
        detr_encoder=layers.SAM3DetrEncoder(**STACK),
        detr_decoder=layers.SAM3DetrDecoder(**STACK, **patches, num_queries=4),
        mask_decoder=layers.SAM3MaskDecoder(num_upsampling_stages=3, hidden_dim=8, num_heads=2),
    )


def segformer():
    return models.SegFormerBackbone(mit(), projection_filters=8)


# Images with text.

TEXT_TOWER = {**SHORT_TEXT, "embedding_dim": 8}


def blip2():
    return models.BLIP2Backbone(
        vision_encoder=models.BLIP2VisionEncoder(
            **STACK,
            image_size=32,
            patch_size=16,
            use_patch_bias=True,
            use_class_token=True,
            use_mha_bias=True,
            use_mlp_bias=True,
            dropout_rate=0.0,
            layer_norm_epsilon=1e-6,
            initializer_range=0.02,
        ),
        qformer=models.BLIP2QFormer(
            **STACK,
            num_query_tokens=2,
            vision_dim=8,
            cross_attention_frequency=1,
            dropout=0.0,
            layer_norm_epsilon=1e-6,
        ),
        language_model=BLIP2CustomOPT(
            **SHORT_TEXT, num_query_tokens=2, qformer_hidden_dim=8, dropout=0.0
        ),
    )


def clip():
    return models.CLIPBackbone(
        vision_encoder=models.CLIPVisionEncoder(**PATCHES, **STACK),
        text_encoder=models.CLIPTextEncoder(**TEXT_TOWER),
        projection_dim=8,
    )


def gemma3():
    encoder = models.Gemma3VisionEncoder(
        **STACK, image_size=32, patch_size=8, pool_size=2, output_dim=8
    )
    return models.Gemma3Backbone(**DECODER, head_dim=4, image_size=32, vision_encoder=encoder)


def gemma3n():
    return models.Gemma3nBackbone(
        text_vocab_size=30,
        text_hidden_size=8,
        num_hidden_layers=3,
        pad_token_id=0,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=4,
        intermediate_size=[16] * 3,
        hidden_activation="gelu_approximate",
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
        sliding_window=4,
        rope_theta=10000.0,
        max_position_embeddings=16,
        vocab_size_per_layer_input=30,
        hidden_size_per_layer_input=4,
        altup_num_inputs=2,
        laurel_rank=2,
    )


def gemma4():
    encoder = models.Gemma4VisionEncoder(
        **STACK,
        image_size=32,
        patch_size=8,
        pool_size=2,
        head_dim=4,
        output_dim=8,
        position_embedding_size=8,
    )
    return models.Gemma4Backbone(
        **DECODER, head_dim=4, image_size=32, sliding_window_pattern=3, vision_encoder=encoder
    )


def metaclip_2():
    return models.MetaCLIP2Backbone(
        vision_encoder=models.MetaCLIP2VisionEncoder(**PATCHES, **STACK),
        text_encoder=models.MetaCLIP2TextEncoder(**TEXT_TOWER),
        projection_dim=8,
    )


def pali_gemma():
    return models.PaliGemmaBackbone(
        **DECODER,
        head_dim=4,
        image_size=32,
        vit_patch_size=16,
        vit_num_heads=2,
        vit_hidden_dim=8,
        vit_num_layers=3,
        vit_intermediate_dim=16,
    )


def siglip():
    return models.SigLIPBackbone(
        vision_encoder=models.SigLIPVisionEncoder(**PATCHES, **STACK),
        text_encoder=models.SigLIPTextEncoder(**TEXT_TOWER),
    )


# Text to image.


def flux():
    return models.FluxBackbone(
        input_channels=8,
        hidden_size=16,
        mlp_ratio=2.0,
        num_heads=2,
        depth=3,
        depth_single_blocks=3,
        axes_dim=[4, 2, 2],
        theta=10000,
        use_bias=True,
        guidance_embed=True,
        image_shape=(4, 8),
        text_shape=(4, 8),
        image_ids_shape=(4, 3),
        text_ids_shape=(4, 3),
        y_shape=(8,),
    )


def stable_diffusion_3():
    def text_encoder(name):
        return models.CLIPTextEncoder(**TEXT_TOWER, intermediate_output_index=-2, name=name)

    return models.StableDiffusion3Backbone(
        mmdit_patch_size=2,
        mmdit_hidden_dim=16,
        mmdit_num_layers=3,
        mmdit_num_heads=2,
        mmdit_position_size=8,
        mmdit_qk_norm=None,
        mmdit_dual_attention_indices=None,
        vae=VAEBackbone([32] * 4, [1] * 4, [32] * 4, [1] * 4),
        clip_l=text_encoder("clip_l"),
        clip_g=text_encoder("clip_g"),
        image_shape=(64, 64, 3),
    )


FAMILIES = {
    "albert": albert,
    "bart": bart,
    "basnet": basnet,
    "bert": bert,
    "blip2": blip2,
    "bloom": bloom,
    "clip": clip,
    "cspnet": cspnet,
    "d_fine": d_fine,
    "deberta_v3": deberta_v3,
    "deeplab_v3": deeplab_v3,
    "deit": deit,
    "densenet": densenet,
    "depth_anything": depth_anything,
    "dinov2": dinov2,
    "dinov3": dinov3,
    "distil_bert": distil_bert,
    "edrec": edrec,
    "efficientnet": efficientnet,
    "electra": electra,
    "esm": esm,
    "f_net": f_net,
    "falcon": falcon,
    "flux": flux,
    "gemma": gemma,
    "gemma3": gemma3,
    "gemma3n": gemma3n,
    "gemma4": gemma4,
    "gpt2": gpt2,
    "gpt_neo_x": gpt_neo_x,
    "gpt_oss": gpt_oss,
    "hgnetv2": hgnetv2,
    "llama": llama,
    "llama3": llama3,
    "metaclip_2": metaclip_2,
    "mistral": mistral,
    "mit": mit,
    "mixtral": mixtral,
    "mobilenet": mobilenet,
    "mobilenetv5": mobilenetv5,
    "moonshine": moonshine,
    "opt": opt,
    "pali_gemma": pali_gemma,
    "parseq": parseq,
    "phi3": phi3,
    "qwen": qwen,
    "qwen3": qwen3,
    "qwen3_5": qwen3_5,
    "qwen3_5_moe": qwen3_5_moe,
    "qwen3_moe": qwen3_moe,
    "qwen_moe": qwen_moe,
    "resnet": resnet,
    "retinanet": retinanet,
    "roberta": roberta,
    "roformer_v2": roformer_v2,
    "rwkv7": rwkv7,
    "sam": sam,
    "sam3": sam3,
    "segformer": segformer,
    "siglip": siglip,
    "smollm3": smollm3,
    "stable_diffusion_3": stable_diffusion_3,
    "swin_transformer": swin_transformer,
    "t5": t5,
    "t5gemma": t5gemma,
    "t5gemma2": t5gemma2,
    "vgg": vgg,
    "video_prism": video_prism,
    "vit": vit,
    "vit_det": vit_det,
    "whisper": whisper,
    "xception": xception,
    "xlm_roberta": xlm_roberta,
    "xlnet": xlnet,
}


# How they are divided.


def with_head(backbone):
    """Return a model of a backbone, inlined, and a new layer on each of its outputs."""
    new = []
    for number, x in enumerate(keras.tree.flatten(backbone.output)):
        if x.shape[-1] is None:  # a table of similarities, as in CLIP
            x = keras.ops.expand_dims(x, -1)
        new.append(keras.layers.Dense(2, name=f"new_{number}")(x))
    return keras.Model(backbone.input, new)


def blocks_in(layer):
    """Yield the outermost custom blocks that stand beside others of their class, stacks opened."""
    inside = [x for x in sublayers(layer) if x.weights]
    counts = collections.Counter(type(x) for x in inside)
    for part in inside:
        if counts[type(part)] > 1 and is_composite(part) and not parts_of(part):
            yield part
        else:
            yield from blocks_in(part)


def row(family):
    """Return a row of the documentation's table: how many blocks are groups of their own."""
    backbone = FAMILIES[family]()
    *groups, head = layer_groups(with_head(backbone), backbone=backbone)
    assert {x.name.partition("_")[0] for x in head.layers if x.weights} == {"new"}
    blocks = {id(block) for block in blocks_in(backbone)}
    alone = 0
    for group in groups:
        inside = {id(x) for layer in group.layers for x in every_layer(layer)} & blocks
        alone += len(inside) == 1
    names = ", ".join(group.name for group in groups[:9]) + (", ..." if len(groups) > 9 else "")
    of_blocks = f"{alone} of {len(blocks)}" if blocks else "-"
    return f"| {family} | {len(groups)} | {of_blocks} | {names} |"


if __name__ == "__main__":
    for family in FAMILIES:
        print(row(family))
