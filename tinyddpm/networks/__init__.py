"""Noise-prediction networks. Read `parameters`, `layers`, `blocks`, `unet`."""
