"""Architectures of the miniature: the classes of the full models, at about a thousandth of the size.

Each function makes one model with random weights. The sizes are here and nowhere else: all other code reads them
from the folders' own configurations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bottega.miniature.painters import KINDS
from bottega.miniature.scenes import SHAPES

if TYPE_CHECKING:
    import torch
    from diffusers import AutoencoderTiny, PixArtTransformer2DModel, UNet2DConditionModel
    from transformers import CLIPModel, CLIPTextModelWithProjection, T5EncoderModel

PICTURE = 128  # pixels a side
LATENT = 32  # latent cells a side: the autoencoder halves twice
CHANNELS = 4
WIDTH = 128  # of every text and picture encoder
IP_TOKENS = 4


def autoencoder() -> AutoencoderTiny:
    """Pictures [B, 3, 128, 128] in -1..1 <-> latents [B, 4, 32, 32]."""
    from diffusers import AutoencoderTiny

    return AutoencoderTiny(
        encoder_block_out_channels=(48, 48, 48),
        decoder_block_out_channels=(48, 48, 48),
        num_encoder_blocks=(0, 2, 3),
        num_decoder_blocks=(3, 2, 0),
        latent_channels=CHANNELS,
        force_upcast=False,
    )


def clip(vocabulary: int, end_token: int) -> CLIPModel:
    """Joint space of pictures (64 patches of 16 × 16) and captions, 128 wide."""
    from transformers import CLIPConfig, CLIPModel

    vision = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": PICTURE,
        "patch_size": 16,
    }
    return CLIPModel(CLIPConfig(text_config=_text(vocabulary, end_token), vision_config=vision, projection_dim=WIDTH))


def second_text_encoder(vocabulary: int, end_token: int) -> CLIPTextModelWithProjection:
    """SDXL's second text encoder, aligned with the same picture tower."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    return CLIPTextModelWithProjection(CLIPTextConfig(**_text(vocabulary, end_token), projection_dim=WIDTH))


def _text(vocabulary: int, end_token: int) -> dict[str, int]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "bos_token_id": end_token - 1,
        "eos_token_id": end_token,
        "pad_token_id": end_token,
    }


def unet() -> UNet2DConditionModel:
    """SDXL's U-Net: two text encoders side by side, pooled text and six size numbers beside the time."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=LATENT,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(48, 64, 96),  # strokes live at full resolution
        layers_per_block=1,
        norm_num_groups=8,
        transformer_layers_per_block=(1, 1, 1),
        attention_head_dim=(1, 2, 3),
        cross_attention_dim=2 * WIDTH,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=WIDTH + 6 * 32,
    )


def deep_unet() -> UNet2DConditionModel:
    """SDXL's U-Net with a fourth level of 4 × 4 cells, one for each repeat of the canvas (32 px).

    A convolution knows where it is by the zeros beyond the border alone. On 4 × 4 cells two convolutions carry them to
    every cell; on 8 × 8 the middle learns its place late: the three levels of `unet` preserved 72 % of the objects.
    """
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=LATENT,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(48, 64, 128, 160),
        layers_per_block=1,
        norm_num_groups=8,
        transformer_layers_per_block=(1, 1, 1, 1),
        attention_head_dim=(1, 2, 4, 5),
        cross_attention_dim=2 * WIDTH,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=WIDTH + 6 * 32,
    )


def size_ids(count: int, side: int = PICTURE) -> torch.Tensor:
    """SDXL's six size numbers of an uncropped picture: original size, crop, target size, [count, 6]."""
    import torch

    return torch.tensor([[side, side, 0, 0, side, side]], dtype=torch.float32).repeat(count, 1)


def t5(vocabulary: int) -> T5EncoderModel:
    """Text for PixArt: token states [B, L, 128]."""
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=vocabulary,
        d_model=WIDTH,
        d_kv=32,
        d_ff=2 * WIDTH,
        num_layers=3,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=1,
    )
    return T5EncoderModel(config)


def pixart() -> PixArtTransformer2DModel:
    """12 blocks × 192 on 64 tokens (patches of 4 × 4 latent cells); 8 output channels: v and the variance."""
    from diffusers import PixArtTransformer2DModel

    return PixArtTransformer2DModel(
        num_attention_heads=6,
        attention_head_dim=32,
        in_channels=CHANNELS,
        out_channels=2 * CHANNELS,
        num_layers=12,
        cross_attention_dim=192,
        sample_size=LATENT,
        patch_size=4,
        caption_channels=WIDTH,
        activation_fn="gelu-approximate",
        attention_bias=True,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
    )


def style_classifier() -> Any:
    """Tells the painters' kinds apart; serves evaluation only."""
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        embedding_size=24,
        hidden_sizes=[24, 48, 96, 128],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        id2label=dict(enumerate(KINDS)),
        label2id={kind: number for number, kind in enumerate(KINDS)},
    )
    return ResNetForImageClassification(config)


def structure_encoder() -> Any:
    """A ViT whose keys say what is where, whoever painted it; serves evaluation only."""
    from transformers import ViTConfig, ViTModel

    size = {"hidden_size": 96, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4}
    return ViTModel(ViTConfig(**size, image_size=PICTURE, patch_size=16), add_pooling_layer=False)


def scene_reader() -> Any:
    """The oracle that reads scenes: class of each pixel (0 background, k + 1 for shape k), at the picture's size."""
    from transformers import ResNetConfig, UperNetConfig, UperNetForSemanticSegmentation

    classes = ("background", *SHAPES)
    backbone = ResNetConfig(
        embedding_size=24,
        hidden_sizes=[24, 48, 80, 112],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = UperNetConfig(
        backbone_config=backbone,
        hidden_size=32,
        pool_scales=[1, 2],
        use_auxiliary_head=False,
        id2label=dict(enumerate(classes)),
        label2id={name: number for number, name in enumerate(classes)},
    )
    return UperNetForSemanticSegmentation(config)


def teacher_scheduler() -> Mapping[str, Any]:
    """SDXL's noise schedule as its folder states it."""
    return {
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "steps_offset": 1,
        "clip_sample": False,
        "set_alpha_to_one": False,
        "prediction_type": "epsilon",
        "timestep_spacing": "leading",
    }


def pixart_scheduler() -> Mapping[str, Any]:
    """PixArt-α's noise schedule: linear betas, not Stable Diffusion's. Its prediction is v, see `pixart_task`."""
    return {
        "num_train_timesteps": 1000,
        "beta_start": 0.0001,
        "beta_end": 0.02,
        "beta_schedule": "linear",
        "prediction_type": "v_prediction",
        "algorithm_type": "dpmsolver++",
        "solver_order": 2,
    }
