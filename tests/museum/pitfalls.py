"""Mistakes seen in other projects, by the numbers under which the tests of the suite quote them."""

PITFALLS = {
    1: "gradients tested with a cotangent of ones, for which a normalisation's is zero anyway",
    2: "normalised activations overwritten in place before backward: right while gamma = 1 and beta = 0",
    3: "gradients under keys that are no parameter's, so that some parameters never get any",
    4: "tests of shapes only, or of sum(a - b), for which [1, -1] is zero",
    5: "group normalisation's backward without its means, attention's without the softmax's row sum",
    6: "skip connections: the gradient cut at the wrong channel, or added twice",
    7: "cosine schedule: off by one, betas clipped from below, max_beta too near to 1",
    8: "linear schedule not rescaled to the number of steps, so that the chain does not end in noise",
    9: "tables in float32; t off by one between training and sampling; t = 0 never trained",
    10: "data left in [0, 1] or [0, 255]",
    11: "time embedding indexed by the row of the batch instead of t",
    12: "order of sines and cosines, and half or half - 1 in their frequencies",
    13: "DDIM: sign of eps, the first S steps as stride, last alpha_bar not 1, eps kept when x0 is clipped, eta",
    14: "clipping: not applied to the mean, or not to be turned off",
    15: "posterior variance at t = 0: log 0, and noise added in the last step",
    16: "fewer steps with the betas of all",
    17: "sampling from the raw weights instead of their average; an average without warm-up",
    18: "sizes that do not halve, groups that do not divide, images that are not square",
    19: "resolutions of attention taken for down-sampling factors",
    20: "resuming without the optimiser, the average, the step, the order of the data or of the noise",
    21: "training on after NaN",
    22: "FID from 2,000 samples compared with FID from 50,000",
    23: "labels never dropped, so that the unconditional branch is not trained",
    24: "large arrays allocated in every step",
    25: "OpenMP threads spinning between BLAS calls",
    26: "timing zeros, without warm-up, asynchronous work by the host's clock, data that sit in the cache",
    27: "np.add.at for col2im; Python loops over channels",
    28: "fast convolutions: a sign in a transform, tiles cut short at the edges, transformed weights that are stale",
    29: "a recorded network: inputs of the first run, results of other code, another function, outputs overwritten",
    30: "scratch memory shorter than what a kernel writes",
    31: "CUDA kernels: a barrier left out, a copy in the background not waited for",
    32: "what tests let pass in which an argument is the same everywhere",
    33: "CUDA kernels: the order of a fragment's numbers, a bound, an index: right for most sizes",
    34: "CUDA kernels: a term that is lost where sums are joined or results stored",
    35: "launches: a grid or shared memory too small, 16 bytes at odd addresses, arguments in each other's place",
    36: "CUDA graphs: the capture's inputs, keys too coarse, memory given out again, a stream that nobody waits for",
    37: "held-out images trained on, looked at with the noise of training, or with one set of weights for both",
    38: "scores of samples: covariance by N, a root's complex part dropped, too few images, bytes on one side only, pairs of "
    "an image with itself, precision for recall, labels off by one",
}

# Those that no small change of the source shows; of 16, also the range of a learned variance without its logarithm:
# variances are fixed here
NOT_EXPRESSED = {
    24: "the results stay the same to the bit; only the benchmarks can see it",
    25: "the results stay the same; a matter of threads' settings and time",
    26: "a mistake in benchmarks, which are not part of the packages",
    27: "the results stay the same; only the benchmarks can see it",
}
