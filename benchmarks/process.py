"""A process for each peer, measured in turn: while one runs, the others wait for a line on their standard input.

So memory, threads and caches are each one's own, and a drift of the machine's speed meets all alike.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from benchmarks.workloads import Workload
from tinyddpm.training.peak_memory import from_status


class Child:
    """A Python module run in a process of its own, which answers each line of JSON with another.

    job: what the module finds as its argument. name: for the error where it dies. environment: variables more.
    launcher: the command, if any, that starts the process, and passes on what it reads and writes.
    """

    def __init__(
        self,
        name: str,
        module: str,
        job: dict[str, Any],
        threads: int,
        environment: dict[str, str] | None = None,
        launcher: Sequence[str] = (),
    ) -> None:
        self.name = name
        limits = {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
        self.started = time.perf_counter()
        self.child = subprocess.Popen(
            [*launcher, sys.executable, "-m", module, json.dumps({**job, "threads": threads})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **limits, **(environment or {})},
        )

    def tell(self, question: Any) -> dict[str, Any]:
        """The answer to a JSON value. Raises RuntimeError if the process has ended."""
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        self.child.stdin.write(json.dumps(question) + "\n")
        self.child.stdin.flush()
        line = self.child.stdout.readline()
        if not line:
            raise RuntimeError(f"the process of {self.name} ended with code {self.child.wait()}")
        return json.loads(line)

    def close(self) -> None:
        """Ends the process."""
        self.child.communicate()


class Process(Child):
    """A peer on a workload. onnx: the network as a file, for peers that need one."""

    def __init__(
        self,
        name: str,
        workload: Workload,
        threads: int,
        environment: dict[str, str] | None = None,
        onnx: Path | None = None,
    ) -> None:
        job = {"peer": name, "workload": workload.to_dict(), "onnx": str(onnx) if onnx else None}
        super().__init__(name, "benchmarks.process", job, threads, environment)

    def ask(self, times: int) -> dict[str, Any]:
        """Runs the workload `times` times; seconds of each, the first run's value, peak memory in bytes."""
        return self.tell(times)

    def predict(self) -> np.ndarray:
        """One prediction of the peer's."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "prediction.npy"
            self.tell(str(path))
            return np.load(path)


def serve(job: dict[str, Any]) -> None:
    """The child's loop: a number is answered by this many runs, a path by a prediction in it."""
    from benchmarks.peers import make

    answers = standard_output()
    onnx = Path(job["onnx"]) if job["onnx"] else None
    peer = make(job["peer"], Workload.from_dict(job["workload"]), job["threads"], onnx)
    for line in sys.stdin:
        question = json.loads(line)
        if isinstance(question, str):
            np.save(question, peer.predict())
            answer: dict[str, Any] = {}
        else:
            seconds, values = [], []
            for _ in range(question):
                start = time.perf_counter()
                values.append(peer.run())
                seconds.append(time.perf_counter() - start)
            answer = {"seconds": seconds, "value": values[0], "peak": peak()}
        print(json.dumps(answer), file=answers, flush=True)


def standard_output() -> TextIO:
    """What was standard output; from now on what libraries print there, those in C too, goes nowhere."""
    answers = os.fdopen(os.dup(1), "w")
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    return answers


def peak() -> int:
    """The most bytes that this process had resident."""
    # Not only ru_maxrss, which a child inherits from its parent
    return from_status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]))
