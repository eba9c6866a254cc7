"""The configurations of the published repositories, and the same at reduced width.

The numbers are facts of the repositories (revisions of 2023): stabilityai/stable-diffusion-xl-base-1.0, h94/IP-Adapter,
PixArt-alpha/PixArt-XL-2-512x512, openai/clip-vit-large-patch14, facebook/dino-vitb8. Fields that neither change a shape
nor what is computed are left out.

Reduced are widths alone. Depths, blocks, vocabularies and pictures stay, so that every file and every tensor has its
published name, and what reads one size reads the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Scale = Literal["full", "reduced"]
Configuration = Mapping[str, object]

_DOWN = ["DownEncoderBlock2D"] * 4
_UP = ["UpDecoderBlock2D"] * 4


def sdxl_unet(scale: Scale) -> Configuration:
    """unet/config.json of SDXL base 1.0."""
    config: dict[str, object] = {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": "0.19.0.dev0",
        "act_fn": "silu",
        "addition_embed_type": "text_time",
        "addition_embed_type_num_heads": 64,
        "addition_time_embed_dim": 256,
        "attention_head_dim": [5, 10, 20],
        "block_out_channels": [320, 640, 1280],
        "center_input_sample": False,
        "cross_attention_dim": 2048,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": 4,
        "layers_per_block": 2,
        "mid_block_scale_factor": 1,
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "norm_eps": 1e-05,
        "norm_num_groups": 32,
        "out_channels": 4,
        "projection_class_embeddings_input_dim": 2816,
        "resnet_time_scale_shift": "default",
        "sample_size": 128,
        "time_embedding_type": "positional",
        "transformer_layers_per_block": [1, 2, 10],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "use_linear_projection": True,
    }
    if scale == "reduced":
        config |= {
            "attention_head_dim": [1, 2, 3],
            "block_out_channels": [32, 64, 96],
            "addition_time_embed_dim": 32,
            "cross_attention_dim": 160,  # the two text encoders side by side
            "projection_class_embeddings_input_dim": 288,  # the second one's embedding, and six numbers of 32
        }
    return config


def sdxl_vae(scale: Scale) -> Configuration:
    """vae/config.json of SDXL base 1.0."""
    return {
        **_autoencoder(scale),
        "_diffusers_version": "0.20.0.dev0",
        "force_upcast": True,
        "sample_size": 1024,
        "scaling_factor": 0.13025,
    }


def pixart_vae(scale: Scale) -> Configuration:
    """vae/config.json of PixArt-α: the autoencoder of Stable Diffusion 1, fine-tuned (sd-vae-ft-ema)."""
    return {
        **_autoencoder(scale),
        "_diffusers_version": "0.22.0.dev0",
        "force_upcast": True,
        "sample_size": 256,
        "scaling_factor": 0.18215,
    }


def _autoencoder(scale: Scale) -> dict[str, object]:
    return {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": [128, 256, 512, 512] if scale == "full" else [32, 64, 96, 96],
        "down_block_types": _DOWN,
        "in_channels": 3,
        "latent_channels": 4,
        "layers_per_block": 2,
        "norm_num_groups": 32,
        "out_channels": 3,
        "up_block_types": _UP,
    }


def sdxl_text(scale: Scale) -> Configuration:
    """text_encoder/config.json of SDXL base 1.0: the text tower of CLIP ViT-L/14."""
    return _text(scale, "CLIPTextModel", width=768, heads=12, layers=12, act="quick_gelu", reduced=64)


def sdxl_second_text(scale: Scale) -> Configuration:
    """text_encoder_2/config.json of SDXL base 1.0: the text tower of OpenCLIP ViT-bigG/14."""
    return _text(scale, "CLIPTextModelWithProjection", width=1280, heads=20, layers=32, act="gelu", reduced=96)


def _text(scale: Scale, kind: str, *, width: int, heads: int, layers: int, act: str, reduced: int) -> Configuration:
    if scale == "reduced":
        width, heads = reduced, 4
    return {
        "architectures": [kind],
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "dropout": 0.0,
        "eos_token_id": 2,
        "hidden_act": act,
        "hidden_size": width,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": 4 * width,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 77,
        "model_type": "clip_text_model",
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "pad_token_id": 1,
        "projection_dim": width,
        "torch_dtype": "float16",
        "vocab_size": 49408,
    }


def vit_h(scale: Scale) -> Configuration:
    """models/image_encoder/config.json of h94/IP-Adapter: OpenCLIP ViT-H/14."""
    sizes = (1280, 5120, 16, 1024) if scale == "full" else (64, 256, 4, 48)
    return _image(sizes, layers=32, act="gelu")


def vit_bigg(scale: Scale) -> Configuration:
    """sdxl_models/image_encoder/config.json of h94/IP-Adapter: OpenCLIP ViT-bigG/14.

    Its projection is as wide as ViT-H is inside, 1280: an adapter must not be judged by that number alone.
    """
    sizes = (1664, 8192, 16, 1280) if scale == "full" else (96, 384, 4, 64)
    return _image(sizes, layers=48, act="gelu")


def _image(sizes: tuple[int, int, int, int], *, layers: int, act: str) -> Configuration:
    """sizes: width, width within an MLP, heads, width of the projection."""
    width, inner, heads, projection = sizes
    return {
        "architectures": ["CLIPVisionModelWithProjection"],
        "attention_dropout": 0.0,
        "dropout": 0.0,
        "hidden_act": act,
        "hidden_size": width,
        "image_size": 224,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": inner,
        "layer_norm_eps": 1e-05,
        "model_type": "clip_vision_model",
        "num_attention_heads": heads,
        "num_channels": 3,
        "num_hidden_layers": layers,
        "patch_size": 14,
        "projection_dim": projection,
        "torch_dtype": "float16",
    }


def pixart_transformer(scale: Scale) -> Configuration:
    """transformer/config.json of PixArt-XL-2-512x512, as diffusers 0.22 wrote it for a class of several models."""
    config: dict[str, object] = {
        "_class_name": "Transformer2DModel",
        "_diffusers_version": "0.22.0.dev0",
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "attention_head_dim": 72,
        "attention_type": "default",
        "caption_channels": 4096,
        "cross_attention_dim": 1152,
        "double_self_attention": False,
        "dropout": 0.0,
        "in_channels": 4,
        "norm_elementwise_affine": False,
        "norm_eps": 1e-06,
        "norm_num_groups": 32,
        "norm_type": "ada_norm_single",
        "num_attention_heads": 16,
        "num_embeds_ada_norm": 1000,
        "num_layers": 28,
        "num_vector_embeds": None,
        "only_cross_attention": False,
        "out_channels": 8,
        "patch_size": 2,
        "sample_size": 64,
        "upcast_attention": False,
        "use_linear_projection": False,
    }
    if scale == "reduced":
        config |= {
            "attention_head_dim": 16,
            "num_attention_heads": 4,
            "cross_attention_dim": 64,
            "caption_channels": 64,
        }
    return config


def t5_encoder(scale: Scale) -> Configuration:
    """text_encoder/config.json of PixArt-XL-2-512x512: the encoder of T5 v1.1 XXL."""
    config: dict[str, object] = {
        "architectures": ["T5EncoderModel"],
        "d_ff": 10240,
        "d_kv": 64,
        "d_model": 4096,
        "decoder_start_token_id": 0,
        "dense_act_fn": "gelu_new",
        "dropout_rate": 0.1,
        "eos_token_id": 1,
        "feed_forward_proj": "gated-gelu",
        "initializer_factor": 1.0,
        "is_encoder_decoder": True,
        "is_gated_act": True,
        "layer_norm_epsilon": 1e-06,
        "model_type": "t5",
        "num_decoder_layers": 24,
        "num_heads": 64,
        "num_layers": 24,
        "output_past": True,
        "pad_token_id": 0,
        "relative_attention_max_distance": 128,
        "relative_attention_num_buckets": 32,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "use_cache": True,
        "vocab_size": 32128,
    }
    if scale == "reduced":
        config |= {"d_ff": 160, "d_kv": 16, "d_model": 64, "num_heads": 4}
    return config


def clip(scale: Scale) -> Configuration:
    """config.json of openai/clip-vit-large-patch14."""
    text = dict(sdxl_text(scale))  # the same tower
    sizes = (1024, 4096, 16, 768) if scale == "full" else (64, 256, 4, 64)
    vision = dict(_image(sizes, layers=24, act="quick_gelu"))
    for part in (text, vision):
        for field in ("architectures", "torch_dtype"):
            del part[field]
    return {
        "architectures": ["CLIPModel"],
        "initializer_factor": 1.0,
        "logit_scale_init_value": 2.6592,
        "model_type": "clip",
        "projection_dim": vision["projection_dim"],
        "text_config": text,
        "torch_dtype": "float32",
        "vision_config": vision,
    }


def dino(scale: Scale) -> Configuration:
    """config.json of facebook/dino-vitb8."""
    width, heads = (768, 12) if scale == "full" else (64, 4)
    return {
        "architectures": ["ViTModel"],
        "attention_probs_dropout_prob": 0.0,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "hidden_size": width,
        "image_size": 224,
        "initializer_range": 0.02,
        "intermediate_size": 4 * width,
        "layer_norm_eps": 1e-12,
        "model_type": "vit",
        "num_attention_heads": heads,
        "num_channels": 3,
        "num_hidden_layers": 12,
        "patch_size": 8,
        "qkv_bias": True,
    }


SDXL_SCHEDULER: Configuration = {
    "_class_name": "EulerDiscreteScheduler",
    "_diffusers_version": "0.19.0.dev0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "trained_betas": None,
    "use_karras_sigmas": False,
}

PIXART_SCHEDULER: Configuration = {
    "_class_name": "DPMSolverMultistepScheduler",
    "_diffusers_version": "0.22.0.dev0",
    "algorithm_type": "dpmsolver++",
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "beta_start": 0.0001,
    "dynamic_thresholding_ratio": 0.995,
    "euler_at_final": False,
    "lower_order_final": True,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "solver_order": 2,
    "solver_type": "midpoint",
    "steps_offset": 0,
    "thresholding": False,
    "timestep_spacing": "linspace",
    "trained_betas": None,
    "use_karras_sigmas": False,
    "use_lu_lambdas": False,
    "variance_type": None,
}

SDXL_INDEX: Configuration = {
    "_class_name": "StableDiffusionXLPipeline",
    "_diffusers_version": "0.19.0.dev0",
    "force_zeros_for_empty_prompt": True,
    "add_watermarker": None,
    "scheduler": ["diffusers", "EulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}

PIXART_INDEX: Configuration = {
    "_class_name": "PixArtAlphaPipeline",
    "_diffusers_version": "0.22.0.dev0",
    "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
    "text_encoder": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "T5Tokenizer"],
    "transformer": ["diffusers", "Transformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}

CLIP_PREPROCESSING: Configuration = {
    "crop_size": 224,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": 224,
}

DINO_PREPROCESSING: Configuration = {
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "ViTFeatureExtractor",
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "resample": 2,
    "size": 224,
}
