// Sums and SiLU of arrays; what all pixels of an image have in common; joining and splitting along channels.
//   Shapes    x, y, a, b, dy, dx: any, of `count` vectors of N elements; images (N, H, W, C)
//   Idea      one pass: a thread takes N neighbouring elements at once and walks over the array by the grid's stride
//   Limit     memory: each array moved once. silu 8 bytes an element (float), silu_backward, add and add_shift 12,
//             join and split 8, sum_pixels 4; at 90 % of the copy rate
//   Resident  add, add_shift, join, silu, silu_backward, split 6 of 256; sum_pixels 2 of 512
// N elements of T are 16 bytes, or one element where 16 bytes do not divide the channels or the addresses (launch.py).
#include "activation.cuh"

// y[i] = f(a[i], b[i])
template <class T, int N, class F>
__device__ __forceinline__ void combine(const T* a, const T* b, T* y, int count, F f) {
  typedef Vector<T, N> V;
  EACH(i, count) {
    const V va = V::load(a + i * N), vb = V::load(b + i * N);
    V vy;
#pragma unroll
    for (int e = 0; e < N; e++) vy.at[e] = from_float<T>(f(to_float(va.at[e]), to_float(vb.at[e])));
    vy.store(y + i * N);
  }
}

template <class T, int N> __global__ void add(const T* __restrict__ a, const T* __restrict__ b, T* __restrict__ y, int count) {
  combine<T, N>(a, b, y, count, [](float u, float v) { return u + v; });
}

template <class T, int N> __global__ void silu(const T* __restrict__ x, T* __restrict__ y, int count) {
  combine<T, N>(x, x, y, count, [](float u, float) { return silu_of(u); });
}

template <class T, int N>
__global__ void silu_backward(const T* __restrict__ dy, const T* __restrict__ x, T* __restrict__ dx, int count) {
  combine<T, N>(dy, x, dx, count, [](float u, float v) { return u * silu_slope(v); });
}

// y = x + shift (N, C) at every pixel. row: vectors of one pixel; image: of one image
template <class T, int N>
__global__ void add_shift(const T* __restrict__ x, const T* __restrict__ shift, T* __restrict__ y, int count, int row,
                          int image) {
  typedef Vector<T, N> V;
  EACH(i, count) {
    const V vx = V::load(x + i * N), vs = V::load(shift + (i / image * row + i % row) * N);
    V vy;
#pragma unroll
    for (int e = 0; e < N; e++) vy.at[e] = from_float<T>(to_float(vx.at[e]) + to_float(vs.at[e]));
    vy.store(y + i * N);
  }
}

// out[n, c] = sum over the pixels of x[n, :, c]: the gradient of `add_shift`. A block takes 32 channels of an image; its
// 16 rows of threads take every 16th pixel, and add up in a fixed order.
// grid (N, ceil(C / 32)), block (32, 16)
template <class T> __global__ void sum_pixels(const T* __restrict__ x, T* __restrict__ out, int pixels, int channels) {
  constexpr int ROWS = 16;
  SHARED(float, part, [ROWS][32]);
  const int lane = threadIdx.x, row = threadIdx.y, c = blockIdx.y * 32 + lane;
  float sum = 0.f;
  if (c < channels) {
    const T* image = x + blockIdx.x * pixels * channels + c;
    for (int p = row; p < pixels; p += ROWS) sum += to_float(image[p * channels]);
  }
  part[row][lane] = sum;
  __syncthreads();
  if (row == 0 && c < channels) {
    for (int r = 1; r < ROWS; r++) sum += part[r][lane];
    out[blockIdx.x * channels + c] = from_float<T>(sum);
  }
}

// y (..., A + B) = a (..., A) beside b (..., B); of_a, of_b: vectors of a pixel in each, count: of all
template <class T, int N>
__global__ void join(const T* __restrict__ a, const T* __restrict__ b, T* __restrict__ y, int count, int of_a, int of_b) {
  typedef Vector<T, N> V;
  EACH(i, count) {
    const int pixel = i / (of_a + of_b), c = i % (of_a + of_b);
    const T* from = c < of_a ? a + (pixel * of_a + c) * N : b + (pixel * of_b + c - of_a) * N;
    V::load(from).store(y + i * N);
  }
}

// The gradient of `join`
template <class T, int N>
__global__ void split(const T* __restrict__ dy, T* __restrict__ da, T* __restrict__ db, int count, int of_a, int of_b) {
  typedef Vector<T, N> V;
  EACH(i, count) {
    const int pixel = i / (of_a + of_b), c = i % (of_a + of_b);
    V::load(dy + i * N).store(c < of_a ? da + (pixel * of_a + c) * N : db + (pixel * of_b + c - of_a) * N);
  }
}
