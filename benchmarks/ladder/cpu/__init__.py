"""How a convolution gets fast on a CPU, one idea at a time: read the files v0 to v8 in their order.

Every rung has `conv(x, w)`: y[n, i, j, k] = sum over a, b, c of x[n, i + a - 1, j + b - 1, c] w[a, b, c, k], images
x: (N, H, W, C) taken as 0 outside, weights w: (3, 3, C, K), result (N, H, W, K), all float32 and C-contiguous. From
rung 3 on C and K are multiples of 32. `python -m benchmarks ladder` checks all rungs and times them.
"""
