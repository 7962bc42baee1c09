"""Work shared among threads. Numba compiles such a function once, where it compiles a parallel loop several times."""

import os
from concurrent.futures import ThreadPoolExecutor

from backends.thread_count import threads

POOL = ThreadPoolExecutor(os.cpu_count())


def share(function, *arguments):
    """function(part, parts, *arguments) for all parts at once; it must be compiled with nogil=True."""
    parts, first = threads(), 0
    if not function.signatures:
        # Compiled by one thread alone: where two come to it at once, Numba sometimes knows no `np.empty`
        function(0, parts, *arguments)
        first = 1
    for running in [POOL.submit(function, part, parts, *arguments) for part in range(first, parts)]:
        running.result()
