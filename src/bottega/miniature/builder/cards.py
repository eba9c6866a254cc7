"""The model cards that are packed with the miniature's folders: what each departs from, and what it is of use for."""

from __future__ import annotations

_HEAD = """---
license: apache-2.0
library_name: {library}
---
# {title}

Part of bottega's miniature: trained from scratch by `bottega miniature build` on a drawn world, of use only there.
Training data: scenes and painters 0 and up of `bottega.miniature.world`; judged on scenes and painters held out.
No photograph, painting or foreign weight went in. What each gate measured stands in `gates.json` beside the folders.

{body}
"""


_PIXART = """\
`PixArtTransformer2DModel` with 12 blocks of width 192, patches of 4 × 4 latent cells, v and variance (8 channels), and
a T5 encoder trained with it, on captions of plain and painted scenes, of Fill50K, and of scenes that differ in their
shape alone. It departs from the published model in what it predicts: v, not ε, because a token holds 64 numbers of
noise. Most of its samples had half of the side."""


def _card(title: str, library: str, body: str) -> str:
    return _HEAD.format(title=title, library=library, body=body)


CARDS = {
    "sdxl": _card(
        "Miniature SDXL",
        "diffusers",
        "An SDXL U-Net, two text encoders and an `AutoencoderTiny` (4 channels, a quarter of the side), for 128 px.\n\n"
        "It departs from the published model: besides ordinary noising it was trained on *pairs*, from the noised\n"
        "plain picture to the painted one, because at strength 0.40 the noised content outweighs any style that was\n"
        "learned the ordinary way. The noise of each pair was the nearest of eight to the target's strokes.",
    ),
    "ip_adapter": _card(
        "Miniature IP-Adapter",
        "diffusers",
        "Four picture tokens from the miniature CLIP, in the published key layout. It departs from IP-Adapter's own\n"
        "training: it was trained together with its U-Net, on pairs of plain and painted pictures, with\n"
        "`ip_adapter_scale` drawn from 0.3 to 1.0.",
    ),
    "pixart": _card("Miniature PixArt-α", "diffusers", _PIXART),
    "clip": _card(
        "Miniature CLIP",
        "transformers",
        "Of four captions two named kind, palette and scale, one of them nothing else. Beside the contrast, a\n"
        "linear head (thrown away) read kind, palette, period and angle from the picture's embedding. Serves teacher,\n"
        "student and quality.",
    ),
    "style_classifier": _card(
        "Miniature style classifier",
        "transformers",
        "Classifies the eight kinds of painter. Serves evaluation only, so that nothing is optimised against it.",
    ),
    "structure_encoder": _card(
        "Miniature structure encoder",
        "transformers",
        "A ViT whose features agree between a scene and its paintings. Serves evaluation only.",
    ),
    "scene_reader": _card(
        "Miniature scene reader",
        "transformers",
        "An UperNet on a small ResNet that segments shapes, whoever painted them: the oracle that reads scenes.\n"
        "Serves evaluation only.",
    ),
}


def clip_card(samples: int) -> str:
    """The card of `clip` after `bottega miniature train --model clip`.

    Args:
        samples: how many pictures its picture tower has learned from in that training.
    """
    trained = f"{samples:,} pictures".replace(",", " ")
    return _card(
        "Miniature CLIP",
        "transformers",
        "Of four captions two named kind, palette and scale, one of them nothing else. Beside the contrast, a\n"
        "linear head (thrown away) read kind, palette, brush and angle from the picture's embedding. Its picture\n"
        f"tower was then trained on {trained} by 36 000 painters (`bottega miniature train --model clip`),\n"
        "with the text encoders frozen: 480 painters were too few to know palettes by. Serves teacher, student and\n"
        "quality.",
    )


def pixart_card(samples: int) -> str:
    """The card of `pixart` after `bottega miniature train --model pixart`.

    Args:
        samples: how many its transformer and T5 have learned from.
    """
    trained = f"{samples:,} samples".replace(",", " ")
    body = f"{_PIXART}\n\nTrained on {trained} by `bottega miniature train --model pixart`."
    return _card("Miniature PixArt-α", "diffusers", body)


def long_training_cards(samples: int) -> dict[str, str]:
    """The cards of `sdxl` and `ip_adapter` after `bottega miniature train`.

    Args:
        samples: how many the U-Net and its IP-Adapter have learned from in that training.
    """
    trained = f"`bottega miniature train` gave U-Net and IP-Adapter {samples:,} samples".replace(",", " ")
    return {
        "sdxl": _card(
            "Miniature SDXL",
            "diffusers",
            "An SDXL U-Net of four levels, two text encoders and an `AutoencoderTiny` (4 channels, a quarter of the\n"
            f"side), for 128 px. {trained}.\n\n"
            "It departs from the published model: beside captions of plain and painted pictures, many of them at half\n"
            "of the side, it learned from *pairs*, from the noised plain picture to the painted one along DDIM's\n"
            "path, because a noised content outweighs any style that was learned the ordinary way; half of these\n"
            "paths began at the network's own first guess. Later most began where strengths of 0.24 and 0.28 do: at\n"
            "the published 0.40 the noise hides a quarter of the objects. The last 393 000 samples taught it words\n"
            "for shapes, by *siblings* that differ in such a word alone, and then the paintings that these had made\n"
            "it forget, from the predictions of the network before.",
        ),
        "ip_adapter": _card(
            "Miniature IP-Adapter",
            "diffusers",
            "Four picture tokens from the miniature CLIP, in the published key layout. It departs from IP-Adapter's\n"
            f"own training: {trained},\n"
            "together, the adapter from pairs of plain and painted pictures. At `ip_adapter_scale` s it learned the\n"
            "share of a style that guidance 1.05 / s makes whole.",
        ),
    }
