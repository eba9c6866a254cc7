"""Request -> pictures: the student's sampler.

generation.stylize.load_parts    the frozen models of a sampler
generation.stylize.stylize       contents × styles -> pictures, in batches, with or without an adapter
generation.request.stylize_file  one content and one style file -> one PNG
"""
