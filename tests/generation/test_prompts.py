"""Prompts: AUTOMATIC1111's brackets by hand, nothing cut in silence, and short plain ones as diffusers encodes them."""

from __future__ import annotations

import pytest
import torch

from bottega.generation.engine import PixArtEngine, SDXLEngine
from bottega.generation.modules import load_modules
from bottega.generation.prompts import TextConditions, encode_sdxl, parse, plain_text
from bottega.runtime.errors import RequestError

LONG = "a painting of " + ", ".join(["a red circle and a blue square"] * 20)


def weights(prompt: str) -> list[tuple[str, float]]:
    return [(fragment.text, round(fragment.weight, 4)) for fragment in parse(prompt)]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a cat", [("a cat", 1.0)]),
        ("", [("", 1.0)]),
        ("  ", [("", 1.0)]),
        ("a (red) cat", [("a", 1.0), ("red", 1.1), ("cat", 1.0)]),
        ("a ((red)) cat", [("a", 1.0), ("red", 1.21), ("cat", 1.0)]),
        ("a [red] cat", [("a", 1.0), ("red", 0.9091), ("cat", 1.0)]),
        ("(red:1.3)", [("red", 1.3)]),
        ("(red:.5)", [("red", 0.5)]),
        ("(red : 2 )", [("red", 2.0)]),
        ("(red:0)", [("red", 0.0)]),
        ("(a (red:1.5) cat)", [("a", 1.1), ("red", 1.65), ("cat", 1.1)]),
        ("((red):1.5)", [("red", 1.65)]),
        ("[(red)]", [("red", 1.0)]),  # 1.1 / 1.1
        ("(a), (b)", [("a", 1.1), (",", 1.0), ("b", 1.1)]),
        ("(a)(b)", [("ab", 1.1)]),
        # A backslash makes a bracket a plain one.
        (r"a \(red\) cat", [("a (red) cat", 1.0)]),
        (r"(red \(dark\):1.2)", [("red (dark)", 1.2)]),
        (r"a \[b\] \\ c", [("a [b] \\ c", 1.0)]),
        # Never closed: all that follows; never opened: a plain one.
        ("a (red cat", [("a", 1.0), ("red cat", 1.1)]),
        ("a [red (cat", [("a", 1.0), ("red", 0.9091), ("cat", 1.0)]),
        ("red) cat", [("red) cat", 1.0)]),
        ("red:1.3) cat", [("red:1.3) cat", 1.0)]),
        # A weight belongs to round brackets alone, and stands at their end.
        ("[red:1.3]", [("red:1.3", 0.9091)]),
        ("(red:1.3", [("red:1.3", 1.1)]),
        ("(red:dark)", [("red:dark", 1.1)]),
        ("ratio 16:9", [("ratio 16:9", 1.0)]),
    ],
)
def test_brackets_weigh_as_in_automatic1111(prompt: str, expected: list[tuple[str, float]]) -> None:
    assert weights(prompt) == expected


@pytest.mark.parametrize("prompt", ["a cat <lora:ink:0.8>", "<LoRA:ink>", "<lyco:x:1>", "<hypernet:y:1>"])
def test_a_loras_tag_is_refused(prompt: str) -> None:
    with pytest.raises(RequestError, match="LoRAs are named beside the prompt"):
        parse(prompt)


@pytest.mark.parametrize("prompt", ["(a:-1)", "(a:10.5)", "((a:9):9)", "(" * 30 + "a", "(a:1e3)" + "(b:11)"])
def test_weights_out_of_range_are_refused_also_where_brackets_multiply_to_them(prompt: str) -> None:
    with pytest.raises(RequestError, match="weight in a prompt is 0 to 10"):
        parse(prompt)


def test_a_prompts_plain_text_has_no_brackets() -> None:
    assert plain_text(r"a (red:1.3) \(dark\) cat") == "a red (dark) cat"


# --- SDXL -------------------------------------------------------------------------------------------------------------


def encode(
    engine: SDXLEngine, prompt: str, negative: str = "", clip_skip: int = 2, guided: bool = True
) -> TextConditions:
    return encode_sdxl(engine.txt2img, prompt, negative, clip_skip, guided=guided, device=torch.device("cpu"))


