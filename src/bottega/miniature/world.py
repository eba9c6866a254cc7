"""The drawn world's public face: scenes, painters, and `render`, the right answer to "this content in that style"."""

from bottega.miniature.painters import KINDS, Painter, painter, render
from bottega.miniature.scenes import BACKGROUNDS, COLOURS, SHAPES, Object, Scene, label_map, plain, scene

__all__ = [
    "BACKGROUNDS",
    "COLOURS",
    "KINDS",
    "SHAPES",
    "Object",
    "Painter",
    "Scene",
    "label_map",
    "painter",
    "plain",
    "render",
    "scene",
]
