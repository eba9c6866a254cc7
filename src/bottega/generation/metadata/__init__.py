"""How a picture was made, written into its file and read out of it again.

infotext.py   the `parameters` text of AUTOMATIC1111 and its relatives, both ways
ours.py       our own record: a PNG chunk, and a JSON file beside the picture
reading.py    from a file of any tool to one `PictureMetadata`
comfyui.py    ComfyUI's graph of nodes
others.py     InvokeAI, Fooocus, NovelAI
again.py      from a picture to the request that makes it again
samplers.py   samplers by everybody's names
text.py       texts of PNG, JPEG and WebP files, of which no length is believed
values.py     typed, bounded values out of them
records.py    `PictureMetadata`
"""

from __future__ import annotations

from bottega.generation.metadata.again import RequestAgain, request_from
from bottega.generation.metadata.infotext import infotext, read_infotext
from bottega.generation.metadata.ours import write_picture
from bottega.generation.metadata.reading import read_metadata
from bottega.generation.metadata.records import LoRAMention, PictureMetadata, Tool

__all__ = [
    "LoRAMention",
    "PictureMetadata",
    "RequestAgain",
    "Tool",
    "infotext",
    "read_infotext",
    "read_metadata",
    "request_from",
    "write_picture",
]
