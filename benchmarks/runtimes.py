"""Inference runtimes: one prediction of the same weights, which they get as an ONNX file from the PyTorch twin.

All compute in float32, on the number of threads that is asked for, tuned for the latency of one call. The file is
of opset 18, in which a group normalisation is an instance normalisation with reshapes: ONNX Runtime and OpenVINO are
slower with the operation of its own that later opsets have, and MNN does not read it.
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import compare
from benchmarks.peers import Prediction, inputs, make_model
from benchmarks.settings import Settings
from benchmarks.workloads import Workload

OPSET = 18
# The modules that write the file, and a PyTorch peer that needs no minute to start
EXPORT = ("torch", "onnx", "onnxscript")
TORCH_PEER = "torch channels_last"


class MNNPeer(Prediction):
    """MNN, converted from ONNX; a session, which is as fast as or faster than its modules."""

    def __init__(self, workload: Workload, threads: int, path: Path) -> None:
        # Never MNN.tools, whose import installs packages
        import _tools
        import MNN

        self.module, self.folder = MNN, tempfile.TemporaryDirectory()
        converted = Path(self.folder.name) / "unet.mnn"
        source = ["-f", "ONNX", "--modelFile", str(path), "--MNNModel", str(converted), "--bizCode", "MNN"]
        _tools.mnnconvert(["mnnconvert", *source])
        if not converted.exists():
            raise RuntimeError("MNN did not convert the network")
        self.interpreter = MNN.Interpreter(str(converted))
        self.session = self.interpreter.createSession({"backend": "CPU", "precision": "high", "numThread": threads})
        x, t = nchw_inputs(workload)
        self.given = [
            (self.interpreter.getSessionInput(self.session, "x"), self.tensor(x, MNN.Halide_Type_Float)),
            (self.interpreter.getSessionInput(self.session, "t"), self.tensor(t.astype(np.int32), MNN.Halide_Type_Int)),
        ]
        self.output = self.interpreter.getSessionOutput(self.session, "y")
        self.found = self.tensor(np.zeros_like(x), MNN.Halide_Type_Float)

    def tensor(self, values: np.ndarray, kind: Any) -> Any:
        """A tensor of MNN's with these values, NCHW."""
        return self.module.Tensor(values.shape, kind, values, self.module.Tensor_DimensionType_Caffe)

    def predict(self) -> np.ndarray:
        for tensor, values in self.given:
            tensor.copyFrom(values)
        self.interpreter.runSession(self.session)
        self.output.copyToHostTensor(self.found)
        return np.moveaxis(self.found.getNumpyData(), 1, -1)


class OnnxRuntimePeer(Prediction):
    """ONNX Runtime, operations one after the other, all optimisations of the graph; its threads spin by default."""

    def __init__(self, workload: Workload, threads: int, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        x, t = nchw_inputs(workload)
        self.given = {"x": x, "t": t}

    def predict(self) -> np.ndarray:
        return np.moveaxis(self.session.run(None, self.given)[0], 1, -1)


class OpenVINOPeer(Prediction):
    """OpenVINO, of which float32 is demanded: it would take bfloat16 where the processor has it."""

    def __init__(self, workload: Workload, threads: int, path: Path) -> None:
        import openvino

        hints = {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        self.request = openvino.Core().compile_model(str(path), "CPU", hints).create_infer_request()
        x, t = nchw_inputs(workload)
        self.given = {"x": x, "t": t}

    def predict(self) -> np.ndarray:
        return np.moveaxis(self.request.infer(self.given, share_inputs=True, share_outputs=True)[0], 1, -1)


# By the names of their modules
RUNTIMES: dict[str, Callable[[Workload, int, Path], Prediction]] = {
    "MNN": MNNPeer,
    "onnxruntime": OnnxRuntimePeer,
    "openvino": OpenVINOPeer,
}
# With no switch for the instructions; MNN's wheel has none beyond AVX2, OpenVINO obeys oneDNN's in its convolutions
NOT_HELD = ("onnxruntime",)


def nchw_inputs(workload: Workload) -> tuple[np.ndarray, np.ndarray]:
    """The batch in the layout of PyTorch's and of the file's, and the timesteps."""
    x, t = inputs(workload)
    return np.ascontiguousarray(np.moveaxis(x, -1, 1)), t


def chosen_runtimes(settings: Settings) -> tuple[list[str], list[str]]:
    """The runtimes that can be measured, and a line about each that cannot.

    Raises ValueError if what writes the file is missing, or all of them are.
    """
    present = [name for name in RUNTIMES if importlib.util.find_spec(name)]
    missing = [name for name in EXPORT if importlib.util.find_spec(name) is None]
    if missing or not present:
        raise ValueError(
            f"{', '.join(missing or RUNTIMES)}: not installed; this command needs pip install -e '.[parity,runtimes]'"
        )
    lines = [f"{name} is not installed: left out" for name in RUNTIMES if name not in present]
    if settings.isa:
        lines += [f"{name} cannot be held to {settings.isa}: left out" for name in NOT_HELD if name in present]
        present = [name for name in present if name not in NOT_HELD]
    return present, lines


def rows(workload: Workload, names: list[str], settings: Settings) -> list[dict[str, Any]]:
    """A row for each peer; times: its milliseconds over ours, if we are among them. Raises as `compare`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "unet.onnx"
        export(workload, path)
        seconds = compare(workload, names, settings, path)
    ours = seconds.get("numba")
    return [
        {
            "work": workload.name,
            "peer": name,
            "busy": settings.busy,
            "ms": value * 1e3,
            "times": value / ours if ours else None,
        }
        for name, value in seconds.items()
    ]


def export(workload: Workload, path: Path) -> None:
    """Writes the network as ONNX, in another process: PyTorch prints much, and what it starts should not go on."""
    job = json.dumps([workload.to_dict(), str(path)])
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.runtimes", job]
    # It prints ticks, which not every console's encoding has
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=environment)
    if done.returncode:
        raise RuntimeError(f"the network could not be written as ONNX:\n{done.stderr}")


def write_onnx(workload: Workload, path: Path) -> None:
    """As `export`, in this process. Inputs x (N, C, H, W) and t (N,), output y, of this batch size alone."""
    import torch

    import backends
    from tests.twins import networks

    twin = networks.twin_of(make_model(workload, backends.get("numpy"))).eval()
    x, t = nchw_inputs(workload)
    torch.onnx.export(
        twin,
        (torch.from_numpy(x), torch.from_numpy(t)),
        str(path),
        input_names=["x", "t"],
        output_names=["y"],
        opset_version=OPSET,
        dynamo=True,
        external_data=False,
    )


if __name__ == "__main__":
    values, file = json.loads(sys.argv[1])
    write_onnx(Workload.from_dict(values), Path(file))
