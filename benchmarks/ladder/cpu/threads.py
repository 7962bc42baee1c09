"""Work shared among threads. Numba compiles such a function once, where it compiles a parallel loop several times."""

import os
from concurrent.futures import ThreadPoolExecutor

from backends.thread_count import threads

POOL = ThreadPoolExecutor(os.cpu_count())


def share(function, *arguments):
    """function(part, parts, *arguments) for all parts at once; it must be compiled with nogil=True."""
    parts = threads()
    for running in [POOL.submit(function, part, parts, *arguments) for part in range(parts)]:
        running.result()
