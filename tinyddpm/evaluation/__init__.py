"""Measuring a model: `loss_by_level`, `recognition`; measuring samplers: `convergence`."""
