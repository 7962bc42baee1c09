"""Measuring a model: `loss_by_level`, `recognition`, `likelihood`; measuring samplers: `convergence`."""
