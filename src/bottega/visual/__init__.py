"""Drawing for people: pictures, contact sheets, curves and pages. It knows nothing of what it draws.

    from bottega.visual.pictures import to_uint8            floats or tensors to 8 bits, and back
    from bottega.visual.contact_sheet import ContactSheet   pictures in rows and columns, with text
    from bottega.visual.curves import draw_curves           curves as SVG for a page, as dots for a terminal
    from bottega.visual.page import render                  a template as one offline HTML page

Nothing here imports torch unless a tensor is handed in.
"""

__all__ = ["contact_sheet", "curves", "page", "pictures"]
