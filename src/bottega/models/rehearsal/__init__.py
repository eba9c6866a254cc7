"""Models of the published sizes, names and layouts with random weights, to rehearse a run before any download.

Time and memory of a run do not depend on the values of the weights. So everything but what a picture shows can be tried
first. What such models draw is noise: `marker` says so in every file and folder, and whoever uses them passes it on.

    configurations   the published numbers, and the same at reduced width
    catalogue        which files a model consists of, and what is in them
    noise            the values
    tokenizers       small ones that work
    writing          files, tensor by tensor
    build            all of it: room on the disk, resuming, deleting
    marker           knowing such a model again
"""
