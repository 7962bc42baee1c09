"""What each Philox stream is for: no two uses may share random numbers."""

TIMESTEPS = 0
TRAINING_NOISE = 1
LABEL_DROPOUT = 2
SAMPLE_START = 3
SAMPLE_NOISE = 4
# each batch of an evaluation, each dropout layer, and each parameter, counts up from its base
EVALUATION_NOISE = 1 << 7
DROPOUT = 1 << 8
PARAMETERS = 1 << 16
