// Embeddings: rows of a table by label, sinusoids by timestep.
//   Shapes    table, dtable (V, C); indices (N,) int64; y, dy (N, C); t (N,); out (N, D)
//   Idea      a thread an element. The table's gradient asks for each of its rows which labels name it, in their order: no
//             atomics, hence one order of summation, and rows that none names come out as zeros in passing
//   Limit     a launch each: at batch 64 and 128 channels 32 KB are written. The gradient reads N labels for each of its V C
//             elements, all from the cache
//   Resident  sinusoids, take, take_backward 6 of 256
#include "types.cuh"

// y[n] = table[indices[n]], NaN for a label that the table has not. Of `count` elements
template <class T>
__global__ void take(const T* __restrict__ table, const long long* __restrict__ indices, T* __restrict__ y, int count,
                     int rows, int channels) {
  EACH(i, count) {
    const long long row = indices[i / channels];
    y[i] = 0 <= row && row < rows ? table[(int)row * channels + i % channels] : from_float<T>(__uint_as_float(0x7fc00000u));
  }
}

// dtable[v] = sum of dy[n] over the n whose label is v. `count`: elements of dtable
template <class T>
__global__ void take_backward(const T* __restrict__ dy, const long long* __restrict__ indices, T* __restrict__ dtable,
                              int count, int labels, int channels) {
  EACH(i, count) {
    const int row = i / channels, c = i % channels;
    float sum = 0.f;
    for (int n = 0; n < labels; n++)
      if (indices[n] == row) sum += to_float(dy[n * channels + c]);
    dtable[i] = from_float<T>(sum);
  }
}

// out[n] = cosines and sines of t[n] exp(-rate i), i < half, in float64; an odd dim ends in a zero. `count`: of pairs, and
// of one more for each odd row's end
template <class Time, class T>
__global__ void sinusoids(const Time* __restrict__ t, T* __restrict__ out, int count, int dim, int cos_first, double rate) {
  const int half = dim / 2, across = half + dim % 2;
  EACH(j, count) {
    const int n = j / across, i = j % across;
    T* row = out + n * dim;
    if (i == half) {
      row[dim - 1] = (T)0;
    } else {
      double sine, cosine;
      sincos((double)t[n] * exp(i * rate), &sine, &cosine);
      row[cos_first ? i : half + i] = (T)cosine;
      row[cos_first ? half + i : i] = (T)sine;
    }
  }
}
