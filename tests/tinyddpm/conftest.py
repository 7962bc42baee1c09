"""Processes for tests of runs that end in the middle."""

import multiprocessing
from collections.abc import Callable, Iterator
from typing import Any

import pytest


@pytest.fixture(scope="session")
def fork() -> Iterator[Callable[..., Any]]:
    """fork(function, …) runs it in a new process, started from one in which everything is imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.tinyddpm.tiny_runs", "tests.tinyddpm.sudden_ends", "pytest"])
    started = []

    def start(function: Callable[..., None], *arguments: Any) -> Any:
        process = context.Process(target=function, args=arguments)
        process.start()
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.join()
