"""What the kernels can take; here, so that who asks need not load Numba."""

# Axes of an array that they copy
AXES = 5
# Channels, on either side of a product: as many zeros stand in for a bias that is missing
CHANNELS = 4096
