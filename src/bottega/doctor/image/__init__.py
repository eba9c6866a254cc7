"""`bottega doctor image`: what is wrong with a picture, the likely cause, and the cure.

examination.py  the main flow: read `examine` from top to bottom
file.py         what the file is, and what it says of how its picture was made
settings.py     the settings that it says, against those that the model's family is drawn with
causes.py       what in the settings explains a fault of the pixels, or what a person sees
sources.py      the picture beside its content and its style
"""

from __future__ import annotations

from bottega.doctor.image.examination import ImageRequest, examine

__all__ = ["ImageRequest", "examine"]
