"""ComfyUI's graph of nodes: walked back from the picture to its samplers, and from these to prompts and model.

    {"3": {"class_type": "KSampler", "inputs": {"seed": 1, "model": ["4", 0], "positive": ["6", 0], …}}, …}

An input is a value, or a link [node, output]. The chunk `prompt` holds the graph as it was run. `workflow` holds it as
the editor saves it, with the values of a node in a bare list; it is read where `prompt` is missing. Nodes that are not
known by name are walked through by the names of their inputs, which custom nodes mostly share with ComfyUI's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bottega.generation.metadata import samplers, values
from bottega.generation.metadata.records import LoRAMention, PictureMetadata
from bottega.generation.records import MAX_PROMPT

_MAX_NODES = 5_000  # the largest published workflows have some hundreds
_MAX_SAVES = 20
_MAX_PASSES = 50

_SAVES = ("SaveImage", "PreviewImage", "SaveAnimatedWEBP", "SaveAnimatedPNG", "Image Save", "SaveImageWebsocket")
_TEXT_INPUTS = (
    "text",
    "prompt",
    "string",
    "value",
    "text_g",
    "text_positive",
    "populated_text",
    "wildcard_text",
    "STRING",
)
_NUMBER_INPUTS = ("seed", "noise_seed", "value", "int", "float", "number", "INT", "FLOAT")
_WIDGETS: Mapping[str, tuple[str, ...]] = {
    "KSampler": ("seed", "control_after_generate", "steps", "cfg", "sampler_name", "scheduler", "denoise"),
    "KSamplerAdvanced": (
        "add_noise",
        "noise_seed",
        "control_after_generate",
        "steps",
        "cfg",
        "sampler_name",
        "scheduler",
        "start_at_step",
        "end_at_step",
        "return_with_leftover_noise",
    ),
    "CLIPTextEncode": ("text",),
    "CheckpointLoaderSimple": ("ckpt_name",),
    "CheckpointLoader": ("config_name", "ckpt_name"),
    "UNETLoader": ("unet_name", "weight_dtype"),
    "LoraLoader": ("lora_name", "strength_model", "strength_clip"),
    "LoraLoaderModelOnly": ("lora_name", "strength_model"),
    "EmptyLatentImage": ("width", "height", "batch_size"),
    "EmptySD3LatentImage": ("width", "height", "batch_size"),
    "CLIPSetLastLayer": ("stop_at_clip_layer",),
    "ModelSamplingDiscrete": ("sampling", "zsnr"),
    "RescaleCFG": ("multiplier",),
    "KSamplerSelect": ("sampler_name",),
    "BasicScheduler": ("scheduler", "steps", "denoise"),
    "RandomNoise": ("noise_seed", "control_after_generate"),
    "CFGGuider": ("cfg",),
}
"""What the values of a node mean, in the order of the editor's `widgets_values`."""

_MUTED = (2, 4)  # modes of the editor: never run, and bypassed
_PREDICTIONS = {"v_prediction": "v_prediction", "eps": "epsilon"}


@dataclass(frozen=True)
class _Node:
    kind: str
    inputs: Mapping[str, object]


@dataclass(frozen=True)
class _Graph:
    nodes: Mapping[str, _Node]

    def linked(self, node: _Node, name: str) -> tuple[str, _Node, int] | None:
        """Where an input comes from: the node's name, the node, and which of its outputs; None for a plain value."""
        link = node.inputs.get(name)
        if not isinstance(link, list) or len(link) != 2:
            return None
        name_of_source, slot = str(link[0]), link[1]
        source = self.nodes.get(name_of_source)
        if source is None:
            return None
        return name_of_source, source, slot if isinstance(slot, int) else 0

    def sources(self, node: _Node) -> Iterator[tuple[str, str, _Node, int]]:
        """All links into a node: the input's name, and where it comes from."""
        for name in node.inputs:
            link = self.linked(node, name)
            if link is not None:
                yield name, *link

    def plain(self, node: _Node, *names: str) -> object:
        """The first of these inputs that is there; a link is followed to the node that holds the value.

        No node is visited twice: in a graph with a circle, the ways through it would have no end.
        """
        waiting = [(node, name) for name in reversed(names)]
        seen: set[int] = {id(node)}
        while waiting:
            holder, name = waiting.pop()
            if name not in holder.inputs:
                continue
            link = self.linked(holder, name)
            if link is None:
                value = holder.inputs[name]
                if not isinstance(value, list | dict):
                    return value
            elif id(link[1]) not in seen:
                seen.add(id(link[1]))
                waiting += [(link[1], inner) for inner in reversed((*_NUMBER_INPUTS, *_TEXT_INPUTS))]
        return None


