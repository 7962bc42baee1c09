"""The threads that run kernels: each part runs once, one step after the other; forks; interrupts."""

import json
import os
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import carray

from backends import thread_count
from backends.numba_kernels.runtime.addresses import longs, start_of
from backends.numba_kernels.runtime.launch import PlanType, worker
from backends.numba_kernels.runtime.team import Team
from backends.thread_count import processors

several = pytest.mark.skipif(processors() < 2, reason="this process may use one processor only")
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks on this system")


@worker(PlanType("before parts_before counts early"))
def count_worker(part, plans):
    """Counts its part's runs, and notes whether it began before all of the step before had ended."""
    plan = carray(plans, 1)[0]
    for other in range(plan.parts_before):
        if longs(plan.before)[other] != 1:
            longs(plan.early)[0] = 1
    longs(plan.counts)[part] += 1


class Chain:
    """Steps with these numbers of parts, each of which looks at the one before it."""

    def __init__(self, parts: list[int]) -> None:
        self.counts = [np.zeros(max(1, number), np.int64) for number in parts]
        self.early = np.zeros(1, np.int64)
        self.plans, before, parts_before = [], self.early, 0
        for number, counts in zip(parts, self.counts, strict=True):
            places = {"before": start_of(before), "counts": start_of(counts), "early": start_of(self.early)}
            self.plans.append(count_worker.plan(parts_before=parts_before, **places))
            before, parts_before = counts, number
        rows = [(count_worker.address, number, start_of(p)) for number, p in zip(parts, self.plans, strict=True)]
        self.steps, self.parts = np.array(rows, np.int64).reshape(-1, 3), parts

    def check(self) -> None:
        assert [c.tolist() for c in self.counts] == [[1] * number or [0] for number in self.parts]
        assert self.early[0] == 0


@pytest.fixture
def team() -> Any:
    """As on a machine of eight processors; its helpers end with the test."""
    team = Team(8)
    yield team
    team.end()


PARTS = st.lists(st.integers(0, 40), max_size=60)


@settings(max_examples=200, deadline=None)
@given(runs=st.lists(st.tuples(st.sampled_from([1, 2, 3, 5, 8, 24]), PARTS), min_size=1, max_size=5))
def test_every_part_runs_once_and_steps_follow_one_another(runs: list[tuple[int, list[int]]]) -> None:
    for number, parts in runs:
        chain = Chain(parts)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(thread_count, "_chosen", thread_count.Setting(number, "a test"))
            MANY.run(chain.steps)
        chain.check()


MANY = Team(8)


