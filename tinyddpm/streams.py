"""What each Philox stream is for: no two uses may share random numbers.

A number depends on (seed, stream, step, position), and positions go by the number of the image: in a training step's
batch, or among all samples of a seed. Two uses of one seed therefore differ in stream or step; never is
a seed, a stream or a step made by adding numbers that other uses could add up to as well.
"""

# (seed, stream, batch number)
TIMESTEPS = 0
TRAINING_NOISE = 1
LABEL_DROPOUT = 2
# (seed, stream, 0), and (seed, stream, step of the sampler)
SAMPLE_START = 3
SAMPLE_NOISE = 4
# (seed, stream, batch number) of the held-out images
VALIDATION_TIMESTEPS = 5
VALIDATION_NOISE = 6
# (seed, stream, 0), of the bound
EVALUATION_TIMESTEPS = 7
# A stream for each dropout layer; (seed, stream, batch number)
DROPOUT = range(1 << 8, 1 << 16)
# A stream for each parameter's initial values; (seed, stream, 0)
PARAMETERS = range(1 << 16, 1 << 20)
# A stream for each batch of an evaluation; (seed, stream, timestep)
EVALUATION_NOISE = range(1 << 20, 1 << 24)

# Philox takes 32 bits of each
END = 1 << 32

USES = {
    "TIMESTEPS": range(TIMESTEPS, TIMESTEPS + 1),
    "TRAINING_NOISE": range(TRAINING_NOISE, TRAINING_NOISE + 1),
    "LABEL_DROPOUT": range(LABEL_DROPOUT, LABEL_DROPOUT + 1),
    "SAMPLE_START": range(SAMPLE_START, SAMPLE_START + 1),
    "SAMPLE_NOISE": range(SAMPLE_NOISE, SAMPLE_NOISE + 1),
    "VALIDATION_TIMESTEPS": range(VALIDATION_TIMESTEPS, VALIDATION_TIMESTEPS + 1),
    "VALIDATION_NOISE": range(VALIDATION_NOISE, VALIDATION_NOISE + 1),
    "EVALUATION_TIMESTEPS": range(EVALUATION_TIMESTEPS, EVALUATION_TIMESTEPS + 1),
    "DROPOUT": DROPOUT,
    "PARAMETERS": PARAMETERS,
    "EVALUATION_NOISE": EVALUATION_NOISE,
}


def check_apart(uses: dict[str, range]) -> None:
    """Raises ValueError, naming them, where two uses share a stream or one leaves Philox' 32 bits."""
    order = sorted(uses, key=lambda use: uses[use].start)
    for use, following in zip(order, [*order[1:], None], strict=True):
        end = END if following is None else uses[following].start
        if uses[use].start < 0 or uses[use].stop > end:
            raise ValueError(f"the streams of {use} run into {following or 'the end of 32 bits'}")


check_apart(USES)
