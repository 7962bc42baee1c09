"""PyTorch's form of every operation, on our layouts."""

import math
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from backends import OPS


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


def dropout(x, rate, seed, stream, step, first=0):
    # PyTorch draws other numbers: the twin takes our mask, and so checks all but the drawing
    dtype = str(x.dtype).removeprefix("torch.")
    u, _ = OPS["random_uniform"].forward(np, tuple(x.shape), seed, stream, step, dtype=dtype, first=first)
    return x.where(torch.from_numpy(np.asarray(u >= rate)), 0) / (1 - rate)


def embedding(table, indices):
    return F.embedding(indices, table)


def silu(x):
    return F.silu(x)


def mse_loss(prediction, target, weights=None):
    return weighted(F.mse_loss, prediction, target, weights)


def l1_loss(prediction, target, weights=None):
    return weighted(F.l1_loss, prediction, target, weights)


def huber_loss(prediction, target, delta, weights=None):
    return weighted(F.huber_loss, prediction, target, weights, delta=delta)


def weighted(loss, prediction, target, weights, **more):
    if weights is None:
        return loss(prediction, target, **more)
    each = loss(prediction, target, reduction="none", **more)
    return (weights * each.reshape(len(weights), -1).mean(dim=1)).mean()


def vlb_loss(output, target, x0, steps, hybrid):
    gap, low, high, first, simple, bound = steps.reshape(len(steps), -1, *[1] * (target.ndim - 1)).unbind(dim=1)
    prediction, v = output.chunk(2, dim=-1)
    share = (v + 1) / 2
    log_variance = share * high + (1 - share) * low
    truth = torch.zeros_like(target) + 0 * low
    off = gap * (prediction.detach() if hybrid else prediction) - gap * target
    posterior = torch.distributions.Normal(truth, (low / 2).exp())
    nats = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(-off, (log_variance / 2).exp()))
    # The mean beneath a cell that is open at most to the left, by symmetry
    flip = torch.where(x0 > 0.999, -1.0, torch.where(x0 < -0.999, 1.0, torch.where(off > 0, -1.0, 1.0))).to(x0.dtype)
    # What `where` leaves out must be finite all the same, for autograd multiplies it by zero
    sigma, distance = (log_variance / 2).exp(), flip * torch.where(first > 0, off, 0)
    is_open = x0.abs() > 0.999
    log_upper = torch.special.log_ndtr((distance + 1 / 255) / sigma)
    log_lower = torch.special.log_ndtr((torch.where(is_open, 0, distance) - 1 / 255) / sigma)
    share_below = torch.where(is_open, 0, torch.exp(torch.where(is_open, 0, log_lower - log_upper)))
    log_p = log_upper + torch.log1p(-share_below)
    nats = torch.where(first > 0, -log_p, nats)
    each = simple * (prediction - target) ** 2 + bound * nats / math.log(2)
    losses = each.reshape(len(steps), -1).mean(dim=1)
    return torch.cat([losses.mean()[None], losses])


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


def softmax_cross_entropy(logits, labels):
    return F.cross_entropy(logits, labels)


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
    "softmax_cross_entropy": softmax_cross_entropy,
    "vlb_loss": vlb_loss,
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
