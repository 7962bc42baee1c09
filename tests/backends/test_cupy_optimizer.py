"""The optimiser's CUDA kernels: numbers read at each replay, lengths and addresses, sums of many chunks."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from backends import OPS, CupyBackend
from backends.cupy_kernels.losses import CHUNK
from backends.cupy_kernels.runtime.compilation import FOLDER
from tests.emulation.compiler import missing
from tests.emulation.cupy.kernels import running
from tests.emulation.device import cupy_backend

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

RATES = (0.9, 0.999, 1e-8, 0.01)


@pytest.fixture(scope="module")
def backend() -> Iterator[CupyBackend]:
    with cupy_backend() as backend:
        yield backend


def state(count: int) -> list[np.ndarray]:
    """params, grads, m, v, average"""
    arrays = list(np.random.default_rng(count).standard_normal((5, count)).astype(np.float32))
    arrays[3] **= 2
    return arrays


def assert_close(ours: Any, wanted: Any) -> None:
    for a, b in zip(ours, wanted, strict=True):
        assert np.linalg.norm(a.get() - b) <= 2e-6 * np.linalg.norm(b)


def test_chunks_are_as_long_as_the_kernels_have_them() -> None:
    assert f"CHUNK = {CHUNK};" in (FOLDER / "sums.cuh").read_text()


def test_a_graph_reads_step_rate_scale_and_decay_anew(backend: CupyBackend) -> None:
    xp, host = backend.xp, state(37)
    arrays = [xp.asarray(a) for a in host]
    changing = [xp.asarray(np.array(x)) for x in (1.0, 0.1, 0.5, 1.0)]  # step, lr, decay, scale
    stream, arena = xp.cuda.Stream(non_blocking=True), xp.empty(1 << 12, np.uint8)
    backend.adam_ema(*(a.copy() for a in arrays), *changing, *RATES)  # compiles
    with stream, xp.cuda.using_allocator(lambda size: arena.data):
        stream.begin_capture()
        backend.adam_ema(*arrays, *changing, *RATES)
        graph = stream.end_capture()
    for step, lr, decay, scale in ((1, 0.1, 0.5, 0.25), (2, 0.01, 0.9, 1.0), (3, 0.002, 0.0, 2.0)):
        for place, value in zip(changing, (step, lr, decay, scale), strict=True):
            place[...] = value
        graph.launch(stream)
        stream.synchronize()
        params, m, v, average = OPS["adam_ema"].forward(np, *host, step, lr, decay, scale, *RATES)
        host = [params, host[1], m, v, average]
        assert_close(arrays, host)


@pytest.mark.parametrize("count", [1, 3, 4, 4099])
@pytest.mark.parametrize("first", [0, 1])
def test_any_length_at_any_address(backend: CupyBackend, count: int, first: int) -> None:
    host = [a[first:] for a in state(count + first)]
    arrays = [backend.asarray(np.concatenate([np.ones(first, np.float32), a]))[first:] for a in host]
    with running(checked=True, seed=0):
        norm = backend.global_norm(arrays[1])
        clipped, same = backend.clip_by_global_norm(arrays[1].copy(), 0.5)
        backend.adam_ema(*arrays, 5, 0.1, 0.9, 0.5, *RATES)
    params, m, v, average = OPS["adam_ema"].forward(np, *host, 5, 0.1, 0.9, 0.5, *RATES)
    assert_close(arrays, [params, host[1], m, v, average])
    assert_close([clipped], [0.5 * host[1] / np.linalg.norm(host[1])])
    assert float(norm) == float(same) == pytest.approx(np.linalg.norm(host[1].astype(np.float64)), rel=1e-6)


def test_a_norm_of_many_chunks_keeps_its_bits(backend: CupyBackend) -> None:
    x = np.random.default_rng(0).standard_normal(300 * CHUNK + 5).astype(np.float32)
    device, norms = backend.asarray(x), set()
    for seed in range(4):
        with running(seed=seed):
            norms.add(float(backend.global_norm(device)))
    assert len(norms) == 1
    assert norms.pop() == pytest.approx(np.linalg.norm(x.astype(np.float64)), rel=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_clipping_spreads_what_is_not_finite(backend: CupyBackend, bad: float) -> None:
    grads = np.array([1, bad, 2], np.float32)
    ours = [a.get() for a in backend.clip_by_global_norm(backend.asarray(grads), 1.0)]
    with np.errstate(all="ignore"):
        wanted = OPS["clip_by_global_norm"].forward(np, grads, 1.0)
    for a, b in zip(ours, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", ["mse", "l1", "huber"])
def test_losses_of_many_chunks_and_a_cotangent_on_the_device(backend: CupyBackend, kind: str) -> None:
    a, b = np.random.default_rng(1).standard_normal((2, 3, CHUNK + 7)).astype(np.float32)
    with running(checked=True, seed=0):
        value, ctx = getattr(backend, f"{kind}_loss")(backend.asarray(a), backend.asarray(b))
        gradients = [
            getattr(backend, f"{kind}_loss_backward")(dy, ctx)[0] for dy in (backend.asarray(0.5, "float32"), 0.5)
        ]
    wanted, right = OPS[f"{kind}_loss"].forward(np, a.astype(np.float64), b.astype(np.float64))
    assert float(value) == pytest.approx(wanted, rel=1e-6)
    assert_close(gradients, [OPS[f"{kind}_loss"].backward(np, 0.5, right)[0]] * 2)
    np.testing.assert_array_equal(gradients[0].get(), gradients[1].get())


@pytest.mark.parametrize(("label", "finite"), [(2, True), (3, False), (-1, False)])
def test_cross_entropy_of_many_blocks_and_of_a_label_that_is_none(
    backend: CupyBackend, label: int, finite: bool
) -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((600, 3)).astype(np.float32), rng.integers(0, 3, 600)
    labels[-1] = label
    with running(checked=True, seed=0):
        value, ctx = backend.softmax_cross_entropy(backend.asarray(logits), backend.asarray(labels))
        gradients = [
            backend.softmax_cross_entropy_backward(dy, ctx)[0] for dy in (backend.asarray(0.5, "float32"), 0.5)
        ]
    wanted, right = OPS["softmax_cross_entropy"].forward(np, logits.astype(np.float64), labels)
    assert float(value) == pytest.approx(wanted, rel=1e-6, nan_ok=True)
    assert np.isfinite(wanted) == finite
    assert_close(gradients, [OPS["softmax_cross_entropy"].backward(np, 0.5, right)[0]] * 2)


def test_a_label_that_the_table_has_not_gives_nan(backend: CupyBackend) -> None:
    table = backend.asarray(np.arange(6.0).reshape(3, 2), "float32")
    with running(checked=True, seed=0):  # what lies behind the table may be NaN as well
        y, ctx = backend.embedding(table, backend.asarray(np.array([2, 3, -1, 0])))
    np.testing.assert_array_equal(y.get(), [[4, 5], [np.nan] * 2, [np.nan] * 2, [0, 1]])
    (dtable,) = backend.embedding_backward(backend.xp.ones_like(y), ctx)
    np.testing.assert_array_equal(dtable.get(), [[1, 1], [0, 0], [1, 1]])
