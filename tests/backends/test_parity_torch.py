"""Every operation and every gradient against PyTorch, on the arguments of the one table of cases."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from backends import OPS
from tests.backends.cases import CASES, DIFFERENTIABLE, SEEDS, Arguments, arguments, directions, outputs

torch = pytest.importorskip("torch", reason="parity needs PyTorch: pip install 'tinyddpm[parity]'")
F = torch.nn.functional

TOLERANCE = {"float64": 1e-10, "float32": 1e-5}
# The float32 tests pass over the smallest shapes, which for some operations are most of the draws
EXAMPLES = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])


def channels_first(x: Any) -> Any:
    return x.movedim(-1, 1)


def channels_last(x: Any) -> Any:
    return x.movedim(1, -1)


def linear(x, weight, bias):
    return F.linear(x, weight.T, bias)


def conv2d(x, weight, bias, stride, padding):
    top, bottom, left, right = (padding,) * 4 if isinstance(padding, int) else padding
    image, kernel = channels_first(x), weight.permute(3, 2, 0, 1).contiguous()
    if (top, left) == (bottom, right):
        return channels_last(F.conv2d(image, kernel, bias, stride, (top, left)))
    return channels_last(F.conv2d(F.pad(image, (left, right, top, bottom)), kernel, bias, stride))


def group_norm(x, gamma, beta, groups, eps):
    # With one pixel and one channel per group F.group_norm refuses; its own formula does not
    if x.numel() == x.shape[0] * groups:
        return x * 0 * gamma + beta
    return channels_last(F.group_norm(channels_first(x), groups, gamma, beta, eps))


def group_norm_silu(**case):
    return F.silu(group_norm(**case))


def joined(x, skip):
    return x if skip is None else torch.cat([x, skip], dim=-1)


def norm_conv2d(x, skip, gamma, beta, weight, bias, groups, eps, shift, residual, mask):
    h = F.silu(group_norm(joined(x, skip), gamma, beta, groups, eps))
    y = conv2d(h if mask is None else h * mask, weight, bias, 1, weight.shape[0] // 2)
    y = y if shift is None else y + shift[:, None, None, :]
    return y if residual is None else y + residual


def pointwise(x, skip, weight, bias):
    return F.linear(joined(x, skip), weight.T, bias)


def upsample_conv2d(x, weight, bias):
    return conv2d(upsample_nearest(x), weight, bias, 1, weight.shape[0] // 2)


def add(a, b):
    return a + b


def add_shift(x, shift):
    return x + shift[:, None, None, :]


def attention(q, k, v, num_heads):
    qh, kh, vh = (a.unflatten(-1, (num_heads, -1)).transpose(1, 2) for a in (q, k, v))
    return F.scaled_dot_product_attention(qh, kh, vh).transpose(1, 2).flatten(2)


def norm_attention(x, gamma, beta, weight, bias, groups, eps, num_heads):
    h = group_norm(x, gamma, beta, groups, eps).flatten(1, -2)
    return attention(*F.linear(h, weight.T, bias).chunk(3, dim=-1), num_heads)


def upsample_nearest(x):
    return channels_last(F.interpolate(channels_first(x), scale_factor=2, mode="nearest"))


def average_pool(x):
    return channels_last(F.avg_pool2d(channels_first(x), 2))


def concat_channels(a, b):
    return torch.cat([a, b], dim=-1)


def dropout(x, rate, seed, stream, step):
    # PyTorch draws other numbers: the twin takes our mask, and so checks all but the drawing
    dtype = str(x.dtype).removeprefix("torch.")
    u, _ = OPS["random_uniform"].forward(np, tuple(x.shape), seed, stream, step, dtype=dtype)
    return x.where(torch.from_numpy(np.asarray(u >= rate)), 0) / (1 - rate)


def embedding(table, indices):
    return F.embedding(indices, table)


def silu(x):
    return F.silu(x)


def mse_loss(prediction, target):
    return F.mse_loss(prediction, target)


def l1_loss(prediction, target):
    return F.l1_loss(prediction, target)


def huber_loss(prediction, target, delta):
    return F.huber_loss(prediction, target, delta=delta)


def sinusoidal_embedding(t, dim, max_period, frequency_shift, cos_first, dtype):
    half = dim // 2
    frequencies = max_period ** (-torch.arange(half, dtype=torch.float64) / (half - frequency_shift))
    angles = torch.outer(t.double(), frequencies)
    halves = [angles.cos(), angles.sin()] if cos_first else [angles.sin(), angles.cos()]
    return F.pad(torch.cat(halves, dim=1), (0, dim % 2)).to(dtype or torch.float32)


def adam(params, grads, m, v, step, lr, beta1, beta2, eps, weight_decay):
    params = params.clone().requires_grad_()
    params.grad = grads
    chosen = torch.optim.AdamW if weight_decay else torch.optim.Adam
    optimizer = chosen([params], lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=weight_decay)
    optimizer.state[params] = {
        "step": torch.tensor(float(step - 1)),
        "exp_avg": m.clone(),
        "exp_avg_sq": v.clone(),
    }
    optimizer.step()
    state = optimizer.state[params]
    return params.detach(), state["exp_avg"], state["exp_avg_sq"]


def ema(average, params, decay):
    return torch.optim.swa_utils.get_ema_avg_fn(decay)(average, params, 0)


def adam_ema(params, grads, m, v, average, step, lr, decay, scale, **rates):
    params, m, v = adam(params, scale * grads, m, v, step, lr, **rates)
    return params, m, v, ema(average, params, decay)


def global_norm(grads):
    return torch.nn.utils.get_total_norm([grads])


def clip_by_global_norm(grads, max_norm):
    parameter = torch.zeros_like(grads, requires_grad=True)
    parameter.grad = grads.clone()
    norm = torch.nn.utils.clip_grad_norm_([parameter], max_norm)
    # PyTorch divides by norm + 1e-6, so that the clipped norm falls short of max_norm by that much
    return parameter.grad * ((norm + 1e-6) / norm if norm > max_norm else 1), norm


TWINS = {
    "linear": linear,
    "conv2d": conv2d,
    "group_norm": group_norm,
    "silu": silu,
    "group_norm_silu": group_norm_silu,
    "norm_conv2d": norm_conv2d,
    "pointwise": pointwise,
    "upsample_conv2d": upsample_conv2d,
    "attention": attention,
    "norm_attention": norm_attention,
    "upsample_nearest": upsample_nearest,
    "average_pool": average_pool,
    "add": add,
    "add_shift": add_shift,
    "concat_channels": concat_channels,
    "dropout": dropout,
    "embedding": embedding,
    "mse_loss": mse_loss,
    "l1_loss": l1_loss,
    "huber_loss": huber_loss,
    "sinusoidal_embedding": sinusoidal_embedding,
    "adam": adam,
    "ema": ema,
    "adam_ema": adam_ema,
    "global_norm": global_norm,
    "clip_by_global_norm": clip_by_global_norm,
}
NO_TWIN = {
    "dropout_mask": "PyTorch draws other numbers; see test_ops",
    "random_normal": "PyTorch numbers its Philox counters otherwise; see test_philox",
    "random_uniform": "PyTorch numbers its Philox counters otherwise; see test_philox",
}


def to_torch(x: np.ndarray) -> Any:
    return torch.from_numpy(x.copy())


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(np.ravel(np.asarray(a, np.float64) - np.asarray(b, np.float64))))


def size(x: np.ndarray) -> float:
    return float(np.linalg.norm(np.ravel(np.asarray(x, np.float64))))


def single_precision_can_tell(name: str, case: Arguments) -> bool:
    """Whether 1e-5 is above what rounding alone may do in float32.

    A sum that stands alone may cancel to anything, and two numbers may lie as close as they like, which a
    normalisation of these two amplifies: float32 cases have eight outputs and groups of sixteen numbers.
    """
    if name in ("group_norm", "group_norm_silu", "norm_attention"):
        return case["x"].size >= 16 * case["groups"] * case["x"].shape[0]
    if name == "norm_conv2d":
        return case["gamma"].size // case["groups"] * case["x"].size // case["x"].shape[-1] >= 16 * case["x"].shape[0]
    if name.endswith("_loss") or name == "global_norm":
        return True
    return outputs(name, OPS[name].forward(np, **case))[0].size >= 8


def well_spread(case: Arguments) -> bool:
    """Whether no group's mean is much larger than its deviation.

    PyTorch takes the variance of channels-last images as the mean of squares less the square of the mean, which then
    cancels: it is off by 1e-9 where ours equals extended precision to 1e-14.
    """
    if "groups" not in case:
        return True
    joined = np.concatenate([case["x"], case["skip"]], axis=-1) if case.get("skip") is not None else case["x"]
    groups = joined.reshape(joined.shape[0], -1, case["groups"], joined.shape[-1] // case["groups"])
    return bool(np.all(groups.var(axis=(1, 3)) >= 1e-2 * groups.mean(axis=(1, 3)) ** 2))


def autograd(name: str, case: Arguments, u: np.ndarray, wrt: list[str]) -> tuple[Any, ...]:
    """PyTorch's gradients of the twin."""
    tensors = arguments(case, torch, to_torch)
    for argument in wrt:
        tensors[argument].requires_grad_()
    return torch.autograd.grad(TWINS[name](**tensors), [tensors[a] for a in wrt], to_torch(u))


