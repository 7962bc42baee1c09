"""The exhibits: the mistakes of `pitfalls`, each as a small change of our source, and the tests that must notice."""

from tests.museum.mutants import gradients, samplers, schedules, shapes, training

MUTANTS = gradients.MUTANTS + schedules.MUTANTS + samplers.MUTANTS + shapes.MUTANTS + training.MUTANTS
