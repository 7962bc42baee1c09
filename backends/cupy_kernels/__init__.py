"""CUDA kernels: a `.cu` source and its launcher side by side, one pair for each family of operations.

Read `elementwise` first, the pattern of the others; README.md says how one is added.
"""
