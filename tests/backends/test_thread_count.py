"""One number of threads for BLAS, OpenMP and Numba: what is accepted, who obeys, and that results do not depend on it.

The number is the whole process's, so each test that sets it has a process of its own.
"""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

import backends
from backends import ThreadsError
from backends.thread_count import ENVIRONMENT, processors

MANY = processors()
several = pytest.mark.skipif(MANY < 2, reason="this process may use one processor only")


def run(script: str, **environment: str) -> Any:
    """What the script prints, as JSON."""
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("count", [0, -1, MANY + 1, 1.5, "two", "", None])
def test_what_cannot_be_had_is_refused_and_changes_nothing(count: Any):
    before = backends.threads(), dict(os.environ)
    with pytest.raises(ThreadsError, match=f"--threads must be a whole number in 1 … {MANY}, .* got {count!r}"):
        backends.set_threads(count, "--threads")
    assert (backends.threads(), dict(os.environ)) == before


WHO_OBEYS = """
import json, sys
import numpy as np, threadpoolctl
import backends
late = LATE
if not late:
    backends.set_threads(1)
be = backends.get("numba")
if late:
    np.ones((8, 8)) @ np.ones((8, 8)), be.add(np.ones(9000, np.float32), np.ones(9000, np.float32))
    backends.set_threads(1)
be.add(np.ones(9000, np.float32), np.ones(9000, np.float32))
import numba
pools = [pool["num_threads"] for pool in threadpoolctl.threadpool_info()]
print(json.dumps([backends.threads(), numba.get_num_threads(), *pools]))
"""


@pytest.mark.parametrize("late", [False, True], ids=["before they are loaded", "after they have run"])
def test_blas_openmp_and_numba_obey(late: bool):
    counts = run(WHO_OBEYS.replace("LATE", str(late)))
    assert len(counts) >= 3
    assert set(counts) == {1}


def test_the_environment_variable_is_read_by_the_first_backend():
    script = "import json, backends; backends.get('numpy'); print(json.dumps(backends.threads()))"
    assert run(script, **{ENVIRONMENT: "1"}) == 1


def test_a_bad_environment_variable_is_one_line_on_the_command_line():
    command = [sys.executable, "-m", "tinyddpm", "doctor"]
    environment = {**os.environ, ENVIRONMENT: "two"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert ENVIRONMENT in result.stderr
    assert "'two'" in result.stderr


THREE_STEPS = """
import json
import numpy as np
import backends, tinyddpm as td
rng = np.random.default_rng(0)
config = td.UNetConfig(image_size=16, in_channels=3, base_channels=24, channel_mults=(1, 2), num_res_blocks=1,
                       attention_resolutions=(8,), dropout=0.1)
x0 = rng.uniform(-1, 1, (5, 16, 16, 3)).astype(np.float32)
runs = []
for threads in (2, 2, 1):
    backends.set_threads(threads)
    be = backends.get("numba")
    model = td.UNet(config, backend=be, seed=0)
    model.params[...] += 0.05 * np.random.default_rng(1).standard_normal(model.params.shape).astype(np.float32)
    diffusion, optimizer, ema = td.Diffusion(td.Schedule.cosine(100)), td.Adam(model.params), td.EMA(model.params)
    for step in range(3):
        diffusion.training_step(model, x0, step=step)
        if step == 0:
            first = model.grads.copy()
        optimizer.step(model.grads, scale=0.5, ema=ema)
    runs.append((first, model.params.copy(), ema.params.copy()))
one, again, single = runs
distance = np.linalg.norm(one[0] - single[0]) / np.linalg.norm(single[0])
print(json.dumps([all(np.array_equal(a, b) for a, b in zip(one, again)), float(distance)]))
"""


@several
def test_results_repeat_to_the_bit_and_depend_on_the_number_by_rounding_only():
    same, distance = run(THREE_STEPS)
    assert same
    assert distance <= 1e-5


SEVERAL_CALLERS = """
import json
from concurrent.futures import ThreadPoolExecutor
import numpy as np
import backends
be, rng = backends.get("numba"), np.random.default_rng(0)
cases = [[rng.standard_normal(shape).astype("f4") for shape in ((2, 9, 9, 16), (3, 3, 16, 16))] for _ in range(8)]
expected = [be.conv2d(x, w, None, 1, 1)[0] for x, w in cases]
with ThreadPoolExecutor(4) as pool:
    rounds = [list(pool.map(lambda case: be.conv2d(*case, None, 1, 1)[0], cases)) for _ in range(20)]
print(json.dumps(all(np.array_equal(a, b) for found in rounds for a, b in zip(expected, found))))
"""


def test_several_python_threads_may_compute_at_once():
    assert run(SEVERAL_CALLERS)
