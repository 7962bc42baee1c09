"""Multi-head attention, 32 queries of one image and head at a time: nothing of size L x M is kept.

Queries are the lanes of the vectors: with q transposed, a block's scores are (M, 32), so that maximum, sum and
normalisation run down columns, and keys and values are read where they are, one number for 32 queries. Backward
recomputes the weights from the log-sum-exp (Dao et al. 2022, algorithm 4). All sizes and strides are allowed, as
long as channels are contiguous; steps are in bytes.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, get_num_threads, njit

from backends.numba_kernels.fast_math import call_vector, exp
from backends.numba_kernels.memory import POOL
from backends.numba_kernels.simd import BYTES, INTS, VECTOR, WIDTH, Lanes, Memory, const, kernel, loop, zeros
from backends.numba_kernels.threads import plan_type, worker