@pytest.mark.parametrize("number", [2, 8])
def test_nobody_is_waited_for_who_has_not_begun(team: Team, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Helpers that never come to anything."""
    monkeypatch.setattr(thread_count, "_chosen", thread_count.Setting(number, "a test"))
    monkeypatch.setattr(team, "follow", lambda *_: None)
    chain = Chain([3, 1, 40, 0, 8])
    team.run(chain.steps)
    chain.check()
    assert len(team.helpers) == number - 1


def test_a_system_without_more_threads(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(thread_count, "_chosen", thread_count.Setting(4, "a test"))
    monkeypatch.setattr(threading.Thread, "start", refuse)
    chain = Chain([3, 1, 40])
    team.run(chain.steps)
    chain.check()
    assert team.helpers == []


@pytest.mark.skipif(not hasattr(time, "pthread_getcpuclockid"), reason="no clock of another thread's processor time")
def test_helpers_sleep_and_fewer_threads_than_before_are_fewer(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    """In processor time of the threads, which a busy machine does not change."""

    def spent() -> list[float]:
        return [time.clock_gettime(time.pthread_getcpuclockid(helper.ident)) for helper, _ in team.helpers]

    def run(number: int) -> None:
        monkeypatch.setattr(thread_count, "_chosen", thread_count.Setting(number, "a test"))
        chain = Chain([8] * 30)
        for _ in range(100):
            team.run(chain.steps)

    run(3)
    time.sleep(0.2)
    before = spent()
    assert len(before) == 2
    time.sleep(0.2)
    run(1)
    assert sum(spent()) - sum(before) < 0.002
    before = spent()
    run(2)
    assert spent()[1] - before[1] < 0.01  # it is woken, to look whether it is meant
    run(3)
    assert len(team.helpers) == 2


def test_after_its_end_a_team_works_alone(team: Team) -> None:
    chain = Chain([4, 4])
    team.run(chain.steps)
    team.end()
    assert not any(helper.is_alive() for helper, _ in team.helpers)
    chain = Chain([4, 1, 4])
    team.run(chain.steps)
    chain.check()


def run_script(script: str) -> Any:
    """What the script prints, as JSON; the kernels have two threads in it."""
    prepared = "import backends\nbackends.set_threads(2)\n" + script
    command = [sys.executable, "-c", prepared]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


NETWORK = """
import json, os, threading, time
import numpy as np
import tinyddpm as td
config = td.UNetConfig(image_size=8, base_channels=16, channel_mults=(1, 2), num_res_blocks=1,
                       attention_resolutions=(4,))
x, t = np.random.default_rng(0).standard_normal((3, 8, 8, 1)).astype("f4"), np.arange(3)

def predict():
    return MODEL(x, t)

def make():
    model = td.UNet(config, backend=backends.get("numba"), seed=0)
    model.params[...] += 0.05 * np.random.default_rng(1).standard_normal(model.params.shape).astype("f4")
    return model

MODEL = make()
"""

FORKS = (
    NETWORK
    + """
def in_child():
    \"\"\"What a forked child computes, in a pipe: 20 predictions. None if it does not end.\"\"\"
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        for _ in range(20):
            y = predict()
        os.write(write, y.astype("f4").tobytes())
        os._exit(0)
    os.close(write)
    end = time.monotonic() + 30
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > end:
            os.kill(child, 9)
        time.sleep(0.002)
    with os.fdopen(read, "rb") as pipe:
        return np.frombuffer(pipe.read(), "f4")

found = [in_child()]
expected = predict().copy()
found += [in_child(), in_child()]
others, going_on = [], True

def forever():
    while going_on:
        others.append(np.array_equal(predict(), expected))

thread = threading.Thread(target=forever)
thread.start()
found += [in_child() for _ in range(10)]
going_on = False
thread.join()
same = [len(y) == expected.size and np.array_equal(y, expected.ravel()) for y in found]
print(json.dumps([same, all(others), np.array_equal(predict(), expected)]))
"""
)


@forks
@several
def test_forked_processes_compute() -> None:
    """Forked before the first kernel, after it, and while another thread predicts."""
    same, others, after = run_script(FORKS)
    assert same == [True] * 13
    assert others
    assert after


COMPILING = """
import json, numba, os, threading, time
import backends
from backends.numba_kernels.runtime import team

def compile_one(number):
    numba.cfunc("float64(float64)")(eval(f"lambda x: x + {number}"))

going_on, codes = True, []

def forever():
    number = 0
    while going_on:
        compile_one(number)
        number += 1

compile_one(-1)
thread = threading.Thread(target=forever)
thread.start()
for _ in range(5):
    time.sleep(0.02)
    child = os.fork()
    if child == 0:
        compile_one(0.5)
        os._exit(0)
    end = time.monotonic() + 15
    while (found := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > end:
            os.kill(child, 9)
        time.sleep(0.002)
    codes.append(found[1])
    if found[1]:
        break
going_on = False
thread.join()
print(json.dumps(codes))
"""


@forks
def test_a_process_forked_while_a_thread_compiles_can_compile() -> None:
    assert run_script(COMPILING) == [0] * 5


POOLS = """
import json, multiprocessing, sys
import numpy as np
import backends

def work(seed):
    rng = np.random.default_rng(seed)
    x, w = rng.standard_normal((2, 9, 9, 16)).astype("f4"), rng.standard_normal((3, 3, 16, 16)).astype("f4")
    return backends.get("numba").conv2d(x, w, None, 1, 1)[0]

if __name__ == "__main__":
    backends.set_threads(2)
    expected = [work(seed) for seed in range(6)]
    with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
        found = pool.map_async(work, range(6), 1).get(timeout=90)
    print(json.dumps(all(np.array_equal(a, b) for a, b in zip(expected, found))))
"""


@several
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(method: str, tmp_path: Any) -> None:
    script = tmp_path / "pools.py"
    script.write_text(POOLS)
    result = subprocess.run([sys.executable, script, method], capture_output=True, text=True, check=False, timeout=100)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)


INTERRUPTS = (
    NETWORK
    + """
import signal
expected, interrupts = predict().copy(), 0
for _ in range(50):
    signal.setitimer(signal.ITIMER_REAL, 0.003)
    try:
        while True:
            predict()
    except KeyboardInterrupt:
        interrupts += 1
print(json.dumps([interrupts, np.array_equal(predict(), expected)]))
"""
)


@pytest.mark.skipif(sys.platform == "win32", reason="no timers that interrupt")
def test_interrupts_leave_the_threads_in_order() -> None:
    handler = "import signal\nsignal.signal(signal.SIGALRM, signal.default_int_handler)\n"
    assert run_script(handler + INTERRUPTS) == [50, True]
