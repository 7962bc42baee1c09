"""Noise-prediction networks.

Read `parameters`, `layers`, `conditioning`, `blocks`, `unet`; then `simple_unet`, what both share in `model`, and their
names in `registry`.
"""
