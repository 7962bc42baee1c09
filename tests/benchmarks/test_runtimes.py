"""Inference runtimes as peers: the same prediction from the same weights, and what is said about those missing."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.measure import check_predictions
from benchmarks.peers import make
from benchmarks.process import Process
from benchmarks.runtimes import EXPORT, RUNTIMES, chosen_runtimes, export
from benchmarks.settings import Settings
from benchmarks.workloads import SMOKE

(WORKLOAD,) = SMOKE["sample"]


@pytest.fixture(scope="module")
def onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network of the smoke run as a file."""
    for name in EXPORT:
        pytest.importorskip(name, reason="the network is written by .[parity,runtimes]")
    path = tmp_path_factory.mktemp("onnx") / "unet.onnx"
    export(WORKLOAD, path)
    return path


@pytest.fixture
def ours() -> np.ndarray:
    return make("numpy", WORKLOAD, 1).predict()


@pytest.fixture
def process(onnx: Path, request: pytest.FixtureRequest) -> Iterator[Process]:
    """A runtime in a process of its own: one that prints on standard output disturbs nobody there."""
    name = request.param
    pytest.importorskip(name, reason=f"{name} is in the extra .[runtimes]")
    process = Process(name, WORKLOAD, 1, onnx=onnx)
    yield process
    process.close()


@pytest.mark.slow
@pytest.mark.parametrize("process", RUNTIMES, indirect=True)
def test_a_runtime_predicts_as_we_do(process: Process, ours: np.ndarray) -> None:
    check_predictions({"numpy": ours, process.name: process.predict()})
    answer = process.ask(2)
    assert answer["value"] == pytest.approx(np.mean(np.square(ours)), rel=1e-4)
    assert len(answer["seconds"]) == 2
    # The second call finds what the first has left
    check_predictions({"numpy": ours, process.name: process.predict()})


def test_a_wrong_prediction_is_not_timed(ours: np.ndarray) -> None:
    check_predictions({"numba": ours, "torch": ours * np.float32(1 + 5e-5), "torch bf16": ours * np.float32(1.01)})
    off = ours * np.float32(1.001)
    # Two of the same mean square
    for wrong in (-ours, np.moveaxis(ours, 1, 2), off, ours * np.nan):
        with pytest.raises(RuntimeError, match=r"^MNN's prediction is off numba's by .* no use to time them$"):
            check_predictions({"numba": ours, "MNN": wrong})
    with pytest.raises(RuntimeError, match=r"^MNN predicted \(4, 8\), numba \(4, 8, 8, 1\)"):
        check_predictions({"numba": ours, "MNN": ours[:, :, 0, 0]})


def only(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    """Makes these modules the only ones that the command finds."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name in modules else None)


def test_what_is_missing_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, *EXPORT, "onnxruntime", "openvino")
    assert chosen_runtimes(Settings()) == (["onnxruntime", "openvino"], ["MNN is not installed: left out"])
    only(monkeypatch, *EXPORT, *RUNTIMES)
    assert chosen_runtimes(Settings()) == (list(RUNTIMES), [])
    assert chosen_runtimes(Settings(isa="avx2")) == (
        ["MNN", "openvino"],
        ["onnxruntime cannot be held to avx2: left out"],
    )


@pytest.mark.parametrize(
    ("modules", "missing"),
    [((), "torch, onnx, onnxscript"), (("torch", "onnx", *RUNTIMES), "onnxscript"), (EXPORT, ", ".join(RUNTIMES))],
)
def test_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch, modules: tuple[str, ...], missing: str) -> None:
    only(monkeypatch, *modules)
    with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
        chosen_runtimes(Settings())
    assert str(caught.value).startswith(f"{missing}: not installed;")
    assert "'.[parity,runtimes]'" in str(caught.value)