def in_precision(case: Arguments, dtype: Any, of: str = "float64") -> Arguments:
    return {
        name: value.astype(dtype) if isinstance(value, np.ndarray) and value.dtype == of else value
        for name, value in case.items()
    }


def test_every_operation_has_a_twin_or_a_reason():
    assert TWINS.keys() | NO_TWIN.keys() == OPS.keys()
    assert not TWINS.keys() & NO_TWIN.keys()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", TWINS)
@EXAMPLES
@given(data=st.data())
def test_forward(name: str, dtype: str, data: st.DataObject):
    case = data.draw(CASES[name])
    assume(well_spread(case))
    assume(dtype == "float64" or name == "sinusoidal_embedding" or single_precision_can_tell(name, case))
    case = in_precision(case, dtype)
    result = outputs(name, OPS[name].forward(np, **arguments(case, np, np.copy)))
    expected = TWINS[name](**arguments(case, torch, to_torch))
    for ours, theirs in zip(result, expected if isinstance(expected, tuple) else (expected,), strict=True):
        assert (ours.shape, str(ours.dtype)) == (tuple(theirs.shape), str(theirs.dtype).removeprefix("torch."))
        assert distance(ours, theirs.numpy()) <= TOLERANCE[str(ours.dtype)] * size(theirs.numpy())


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", DIFFERENTIABLE)
@EXAMPLES
@given(data=st.data())
def test_backward(name: str, dtype: str, data: st.DataObject):
    op, case = OPS[name], data.draw(CASES[name])
    assert op.backward is not None
    assume(well_spread(case))
    assume(dtype == "float64" or single_precision_can_tell(name, case))
    case = in_precision(case, dtype)
    y, ctx = op.forward(np, **case)
    u = np.asarray(directions(data.draw(SEEDS)).standard_normal(y.shape), dtype)
    gradients = op.backward(np, u, ctx)

    present = [name for name in op.wrt if case[name] is not None]
    expected, exact = (
        autograd(name, in_precision(case, d, "float32"), u.astype(d), present) for d in (dtype, np.float64)
    )
    # A gradient that vanishes is rounding errors in proportion to the others, hence the floor
    total = math.hypot(*(size(g.numpy()) for g in expected))
    ours = [g for g in gradients if g is not None]
    for argument, gradient, theirs, in_double in zip(present, ours, expected, exact, strict=True):
        assert (gradient.shape, gradient.dtype) == (case[argument].shape, dtype)
        scale = max(size(theirs.numpy()), 0.1 * total)
        # In a normalisation a mean that cancels makes PyTorch's own float32 worse than that; then its float64 decides
        results = (theirs, in_double) if "groups" in case else (theirs,)
        found = min(distance(gradient, result.numpy()) for result in results)
        assert found <= TOLERANCE[dtype] * scale, argument


@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_adam_over_many_steps(dtype: str, weight_decay: float):
    rng = np.random.default_rng(0)
    params = rng.standard_normal(50).astype(dtype)
    m, v = np.zeros_like(params), np.zeros_like(params)
    tensor = to_torch(params).requires_grad_()
    chosen = torch.optim.AdamW if weight_decay else torch.optim.Adam
    optimizer = chosen([tensor], lr=1e-2, weight_decay=weight_decay)
    for step in range(1, 21):
        grads = rng.standard_normal(50).astype(dtype)
        params, m, v = OPS["adam"].forward(np, params, grads, m, v, step, lr=1e-2, weight_decay=weight_decay)
        tensor.grad = to_torch(grads)
        optimizer.step()
        theirs = tensor.detach().numpy()
        assert params.dtype == dtype
        assert distance(params, theirs) <= TOLERANCE[dtype] * size(theirs), step