@pytest.mark.parametrize("negative", ["", "a square"])
@pytest.mark.parametrize("clip_skip", [2, 3])
def test_a_plain_short_prompt_is_encoded_as_by_diffusers(engine: SDXLEngine, negative: str, clip_skip: int) -> None:
    ours = encode(engine, "a red circle on a blue ground", negative, clip_skip)
    states, negative_states, pooled, negative_pooled = engine.txt2img.encode_prompt(
        "a red circle on a blue ground",
        device=torch.device("cpu"),
        do_classifier_free_guidance=True,
        negative_prompt=negative or None,
        clip_skip=None if clip_skip == 2 else 1,
    )
    assert torch.equal(ours.states, states)
    assert torch.equal(ours.pooled, pooled)
    assert ours.negative_states is not None and torch.equal(ours.negative_states, negative_states)
    assert ours.negative_pooled is not None and torch.equal(ours.negative_pooled, negative_pooled)


def test_a_long_prompt_keeps_its_last_words(engine: SDXLEngine) -> None:
    one, other = encode(engine, f"{LONG}, a green star"), encode(engine, f"{LONG}, a yellow moon")
    assert one.states.shape[1] > 77
    assert one.states.shape[1] % 77 == 0
    assert not torch.equal(one.states[:, 77:], other.states[:, 77:])
    # diffusers cuts both to the same 75 tokens.
    cut = [
        engine.txt2img.encode_prompt(f"{LONG}, {end}", device=torch.device("cpu"))[0]
        for end in ("a green star", "a yellow moon")
    ]
    assert torch.equal(cut[0], cut[1])


def test_the_shorter_of_prompt_and_negative_is_filled_up_with_empty_chunks(engine: SDXLEngine) -> None:
    for prompt, negative in ((LONG, "a square"), ("a square", LONG)):
        both = encode(engine, prompt, negative)
        assert both.negative_states is not None
        assert both.states.shape == both.negative_states.shape
        short = both.negative_states if prompt == LONG else both.states
        filled = short[:, 77:].unflatten(1, (-1, 77))
        nothing = encode(engine, "(a:1.2)", "(:1.2)").negative_states
        assert nothing is not None
        assert torch.allclose(filled, nothing[:, None].expand_as(filled), atol=1e-5)


def test_a_long_prompt_without_negative_gets_zeros_as_sdxl_does(engine: SDXLEngine) -> None:
    both = encode(engine, LONG)
    assert both.negative_states is not None and both.negative_pooled is not None
    assert both.negative_states.shape == both.states.shape
    assert not both.negative_states.any()
    assert not both.negative_pooled.any()
    assert encode(engine, LONG, guided=False).negative_states is None


def test_a_weight_changes_what_is_told_and_more_weight_changes_more(engine: SDXLEngine) -> None:
    plain = encode(engine, "a red circle").states
    moved = [float((encode(engine, f"a (red:{w}) circle").states - plain).norm()) for w in (1.01, 1.2, 2.0)]
    assert 0 < moved[0] < moved[1] < moved[2]


def test_another_layer_than_the_usual_is_refused_for_weights_not_ignored(engine: SDXLEngine) -> None:
    with pytest.raises(RequestError, match="clip_skip 2, received 3"):
        encode(engine, "a (red:1.2) circle", clip_skip=3)


def test_a_prompt_of_too_many_tokens_is_refused_not_cut(engine: SDXLEngine) -> None:
    with pytest.raises(RequestError, match=r"at most 1200 tokens, received \d+"):
        encode(engine, "circle " * 1300)


# --- PixArt -----------------------------------------------------------------------------------------------------------


def test_pixart_refuses_weights_and_long_prompts() -> None:
    engine = PixArtEngine(load_modules("bottega:miniature/weights/pixart", device="cpu"))
    from bottega.generation.prompts import encode_pixart

    with pytest.raises(RequestError, match="PixArt takes no weights"):
        encode_pixart(engine.txt2img, "a (red:1.2) circle", "", guided=True, device=torch.device("cpu"))
    with pytest.raises(RequestError, match=r"PixArt takes prompts of \d+ tokens"):
        encode_pixart(engine.txt2img, "circle " * 200, "", guided=True, device=torch.device("cpu"))
