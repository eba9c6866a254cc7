"""Drawing for people: tensors to pictures, pictures to contact sheets. It knows nothing of what it draws.

    from bottega.visual.pictures import to_uint8            floats or tensors to 8 bits, and back
    from bottega.visual.contact_sheet import ContactSheet   pictures in rows and columns, with text

Nothing here imports torch unless a tensor is handed in.
"""

__all__ = ["contact_sheet", "pictures"]