def read_comfyui(prompt: str | None, workflow: str | None) -> PictureMetadata | None:
    """What the two texts say; None where neither is a graph.

    Args:
        prompt: JSON of the graph as it was run.
        workflow: JSON of the editor's file.
    """
    graph = _graph_as_run(prompt) if prompt else None
    if graph is None and workflow:
        graph = _graph_of_editor(workflow)
    if graph is None:
        return None
    chain = _sampling_chain(graph)
    if not chain:
        note = "the graph has no sampler that is known here: prompt and settings could not be read"
        return PictureMetadata(tool="ComfyUI", notes=(note,))
    return _described(graph, chain)


# --- the two forms of the graph --------------------------------------------------------------------------------------


def _graph_as_run(text: str) -> _Graph | None:
    content = values.as_object(text)
    if content is None:
        return None
    inner = content.get("prompt")
    if isinstance(inner, dict):  # as sent to the server
        content = inner
    nodes: dict[str, _Node] = {}
    for name, node in list(content.items())[:_MAX_NODES]:
        if not isinstance(node, dict):
            continue
        kind, inputs = node.get("class_type"), node.get("inputs")
        if isinstance(kind, str) and isinstance(inputs, dict):
            nodes[str(name)] = _Node(kind, inputs)
    return _graph_of(nodes)


def _graph_of(nodes: Mapping[str, _Node]) -> _Graph | None:
    """A graph, where there is a node in it."""
    if not nodes:
        return None
    return _Graph(nodes)


def _graph_of_editor(text: str) -> _Graph | None:
    content = values.as_object(text)
    if content is None or not isinstance(content.get("nodes"), list):
        return None
    origins = _origins(content.get("links"))
    nodes: dict[str, _Node] = {}
    for node in content["nodes"][:_MAX_NODES]:
        if not isinstance(node, dict) or not isinstance(node.get("type"), str) or node.get("mode") in _MUTED:
            continue
        inputs: dict[str, object] = _widgets(node["type"], node.get("widgets_values"))
        for name, link in _editor_links(node.get("inputs")):
            if link in origins:
                inputs[name] = origins[link]
        nodes[str(node.get("id"))] = _Node(node["type"], inputs)
    return _graph_of(nodes)


def _origins(links: object) -> dict[int, list[object]]:
    """Where each link begins: [node, output]."""
    origins: dict[int, list[object]] = {}
    for link in values.as_list(links):
        if isinstance(link, list) and len(link) >= 5 and isinstance(link[0], int):
            origins[link[0]] = [str(link[1]), link[2]]
    return origins


def _editor_links(inputs: object) -> Iterator[tuple[str, int]]:
    for item in values.as_list(inputs):
        if not isinstance(item, dict):
            continue
        name, link = item.get("name"), item.get("link")
        if isinstance(name, str) and isinstance(link, int):
            yield name, link


def _widgets(kind: str, held: object) -> dict[str, object]:
    if isinstance(held, dict):
        return {str(name): value for name, value in held.items()}
    widgets = values.as_list(held)
    names = _WIDGETS.get(kind, ())
    if not names and len(widgets) == 1:
        names = ("value",)  # a node that holds one text or number
    return dict(zip(names, widgets, strict=False))


# --- the walk --------------------------------------------------------------------------------------------------------


def _is_sampler(node: _Node) -> bool:
    if "sampler" in node.kind.lower() and "select" not in node.kind.lower():
        return any(name in node.inputs for name in ("positive", "negative", "guider", "steps", "seed", "noise_seed"))
    return "positive" in node.inputs and "steps" in node.inputs


