"""What `NumpyBackend` runs in float32: the operations on a few images at a time, on all cores."""
