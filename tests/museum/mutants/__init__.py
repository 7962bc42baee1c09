"""The exhibits: the mistakes of `pitfalls`, each as a small change of our source, and the tests that must notice."""

from tests.museum.mutants import (
    chances,
    cuda_hopper,
    cuda_kernels,
    cuda_launches,
    flow_samplers,
    gradients,
    kernels,
    layouts,
    likelihood,
    places,
    quality,
    recording,
    samplers,
    schedules,
    several_ranks,
    shapes,
    training,
)

SUBJECTS = (
    gradients,
    schedules,
    samplers,
    flow_samplers,
    shapes,
    training,
    kernels,
    layouts,
    recording,
    chances,
    places,
    cuda_hopper,
    cuda_kernels,
    cuda_launches,
    quality,
    likelihood,
    several_ranks,
)
MUTANTS = tuple(mutant for subject in SUBJECTS for mutant in subject.MUTANTS)