def _sampling_chain(graph: _Graph) -> list[tuple[str, _Node]]:
    """The samplers that the picture came through, the first pass first.

    From what saves the picture back along all links, breadth first: the sampler that is met first is the last pass. Of
    several that save, the longest chain counts; where nothing saves, any sampler will do.
    """
    saves = [node for node in graph.nodes.values() if node.kind in _SAVES or "save" in node.kind.lower()]
    ends = [_nearest_sampler(graph, save) for save in saves[:_MAX_SAVES]]
    if not any(ends):
        ends = [_any_sampler(graph)]
    chains = [_passes_before(graph, end) for end in ends if end is not None]
    return max(chains, key=len, default=[])


def _any_sampler(graph: _Graph) -> tuple[str, _Node] | None:
    for name, node in graph.nodes.items():
        if _is_sampler(node):
            return name, node
    return None


def _passes_before(graph: _Graph, last: tuple[str, _Node]) -> list[tuple[str, _Node]]:
    """All passes up to the last one, the first first."""
    chain = [last]
    seen = {last[0]}
    while len(chain) < _MAX_PASSES:
        node = chain[0][1]
        latent = graph.linked(node, "latent_image") or graph.linked(node, "latent")
        if latent is None:
            return chain
        name, source, _ = latent
        before: tuple[str, _Node] | None = (name, source)
        if not _is_sampler(source):
            before = _nearest_sampler(graph, source)
        if before is None or before[0] in seen:
            return chain
        seen.add(before[0])
        chain.insert(0, before)
    return chain


def _nearest_sampler(graph: _Graph, start: _Node) -> tuple[str, _Node] | None:
    """The nearest sampler behind a node, not by way of a prompt or a model."""
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        node = waiting.pop(0)
        for _, name, source, _ in graph.sources(node):
            if name in seen:
                continue
            seen.add(name)
            if _is_sampler(source):
                return name, source
            waiting.append(source)
    return None


def _described(graph: _Graph, chain: list[tuple[str, _Node]]) -> PictureMetadata:
    node = chain[0][1]
    guider = _behind(graph, node, "guider") or node
    schedule_node = _behind(graph, node, "sigmas") or node
    noise = _behind(graph, node, "noise") or node
    select = _behind(graph, node, "sampler") or node

    # The settings, which `SamplerCustom` spreads over four nodes.
    sampler = values.as_name(graph.plain(select, "sampler_name", "sampler"))
    schedule = values.as_name(graph.plain(schedule_node, "scheduler"))
    width, height, from_picture = _latent(graph, node)
    strength = values.share_of(graph.plain(schedule_node, "denoise")) if from_picture else None

    # The prompts, and the model with what changes it.
    positive = _text(graph, guider, "positive") or _text(graph, guider, "conditioning")
    negative = _text(graph, guider, "negative")
    model = _model(graph, guider if "model" in guider.inputs else node)
    notes = [] if positive is not None else ["the prompt comes from a node that is not known here"]
    return PictureMetadata(
        tool="ComfyUI",
        prompt=positive,
        negative_prompt=negative,
        sampler=sampler,
        schedule=schedule,
        our_sampler=samplers.from_comfy(sampler, schedule),
        steps=values.steps_of(graph.plain(schedule_node, "steps")),
        guidance_scale=values.guidance_of(graph.plain(guider, "cfg")),
        guidance_rescale=model.rescale,
        seed=values.seed_of(graph.plain(noise, "seed", "noise_seed")),
        width=width,
        height=height,
        model=model.name,
        loras=model.loras,
        clip_skip=_clip_skip(graph, guider),
        strength=strength,
        prediction_type=model.prediction_type,
        passes=len(chain),
        notes=tuple(notes),
    )


def _behind(graph: _Graph, node: _Node, name: str) -> _Node | None:
    link = graph.linked(node, name)
    if link is None:
        return None
    return link[1]


def _latent(graph: _Graph, node: _Node) -> tuple[int | None, int | None, bool]:
    """Width, height, and whether the first pass began with a picture."""
    seen: set[int] = set()
    source = _behind(graph, node, "latent_image") or _behind(graph, node, "latent")
    while source is not None and id(source) not in seen:
        seen.add(id(source))
        if "pixels" in source.inputs or "encode" in source.kind.lower():
            return None, None, True
        width = values.side_of(graph.plain(source, "width"))
        height = values.side_of(graph.plain(source, "height"))
        if width and height:
            return width, height, False
        source = _behind(graph, source, "samples") or _behind(graph, source, "latent")
    return None, None, False


