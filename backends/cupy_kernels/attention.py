"""Launchers of attention.cu, and the operations that they override."""

import math
from typing import Any, NamedTuple

from backends.backend import Backend
from backends.cupy_kernels.matmul import BYTES, PRODUCTS, fits_linear, is_aligned
from backends.cupy_kernels.normalization import Normalised, are_floats, fits_group_norm
from backends.cupy_kernels.runtime.launch import Kernel, RecordType, Template, ceil
from backends.fallback import unless_reference
from backends.ops.attention import AttentionContext
from backends.ops.fused import NormAttentionContext

SOURCE = "attention.cu"
# As the source says: threads of a block, its own rows, other rows at a time, channels of a chunk
THREADS, OWN, OTHERS, CHUNK = 128, 64, 32, 32
# Channels of a result that a block makes: of narrow heads, or where channels are copied one by one, the first
SLICES = (32, 64)
ATTENTION = RecordType("heads width queries keys pitch_q pitch_k pitch_v pitch_y pitch_dq pitch_dk pitch_dv", "scale")


def shared_bytes(product: str, parts: int = 0, slice_: int = 0) -> int:
    """Bytes of shared memory: two chunks, the weights, and parts of other rows."""
    wide = 16 // BYTES[product]
    chunks, weights = 2 * (OWN + OTHERS) * (CHUNK + wide), OWN * (OTHERS + wide)
    return BYTES[product] * (chunks + weights + parts * OTHERS * (slice_ + 8))


def with_slices(name: str, parts: int) -> Kernel:
    """A kernel that makes results, and holds a number of parts of other rows for it."""
    templates = tuple(
        (product, "float", slice_, aligned)
        for product in BYTES
        for slice_, aligned in ((SLICES[0], False), (SLICES[0], True), (SLICES[1], True))
    )
    return Kernel(SOURCE, name, templates, THREADS, lambda product, _, slice_, __: shared_bytes(product, parts, slice_))


FORWARD, QUERIES, KEYS = (
    with_slices("attention", 1),
    with_slices("attention_queries", 1),
    with_slices("attention_keys", 2),
)
SLOPES = Kernel(
    SOURCE,
    "attention_slopes",
    tuple((product, "float", aligned) for product in BYTES for aligned in (False, True)),
    THREADS,
    lambda product, *_: shared_bytes(product),
)


class Heads(NamedTuple):
    """Queries, keys and values, their gradients too: from one row to the next are `pitch` numbers, of each array."""

    images: int
    heads: int
    width: int
    queries: int
    keys: int
    pitch: int

    def record(self) -> Any:
        """For kernels."""
        names = ("pitch_q", "pitch_k", "pitch_v", "pitch_dq", "pitch_dk", "pitch_dv")
        sizes = {"heads": self.heads, "width": self.width, "queries": self.queries, "keys": self.keys}
        row = self.heads * self.width
        return ATTENTION(**sizes, **dict.fromkeys(names, self.pitch), pitch_y=row, scale=1.0 / math.sqrt(self.width))

    def grid(self, own: int, template: Template) -> tuple[int, int, int]:
        """For `own` rows, queries or keys."""
        return self.images * self.heads, ceil(own, OWN), ceil(self.width, template[2])

    def template(self, product: str, *arrays: Any) -> Template:
        """The instance for these arrays."""
        aligned = is_aligned(product, (self.width, self.pitch), *arrays)
        return product, "float", SLICES[aligned and self.width > SLICES[0]], aligned


# Guards


def fits_attention(q: Any, k: Any, v: Any, num_heads: int = 1) -> bool:
    fits = are_floats(q, k, v) and q.ndim == k.ndim == 3 and k.shape == v.shape
    fits = fits and (q.shape[0], q.shape[2]) == (k.shape[0], k.shape[2])
    return fits and num_heads >= 1 and q.shape[2] % num_heads == 0


def fits_attention_backward(dy: Any, ctx: Any) -> bool:
    q, k, v, lse = ctx
    return are_floats(dy, lse) and dy.shape == q.shape and fits_attention(q, k, v, lse.shape[1])


def fits_norm_attention(
    x: Any, gamma: Any, beta: Any, weight: Any, bias: Any, groups: int, eps: float = 1e-5, num_heads: int = 1
) -> bool:
    fits = fits_group_norm(x, gamma, beta, groups) and fits_linear(x, weight, bias)
    fits = fits and weight.shape[1] == 3 * x.shape[-1]
    return fits and num_heads >= 1 and x.shape[-1] % num_heads == 0


def fits_norm_attention_backward(dy: Any, ctx: Any) -> bool:
    x, gamma, beta, weight, bias, mean, rstd, lse = ctx
    fits = are_floats(dy, mean, rstd, lse) and dy.shape == pixels_shape(x)
    return fits and fits_norm_attention(x, gamma, beta, weight, bias, mean.shape[1], num_heads=lse.shape[1])


