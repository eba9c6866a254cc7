"""The recipe's section `models`: which models a run uses, and how they are held in memory."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from bottega.runtime.config import Added, Config

_NAME = "a folder, `bottega:…` inside the package, or `org/name[/sub-folder][@revision]` in the Hugging Face cache"


class ModelsConfig(Config):
    """Names of the models, and how they are held in memory. A stage whose model is None is refused."""

    sdxl: str | None = Field(None, description=f"teacher: a folder in the layout of StableDiffusionXLPipeline; {_NAME}")
    sdxl_vae: str | None = Field(
        None, description="another autoencoder for the teacher in place of sdxl/vae (such as the fp16-safe one)"
    )
    ip_adapter: str | None = Field(
        None, description="teacher: folder or file of the IP-Adapter, its image_encoder/ beside it"
    )
    pixart: str | None = Field(None, description="student: a folder in the layout of PixArtAlphaPipeline")
    clip: str | None = Field(None, description="CLIPModel for quality control, style tokens and text scores")
    style_classifier: str | None = Field(
        None, description="image classifier whose labels are style names; evaluation only"
    )
    structure_encoder: str | None = Field(None, description="ViT whose keys say what lies where; evaluation only")
    scene_reader: str | None = Field(
        None, description="semantic segmentation (SegFormer) that finds objects; evaluation only"
    )
    lpips: Annotated[str | None, Added(before=None)] = Field(
        None, description="folder with alexnet.safetensors and lpips_linear.safetensors; evaluation only"
    )
    inception: Annotated[str | None, Added(before=None)] = Field(
        None, description="safetensors file of ArtFID's Inception, or of FID's; evaluation only"
    )
    vgg19: Annotated[str | None, Added(before=None)] = Field(
        None, description="safetensors file of VGG19 in torchvision's layout, for CFSD; evaluation only"
    )
    style_encoder: Annotated[str | None, Added(before=None)] = Field(
        None,
        description="CLIP's picture tower with style_projection.safetensors (CSD) that says how a picture is painted; "
        "evaluation only",
    )
    cache: str | None = Field(None, description="the Hugging Face cache; None: what HF_HUB_CACHE and HF_HOME say")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="of the diffusion models; auto: float32 on the CPU, bfloat16 (float16 before Ampere) on a GPU",
    )
    device: str = Field(
        "auto", description="auto: the first CUDA device where there is one, else cpu; or cpu, cuda, cuda:1 …"
    )
