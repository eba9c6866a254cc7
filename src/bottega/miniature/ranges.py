"""Which scenes and painters are for what. The ranges never meet, so what judges a model was never shown to it."""

TRAIN_PAINTERS = 480  # painters 0 to 479 and scenes from 0 up: the short trainings
GATE_SCENES, GATE_PAINTERS = 1_000_000, 1_000  # from here up: the gates
WORLD_SCENES, WORLD_PAINTERS = 2_000_000, 2_000  # from here up: the data sets of a run
EYE_TRIES = 3_000_000  # from here up: what the eye learns of a real teacher's pictures (scenes from 3 times that up)
LONG_TRAINING_PAINTERS = 10_000  # from here up, with scenes from 0 up: the long trainings
