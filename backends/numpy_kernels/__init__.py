"""What `NumpyBackend` overrides, in NumPy's own features: a few images at a time, in memory that stays in cache."""
