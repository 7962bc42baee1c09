"""Compiling, launching and recording kernels, and the memory they work in. Read `launch`, `pool`, `recording`."""