def _text(graph: _Graph, node: _Node, name: str) -> str | None:
    """The text behind a conditioning; several that are joined stand in one text, a line each."""
    link = graph.linked(node, name)
    if link is None:
        return None
    found: list[str] = []
    _collect_texts(graph, link[1], name, found, set())
    return "\n".join(found)[:MAX_PROMPT] if found else None


def _collect_texts(graph: _Graph, start: _Node, side: str, found: list[str], seen: set[int]) -> None:
    """Depth first, in the order of the inputs; `side` keeps positive and negative apart where a node has both."""
    waiting = [start]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        text = _own_text(graph, node)
        if text is not None:
            if text not in found:
                found.append(text)
            continue
        inner = []
        for name, _, source, _ in graph.sources(node):
            if _leads_to_text(name, side):
                inner.append(source)
        waiting += reversed(inner)


def _own_text(graph: _Graph, node: _Node) -> str | None:
    """The text of a node that encodes one; of SDXL's two encoders both texts, where they differ."""
    parts: list[str] = []
    for name in ("text", "text_positive", "prompt", "text_g", "text_l"):
        value = graph.plain(node, name)
        if isinstance(value, str) and value not in parts:
            parts.append(value)
    return "\n".join(parts) if parts else None


def _leads_to_text(name: str, side: str) -> bool:
    low = name.lower()
    if low in ("positive", "negative"):
        return side not in ("positive", "negative") or low == side
    return "cond" in low or low == side


@dataclass(frozen=True)
class _Model:
    name: str = ""
    loras: tuple[LoRAMention, ...] = ()
    prediction_type: str | None = None
    rescale: float | None = None


def _model(graph: _Graph, node: _Node) -> _Model:
    """The checkpoint behind a sampler, and what changes it on the way; the LoRA nearest to the checkpoint first."""
    loras: list[LoRAMention] = []
    prediction_type = None
    rescale = None
    seen: set[int] = set()
    source = _behind(graph, node, "model")
    while source is not None and id(source) not in seen:
        seen.add(id(source))
        lora = values.as_name(graph.plain(source, "lora_name"))
        if lora:
            weight = values.weight_of(graph.plain(source, "strength_model", "strength"))
            loras.insert(0, LoRAMention(_stem(lora), weight))
        if "sampling" in source.inputs:
            prediction_type = _PREDICTIONS.get(str(source.inputs["sampling"]), prediction_type)
        if source.kind == "RescaleCFG":
            rescale = values.share_of(graph.plain(source, "multiplier"))
        name = values.as_name(graph.plain(source, "ckpt_name", "unet_name", "model_name", "base_ckpt_name"))
        if name:
            return _Model(_stem(name), tuple(loras), prediction_type, rescale)
        source = _behind(graph, source, "model")
    return _Model("", tuple(loras), prediction_type, rescale)


def _clip_skip(graph: _Graph, guider: _Node) -> int | None:
    """A1111's count from ComfyUI's: -1 is the last layer, -2 the one before. None where the graph sets none."""
    seen: set[int] = set()
    waiting = [guider]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        layer = values.as_int(graph.plain(node, "stop_at_clip_layer"), -24, -1)
        if layer is not None:
            return min(-layer, 12)
        for name in _CLIP_PATH:
            source = _behind(graph, node, name)
            if source is not None:
                waiting.append(source)
    return None


_CLIP_PATH = ("clip", "positive", "conditioning", "conditioning_1", "conditioning_to")


def _stem(name: str) -> str:
    """A file's name without folders and without its ending."""
    base = name.replace("\\", "/").rpartition("/")[2]
    for ending in (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf", ".sft"):
        if base.lower().endswith(ending):
            return base[: -len(ending)]
    return base


def stem(name: Any) -> str:
    """A model's name without folders and ending; empty where it is no text."""
    return _stem(values.as_name(name))