def pixels_shape(x: Any) -> tuple[int, int, int]:
    """(N, L, C) of x (N, ..., C)."""
    return x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1]


class Attention(Backend):
    """Attention, alone and of the pixels of a normalised image."""

    precision: str
    multiply: Any
    multiply_transposed: Any
    norm_statistics: Any
    normalised: Any
    through_norm: Any

    def attend(self, q: Any, k: Any, v: Any, of: Heads) -> tuple[Any, Any]:
        """y (N, queries, C) and lse (N, heads, queries)."""
        y = self.xp.empty((of.images, of.queries, of.heads * of.width), "float32")
        lse = self.xp.empty((of.images, of.heads, of.queries), "float32")
        template = of.template(PRODUCTS[self.precision], q, k, v)
        FORWARD.run(of.grid(of.queries, template), q, k, v, y, lse, of.record(), template=template)
        return y, lse

    def attend_backward(
        self, dy: Any, inputs: tuple[Any, Any, Any], lse: Any, of: Heads, out: tuple[Any, Any, Any]
    ) -> None:
        """Writes the gradients of the inputs q, k and v to `out`."""
        slopes = self.xp.empty(lse.shape, "float32")
        template, record = of.template(PRODUCTS[self.precision], *inputs, dy), of.record()
        grid, without_slice = of.grid(of.queries, template), (*template[:2], template[3])
        SLOPES.run(grid[:2], *inputs, dy, lse, slopes, record, template=without_slice)
        QUERIES.run(grid, *inputs, dy, lse, slopes, out[0], record, template=template)
        KEYS.run(of.grid(of.keys, template), *inputs, dy, lse, slopes, *out[1:], record, template=template)

    @unless_reference(fits_attention)
    def attention(self, q: Any, k: Any, v: Any, num_heads: int = 1) -> tuple[Any, Any]:
        y, lse = self.attend(q, k, v, apart(q, k, num_heads))
        return y, AttentionContext(q, k, v, lse)

    @unless_reference(fits_attention_backward)
    def attention_backward(self, dy: Any, ctx: Any) -> tuple[Any, Any, Any]:
        q, k, v, lse = ctx
        out = self.xp.empty_like(q), self.xp.empty_like(k), self.xp.empty_like(v)
        self.attend_backward(dy, (q, k, v), lse, apart(q, k, lse.shape[1]), out)
        return out

    @unless_reference(fits_norm_attention)
    def norm_attention(
        self,
        x: Any,
        gamma: Any,
        beta: Any,
        weight: Any,
        bias: Any,
        groups: int,
        eps: float = 1e-5,
        num_heads: int = 1,
    ) -> tuple[Any, Any]:
        mean, rstd = self.norm_statistics(x, None, groups, eps)
        h = self.normalised(Normalised(x, None, gamma, beta, mean, rstd, silu=False))
        qkv = self.multiply(h, weight, bias)
        y, lse = self.attend(*thirds(qkv), side_by_side(x, num_heads))
        return y, NormAttentionContext(x, gamma, beta, weight, bias, mean, rstd, lse)

    @unless_reference(fits_norm_attention_backward)
    def norm_attention_backward(self, dy: Any, ctx: Any) -> tuple[Any, Any, Any, Any, Any]:
        x, gamma, beta, weight, bias, mean, rstd, lse = ctx
        norm = Normalised(x, None, gamma, beta, mean, rstd, silu=False)
        h = self.normalised(norm)
        qkv = self.multiply(h, weight, bias)
        dqkv = self.xp.empty_like(qkv)
        self.attend_backward(dy, thirds(qkv), lse, side_by_side(x, lse.shape[1]), thirds(dqkv))
        del qkv
        dweight, dbias = self.multiply_transposed(h, dqkv)
        del h
        dx = self.multiply(dqkv, weight, by_columns=True)  # and before it the gradient of h, in the same memory
        dgamma, dbeta = self.through_norm((dx, None), norm, (dx, None))
        return dx, dgamma, dbeta, dweight, dbias


def apart(q: Any, k: Any, num_heads: int) -> Heads:
    """Sizes and strides where q, k and v are arrays of their own."""
    n, queries, channels = q.shape
    return Heads(n, num_heads, channels // num_heads, queries, k.shape[1], channels)


def side_by_side(x: Any, num_heads: int) -> Heads:
    """Sizes and strides where each pixel of x has q, k and v next to each other."""
    n, length, channels = pixels_shape(x)
    return Heads(n, num_heads, channels // num_heads, length, length, 3 * channels)


def thirds(qkv: Any) -> tuple[Any, Any, Any]:
    """Where q, k and v begin in (N, ..., 3C), flat."""
    c, flat = qkv.shape[-1] // 3, qkv.reshape(-1)
    return flat, flat[c:], flat[2 * c :]
