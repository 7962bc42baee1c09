"""Each operation at shapes of the reference U-Net: 32 channels at 32x32, 64 at 16x16, 128 at 8x8, batch 64."""

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Arguments = dict[str, Any]

GROUPS = {"groups": 8, "eps": 1e-5}
COUNTERS = {"seed": 1, "stream": 2, "step": 3}


@dataclass(frozen=True)
class Size:
    """What the shapes are scaled by: images in a batch, parameters of the network."""

    batch: int
    params: int


FULL, SMOKE = Size(64, 3_940_000), Size(2, 10_000)


class Numbers:
    """Normal numbers, float32, the same in every process."""

    def __init__(self, size: Size) -> None:
        self.batch, self.params = size.batch, size.params
        self.rng = np.random.default_rng(0)

    def __call__(self, *shape: int) -> np.ndarray:
        return self.rng.standard_normal(shape, np.float32)

    def images(self, side: int, channels: int) -> np.ndarray:
        """A batch of square images."""
        return self(self.batch, side, side, channels)

    def weight(self, *shape: int) -> np.ndarray:
        """Scaled so that a product with it keeps the size of numbers."""
        return self(*shape) / np.float32(math.sqrt(math.prod(shape[:-1])))


@dataclass(frozen=True)
class Case:
    """An operation at a shape; `make` gives the arguments of its forward."""

    op: str
    shape: str
    make: Callable[[Numbers], Arguments]

    @property
    def name(self) -> str:
        """As in the table."""
        return f"{self.op} {self.shape}"


def linear(rows: int, inputs: int, outputs: int) -> Case:
    """rows: for each image."""

    def make(normal: Numbers) -> Arguments:
        x = normal(normal.batch, rows, inputs)
        return {"x": x, "weight": normal.weight(inputs, outputs), "bias": normal(outputs)}

    return Case("linear", f"{rows} rows, {inputs}->{outputs}", make)


def conv2d(side: int, inputs: int, outputs: int, stride: int = 1) -> Case:
    """3x3, padded by one."""

    def make(normal: Numbers) -> Arguments:
        weight, bias = normal.weight(3, 3, inputs, outputs), normal(outputs)
        return {"x": normal.images(side, inputs), "weight": weight, "bias": bias, "stride": stride, "padding": 1}

    return Case("conv2d", f"{side}x{side}, {inputs}->{outputs}" + (f", stride {stride}" if stride > 1 else ""), make)


def upsample_conv2d(side: int, channels: int) -> Case:
    """side: before doubling."""

    def make(normal: Numbers) -> Arguments:
        weight = normal.weight(3, 3, channels, channels)
        return {"x": normal.images(side, channels), "weight": weight, "bias": normal(channels)}

    return Case("upsample_conv2d", f"{side}x{side}, {channels}->{channels}", make)


def norm(normal: Numbers, channels: int) -> Arguments:
    """The parameters of a normalisation."""
    return {"gamma": 1 + 0.1 * normal(channels), "beta": normal(channels), **GROUPS}


def group_norm(op: str, side: int, channels: int) -> Case:
    """With or without SiLU."""
    return Case(
        op, f"{side}x{side}, {channels}", lambda normal: {"x": normal.images(side, channels), **norm(normal, channels)}
    )


def norm_conv2d(side: int, inputs: int, outputs: int, skip: int = 0, second: bool = False) -> Case:
    """A residual block's first convolution, which adds the embedding, or its second, which adds the input."""

    def make(normal: Numbers) -> Arguments:
        return {
            "x": normal.images(side, inputs),
            "skip": normal.images(side, skip) if skip else None,
            **norm(normal, inputs + skip),
            "weight": normal.weight(3, 3, inputs + skip, outputs),
            "bias": normal(outputs),
            "shift": None if second else normal(normal.batch, outputs),
            "residual": normal.images(side, outputs) if second else None,
            "mask": None,
        }

    joined = f"{inputs}+{skip}" if skip else f"{inputs}"
    return Case("norm_conv2d", f"{side}x{side}, {joined}->{outputs}" + (", residual" if second else ""), make)


def pointwise(side: int, inputs: int, outputs: int, skip: int = 0) -> Case:
    """The way round a residual block."""

    def make(normal: Numbers) -> Arguments:
        return {
            "x": normal.images(side, inputs),
            "skip": normal.images(side, skip) if skip else None,
            "weight": normal.weight(inputs + skip, outputs),
            "bias": normal(outputs),
        }

    return Case("pointwise", f"{side}x{side}, {inputs}{f'+{skip}' if skip else ''}->{outputs}", make)


def norm_attention(normal: Numbers) -> Arguments:
    """64 tokens of 128 channels, 4 heads."""
    weight = {"weight": normal.weight(128, 384), "bias": 0.1 * normal(384)}
    return {"x": normal.images(8, 128), **norm(normal, 128), **weight, "num_heads": 4}


def attention(normal: Numbers) -> Arguments:
    """As `norm_attention`'s."""
    return {**{name: normal(normal.batch, 64, 128) for name in "qkv"}, "num_heads": 4}


def images(op: str, side: int, channels: int, **options: Any) -> Case:
    """An operation on one batch of images, x."""
    return Case(op, f"{side}x{side}, {channels}", lambda normal: {"x": normal.images(side, channels), **options})


def pair(op: str, side: int, a: int, b: int, names: str = "a b") -> Case:
    """An operation on two batches of images, of a and b channels."""
    first, second = names.split()
    shape = f"{side}x{side}, {a}" + (f"+{b}" if a != b else "")
    return Case(op, shape, lambda normal: {first: normal.images(side, a), second: normal.images(side, b)})


