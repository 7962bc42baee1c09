"""Compiling ahead, on all cores: our kernels in threads, as NVRTC lets go of Python; PyTorch's graphs in processes."""

import os
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from backends.cupy_kernels import convolution, matmul
from backends.cupy_kernels.runtime import launch
from backends.cupy_kernels.runtime.compilation import compiled
from backends.cupy_kernels.runtime.launch import Kernel
from benchmarks.gpu.session import Session


def compile_kernels(session: Session, xp: Any, precisions: Iterable[str]) -> None:
    """Every instance that these precisions may run, so that no later section waits for a compiler; CuPy keeps them."""
    wanted = tuple(precisions)
    # Products of matrices have names of their own
    pairs = (*convolution.PRODUCTS.items(), *matmul.PRODUCTS.items())
    others = {name for precision, name in pairs if precision not in wanted}
    compile_expressions(
        session,
        xp,
        [
            (kernel.source, words, kernel.target)
            for kernel in Kernel.every
            if not kernel.target or kernel.target.startswith(f"sm_{launch.capability(xp)}")
            for template, words in kernel.expressions.items()
            if not others & {str(p) for p in template}
        ],
    )


def compile_expressions(session: Session, xp: Any, jobs: Iterable[tuple[str, str, str]]) -> None:
    """The same of instances, each a source, a C++ expression and a target."""
    jobs, start = list(jobs), time.perf_counter()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(lambda job: session.attempt(f"compiling {job[1]}", lambda: compiled(xp, *job)), jobs))
    session.row(
        "compilation", kernels=len(jobs), failed=sum(f is None for f in found), seconds=time.perf_counter() - start
    )


def compile_torch(jobs: Iterable[tuple[str, int]]) -> list[subprocess.Popen]:
    """Begins processes that fill the disk cache of torch.compile: for each (precision, number of one of `run.networks`)
    one."""
    command = "from benchmarks.gpu import run; run.fill_cache({!r}, {})"
    return [
        subprocess.Popen(
            [sys.executable, "-c", command.format(*job)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for job in jobs
    ]


def wait_for(session: Session, processes: list[subprocess.Popen]) -> None:
    """Until all have ended; after half of the time that is left they are ended, as they would disturb what is timed."""
    if not processes:
        return
    session.say(f"waiting for {len(processes)} compilers of PyTorch's networks")
    end = time.monotonic() + session.left() / 2
    for process in processes:
        try:
            process.wait(timeout=max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    processes.clear()
