"""How a convolution gets fast on a GPU, one idea at a time: read the files v0 to v5 in their order.

Every rung computes y[n, i, j, k] = sum over a, b, c of x[n, i + a - 1, j + b - 1, c] w[a, b, c, k], images
x: (N, H, W, C) taken as 0 outside, weights w: (3, 3, C, K), result (N, H, W, K), all float32 and C-contiguous; C and K
are multiples of 32. Each `.cu` says what is new and what to look at; `rungs` launches them. `measure` checks all before
it times them, beside PyTorch's.
"""