def loss(op: str, **options: Any) -> Case:
    """The loss of 32x32 grey images."""
    found = pair(op, 32, 1, 1, "prediction target")
    return Case(op, found.shape, lambda normal: {**found.make(normal), **options})


def bound(normal: Any) -> dict[str, Any]:
    """The bound of 32x32 grey images, one in four of which is at its first step."""
    n, images = normal.batch, (normal.batch, 32, 32, 1)
    numbers = np.array([0.01, -10.0, -9.0, 0.0, 1.0, 1.0], np.float32)
    steps = np.repeat(numbers[None], n, axis=0)
    steps[::4, 3] = 1
    output = normal(*images[:-1], 2)
    return {"output": output, "target": normal(*images), "x0": normal(*images), "steps": steps, "hybrid": True}


def random(op: str, channels: int, **options: Any) -> Case:
    """Numbers from a counter."""
    rest = {**options, **COUNTERS, "dtype": None}
    return Case(op, f"32x32, {channels}", lambda normal: {"shape": (normal.batch, 32, 32, channels), **rest})


def flat(op: str, names: str, **options: Any) -> Case:
    """An operation on all parameters at once; v is not negative."""

    def make(normal: Numbers) -> Arguments:
        arrays = {name: normal(normal.params) for name in names.split()}
        return {name: a**2 if name == "v" else a for name, a in arrays.items()} | options

    return Case(op, "all parameters", make)


def embedding(normal: Numbers) -> Arguments:
    """Ten classes and none."""
    return {"table": normal(11, 128), "indices": normal.rng.integers(0, 11, normal.batch)}


def softmax_cross_entropy(normal: Numbers) -> Arguments:
    """Ten classes."""
    return {"logits": normal(normal.batch, 10), "labels": normal.rng.integers(0, 10, normal.batch)}


def sinusoidal_embedding(normal: Numbers) -> Arguments:
    """A batch of timesteps."""
    t = normal.rng.integers(0, 1000, normal.batch)
    options = {"max_period": 10000.0, "frequency_shift": 0.0, "cos_first": True, "dtype": None}
    return {"t": t, "dim": 32, **options}


CASES = (
    conv2d(32, 1, 32),
    conv2d(32, 32, 32),
    conv2d(16, 64, 64),
    conv2d(8, 128, 128),
    conv2d(32, 32, 32, stride=2),
    conv2d(16, 64, 64, stride=2),
    norm_conv2d(32, 32, 32),
    norm_conv2d(32, 32, 32, second=True),
    norm_conv2d(32, 64, 32, skip=32),
    norm_conv2d(16, 64, 64, second=True),
    norm_conv2d(16, 128, 64, skip=64),
    norm_conv2d(8, 128, 128, second=True),
    norm_conv2d(8, 128, 128, skip=128),
    norm_conv2d(32, 32, 1),
    upsample_conv2d(8, 128),
    upsample_conv2d(16, 64),
    pointwise(16, 32, 64),
    pointwise(32, 64, 32, skip=32),
    pointwise(8, 128, 128, skip=128),
    linear(64, 128, 128),
    linear(1, 128, 128),
    Case("norm_attention", "8x8, 128, 4 heads", norm_attention),
    Case("attention", "64 tokens, 128, 4 heads", attention),
    group_norm("group_norm", 32, 32),
    group_norm("group_norm", 8, 128),
    group_norm("group_norm_silu", 32, 32),
    group_norm("group_norm_silu", 8, 128),
    images("silu", 32, 32),
    Case("silu", "time", lambda normal: {"x": normal(normal.batch, 128)}),
    pair("add", 32, 32, 32),
    pair("add", 8, 128, 128),
    Case("add_shift", "32x32, 32", lambda normal: {"x": normal.images(32, 32), "shift": normal(normal.batch, 32)}),
    pair("concat_channels", 32, 64, 32),
    images("upsample_nearest", 16, 64),
    images("average_pool", 32, 32),
    images("dropout", 32, 32, rate=0.1, **COUNTERS),
    random("dropout_mask", 32, rate=0.1),
    random("random_normal", 1),
    random("random_uniform", 1),
    loss("mse_loss"),
    loss("l1_loss"),
    loss("huber_loss", delta=1.0),
    Case("softmax_cross_entropy", "10 classes", softmax_cross_entropy),
    Case("vlb_loss", "32x32, 1", bound),
    Case("embedding", "11 rows, 128", embedding),
    Case("sinusoidal_embedding", "32", sinusoidal_embedding),
    flat("adam", "params grads m v", step=10, lr=1e-4, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0),
    flat("ema", "average params", decay=0.999),
    flat(
        "adam_ema",
        "params grads m v average",
        step=10,
        lr=1e-4,
        decay=0.999,
        scale=1.0,
        beta1=0.9,
        beta2=0.999,
        eps=1e-8,
        weight_decay=0.0,
    ),
    flat("global_norm", "grads"),
    flat("clip_by_global_norm", "grads", max_norm=1.0),
)


def cases_with(modules: Sequence[str] = ()) -> tuple[Case, ...]:
    """CASES, and those of the operations that these modules add by `backends.testing.register` when they are loaded."""
    if not modules:
        return CASES
    from backends.testing.registry import REGISTERED_BENCHMARKS

    for module in modules:
        importlib.import_module(module)
    added = (Case(op, shape, make) for op, shapes in REGISTERED_BENCHMARKS.items() for shape, make in shapes.items())
    return *CASES, *added


def without_case(names: Sequence[str]) -> list[str]:
    """A sentence for each of these operations that no benchmark's case is of."""
    there = {case.op for case in CASES}
    return [
        f"{n} has no benchmark shapes: add a Case to CASES in benchmarks/operation_cases.py"
        for n in names
        if n not in there
    ]
