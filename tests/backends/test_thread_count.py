"""One number of threads for BLAS, OpenMP and kernels: what is accepted, who obeys, and that results do not change.

The number is the whole process's, so each test that sets it has a process of its own.
"""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import backends
from backends import ThreadsError, thread_count
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
pools = [pool["num_threads"] for pool in threadpoolctl.threadpool_info()]
print(json.dumps([backends.threads(), *pools]))
"""


@pytest.mark.parametrize("late", [False, True], ids=["before they are loaded", "after they have run"])
def test_blas_and_openmp_obey(late: bool):
    """The kernels too: `test_team.test_helpers_sleep_and_fewer_threads_than_before_are_fewer`."""
    counts = run(WHO_OBEYS.replace("LATE", str(late)))
    assert len(counts) >= 2
    assert set(counts) == {1}


# Files below a file system of control groups, the file that says where a process is in it, processors
GROUPS = {
    "none": ({}, None, math.inf),
    "version 2": ({"a/b/cpu.max": "150000 100000\n"}, "0::/a/b\n", 1.5),
    "version 2, no limit": ({"a/cpu.max": "max 100000\n"}, "0::/a\n", math.inf),
    "a group around has less": ({"a/b/cpu.max": "400000 100000\n", "a/cpu.max": "50000 50000\n"}, "0::/a/b\n", 1),
    "a group around has more": ({"a/b/cpu.max": "20000 100000\n", "a/cpu.max": "200000 100000\n"}, "0::/a/b\n", 0.2),
    "only the group around has one": ({"a/b/cpu.max": "max 100000\n", "a/cpu.max": "300000 100000\n"}, "0::/a/b\n", 3),
    "no file in between": ({"a/cpu.max": "300000 100000\n"}, "0::/a/b/c\n", 3),
    "in a container": ({"cpu.max": "200000 100000\n"}, "0::/\n", 2),
    "in a container that names the host's groups": ({"cpu.max": "200000 100000\n"}, "0::/docker/0123\n", 2),
    "another process's": ({"b/cpu.max": "100000 100000\n"}, "0::/a\n", math.inf),
    "something else": ({"a/cpu.max": "a lot\n"}, "0::/a\n", math.inf),
    "version 1": (
        {"cpu,cpuacct/a/cpu.cfs_quota_us": "250000\n", "cpu,cpuacct/a/cpu.cfs_period_us": "100000\n"},
        "12:pids:/a\n4:cpu,cpuacct:/a\n1:name=systemd:/a\n",
        2.5,
    ),
    "version 1, no limit": (
        {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
        "4:cpu:/\n3:cpuset:/\n0::/\n",
        math.inf,
    ),
}


@pytest.mark.parametrize("case", GROUPS)
def test_quotas_of_control_groups(case: str, tmp_path: Path):
    files, groups, expected = GROUPS[case]
    root = tmp_path / "cgroup"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    # Nothing above the file system counts
    (tmp_path / "cpu.max").write_text("1000 100000\n")
    if groups is not None:
        (tmp_path / "groups").write_text(groups)
    assert thread_count.quota(root, tmp_path / "groups") == expected


@pytest.mark.parametrize(
    ("quota", "count"), [(0.2, 1), (1.0, 1), (1.5, 2), (3.0, 3), (3.1, 4), (99.0, 4), (math.inf, 4)]
)
def test_a_quota_counts_as_processors_do(quota: float, count: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(thread_count, "tied_to", lambda: 4)
    monkeypatch.setattr(thread_count, "quota", lambda: quota)
    assert processors() == count


QUOTA = """
import json, os
import numpy as np, threadpoolctl
import backends
from backends import thread_count
thread_count.tied_to, thread_count.quota = lambda: 4, lambda: 0.5
np.ones((8, 8)) @ np.ones((8, 8))
before = [pool["num_threads"] for pool in threadpoolctl.threadpool_info()]
backends.get("numpy")
after = [pool["num_threads"] for pool in threadpoolctl.threadpool_info()]
print(json.dumps([list(thread_count.setting()), os.environ.get("OMP_NUM_THREADS"), before, after]))
"""


@several
def test_libraries_obey_a_quota_unless_they_are_told_a_number():
    not_told = f"import os\nfor name in {thread_count.VARIABLES}:\n    os.environ.pop(name, None)\n"
    setting, variable, before, after = run(not_told + QUOTA)
    assert setting == [1, "quota of processor time"]
    assert variable == "1"
    assert max(before) > 1
    assert set(after) == {1}
    setting, variable, before, after = run(QUOTA, OMP_NUM_THREADS="2", OPENBLAS_NUM_THREADS="2")
    assert setting == [1, "all processors"]
    assert variable == "2"
    assert before == after


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
