"""Who is measured: our backends, and PyTorch at its settings. All start from the same weights and batch.

A peer's `run()` does the workload once and returns a number that must agree between peers: the loss before the
step for "train", the mean square of the prediction for "forward". The whole of `predict()` must agree too.
"""

from pathlib import Path
from typing import Any, Protocol

import numpy as np

import backends
from benchmarks.workloads import Workload
from tinyddpm import Adam, Diffusion, Schedule, UNet, streams
from tinyddpm.diffusion import objective

TORCH = {
    "torch": {},
    "torch channels_last": {"channels_last": True},
    "torch compile": {"compiled": True},
    "torch channels_last compile": {"channels_last": True, "compiled": True},
    "torch bf16": {"channels_last": True, "bf16": True},
}
OURS = ("numpy", "numba", "numba recompute")


def inputs(workload: Workload) -> tuple[np.ndarray, np.ndarray]:
    """A batch of images in [-1, 1] and a timestep for each."""
    rng = np.random.default_rng(0)
    shape = (workload.batch, *workload.config.size, workload.config.in_channels)
    return rng.uniform(-1, 1, shape).astype(np.float32), rng.integers(0, 1000, workload.batch)


def make_model(workload: Workload, backend: backends.Backend) -> UNet:
    """The U-Net at random weights: at initial ones its output is zero, and comparing it would say nothing."""
    model = UNet(workload.config, backend=backend, seed=0)
    noise = np.random.default_rng(1).standard_normal(model.params.shape)
    model.params[...] += backend.asarray((0.02 * noise).astype(np.float32))
    return model


class Peer(Protocol):
    """Who is measured."""

    def run(self) -> float:
        """The workload, once."""

    def predict(self) -> np.ndarray:
        """One prediction, (N, H, W, C), float32."""


class Prediction:
    """A peer that predicts, and no more."""

    def predict(self) -> np.ndarray:
        """As `Peer.predict`."""
        raise NotImplementedError

    def run(self) -> float:
        """One prediction."""
        return float(np.mean(np.square(self.predict())))


class OurPeer(Prediction):
    """A backend of ours."""

    def __init__(self, workload: Workload, name: str, threads: int) -> None:
        backend, *recompute = name.split()
        be = backends.get(backend)
        backends.set_threads(threads)
        self.workload, self.model = workload, make_model(workload, be)
        self.model.recompute = bool(recompute)
        self.diffusion = Diffusion(Schedule.cosine(1000))
        self.optimizer = Adam(self.model.params, lr=1e-4, backend=be)
        self.x, self.t = inputs(workload)

    def run(self) -> float:
        """One training step on the same timesteps and noise each time, or one prediction."""
        if self.workload.kind == "forward":
            return super().run()
        loss = self.diffusion.training_step(self.model, self.x, step=0)
        self.optimizer.step(self.model.grads)
        return loss

    def predict(self) -> np.ndarray:
        return np.asarray(self.model(self.x, self.t))


class TorchPeer:
    """PyTorch: our weights in an ordinary module, autograd, torch.optim.Adam."""

    def __init__(
        self,
        workload: Workload,
        threads: int,
        channels_last: bool = False,
        compiled: bool = False,
        bf16: bool = False,
    ) -> None:
        import torch

        from tests.twins import networks

        torch.set_num_threads(threads)
        self.torch, self.workload, self.bf16 = torch, workload, bf16
        be = backends.get("numpy")
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.module = networks.twin_of(make_model(workload, be)).to(memory_format=layout)
        self.optimizer = torch.optim.Adam(self.module.parameters(), lr=1e-4)
        self.forward = torch.compile(self.module) if compiled else self.module
        diffusion, (x0, t) = Diffusion(Schedule.cosine(1000)), inputs(workload)
        if workload.kind == "train":
            t = objective.random_timesteps(diffusion.schedule.T, len(x0), 0, 0)
            noise, _ = be.random_normal(x0.shape, 0, streams.TRAINING_NOISE, 0)
            self.noise = networks.nchw(noise).contiguous(memory_format=layout)
            x0 = diffusion.q_sample(x0, t, noise)
        self.x = networks.nchw(x0).contiguous(memory_format=layout)
        self.t = torch.from_numpy(t)

    def run(self) -> float:
        """As `OurPeer.run`."""
        torch = self.torch
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            if self.workload.kind == "forward":
                with torch.no_grad():
                    return float(self.forward(self.x, self.t, None).float().square().mean())
            loss = torch.nn.functional.mse_loss(self.forward(self.x, self.t, None).float(), self.noise)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    def predict(self) -> np.ndarray:
        """As `Peer.predict`."""
        from tests.twins import networks

        with self.torch.autocast("cpu", self.torch.bfloat16, enabled=self.bf16), self.torch.no_grad():
            return networks.nhwc(self.forward(self.x, self.t, None).float())


def make(name: str, workload: Workload, threads: int, onnx: Path | None = None) -> Any:
    """The peer of that name: one of OURS, TORCH or, which reads the file `onnx`, RUNTIMES."""
    if name in OURS:
        return OurPeer(workload, name, threads)
    if name in TORCH:
        return TorchPeer(workload, threads, **TORCH[name])
    # Which imports this module
    from benchmarks.runtimes import RUNTIMES

    assert onnx is not None, f"{name} needs the network as a file"
    return RUNTIMES[name](workload, threads, onnx)
