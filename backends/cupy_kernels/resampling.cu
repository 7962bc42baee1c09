// Doubling and halving the sides of images.
//   Shapes    small (N, H, W, C), large (N, 2H, 2W, C); count: vectors of N elements in small
//   Idea      one pass: a thread takes N channels of a small pixel, and the square of four that belongs to it
//   Limit     memory: each array moved once, 5 elements for one of small; at 90 % of the copy rate
//   Resident  gather, spread 6 of 256
#include "types.cuh"

// Where the top left pixel of the square of vector i lies in large, in vectors; row: vectors of a small pixel, line: of a
// line of small pixels
__device__ __forceinline__ int corner(int i, int row, int line) {
  return i / line * 4 * line + i % line / row * 2 * row + i % row;
}

// All four pixels of a square = factor times the small one: up-sampling, and the gradient of a mean
template <class T, int N>
__global__ void spread(const T* __restrict__ small, T* __restrict__ large, float factor, int count, int row, int line) {
  typedef Vector<T, N> V;
  EACH(i, count) {
    V v = V::load(small + i * N);
#pragma unroll
    for (int e = 0; e < N; e++) v.at[e] = from_float<T>(factor * to_float(v.at[e]));
    T* to = large + corner(i, row, line) * N;
    v.store(to);
    v.store(to + row * N);
    v.store(to + 2 * line * N);
    v.store(to + (2 * line + row) * N);
  }
}

// A small pixel = factor times the sum of its square: the mean, and the gradient of up-sampling
template <class T, int N>
__global__ void gather(const T* __restrict__ large, T* __restrict__ small, float factor, int count, int row, int line) {
  typedef Vector<T, N> V;
  EACH(i, count) {
    const T* from = large + corner(i, row, line) * N;
    const V a = V::load(from), b = V::load(from + row * N);
    const V c = V::load(from + 2 * line * N), d = V::load(from + (2 * line + row) * N);
    V v;
#pragma unroll
    for (int e = 0; e < N; e++)
      v.at[e] = from_float<T>(factor * ((to_float(a.at[e]) + to_float(b.at[e])) + (to_float(c.at[e]) + to_float(d.at[e]))));
    v.store(small + i * N);
  }
}
