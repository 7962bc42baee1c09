// Training losses: the mean over all elements, and what its gradient is a multiple of.
//   Shapes    prediction, target, slope: any, of `count` elements; weights: one float for each `per` of them, or null;
//             partial: one float for each chunk; value: one float;
//             logits, error (N, K), labels (N,) int64
//   Idea      the first kernel writes the slopes and sums a chunk's losses in a block, the second adds the chunks' sums in
//             float64: one order, no atomics. The gradient is the slope times one number, which may lie in device memory
//   Limit     memory (12 bytes an element, backward 8), at 85 % of the copy rate where a batch fills the device; a batch of
//             64 small images is 96 blocks and lasts as long as two launches
//             The cross-entropy has a thread for each row, which is little work for ten classes, and slow for thousands
//   Resident  loss 5 of 256; loss_backward, mean, cross_entropy 6 of 256
#include "sums.cuh"

enum Kind { MSE, L1, HUBER };

// Loss and slope at a residual: r^2 and r, |r| and its sign, Huber's and r limited. NaN spreads: it compares as neither
template <int KIND> __device__ __forceinline__ float loss_at(float r, float delta, float& slope) {
  if constexpr (KIND == MSE) {
    slope = r;
    return r * r;
  } else if constexpr (KIND == L1) {
    slope = r > 0.f ? 1.f : r < 0.f ? -1.f : 0.f * r;
    return r * slope;
  } else {
    slope = r > delta ? delta : r < -delta ? -delta : r;
    return slope * (r - 0.5f * slope);
  }
}

// grid ceil(count / CHUNK), block SUMMING; N elements of T are moved at once
template <int KIND, class T, int N>
__global__ void loss(const T* __restrict__ prediction, const T* __restrict__ target, T* __restrict__ slope,
                     const float* __restrict__ weights, float* __restrict__ partial, int count, int per, float delta) {
  typedef Vector<T, N> V;
  const int begin = blockIdx.x * CHUNK, end = min(begin + CHUNK, count);
  float sum = 0.f;
  for (int i = begin + threadIdx.x * N; i < end; i += SUMMING * N) {
    const V a = V::load(prediction + i), b = V::load(target + i);
    V c;
#pragma unroll
    for (int e = 0; e < N; e++) {
      float s, weight = weights ? weights[(i + e) / per] : 1.f;
      sum += weight * loss_at<KIND>(to_float(a.at[e]) - to_float(b.at[e]), delta, s);
      c.at[e] = from_float<T>(weight * s);
    }
    c.store(slope + i);
  }
  sum = sum_block(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// error = softmax(logits) - one-hot; partial: sums of -log softmax at the labels, NaN for one outside [0, classes).
// grid ceil(rows / SUMMING), block SUMMING
template <class T>
__global__ void cross_entropy(const T* __restrict__ logits, const long long* __restrict__ labels, T* __restrict__ error,
                              float* __restrict__ partial, int rows, int classes) {
  const int n = blockIdx.x * SUMMING + threadIdx.x;
  float loss = 0.f;
  if (n < rows) {
    const T* x = logits + n * classes;
    const long long label = labels[n];
    float highest = to_float(x[0]), others = 0.f;
    for (int c = 1; c < classes; c++) highest = fmaxf(highest, to_float(x[c]));
    for (int c = 0; c < classes; c++)
      if (c != label) others += expf(to_float(x[c]) - highest);
    const bool known = 0 <= label && label < classes;
    const float lead = known ? to_float(x[label]) - highest : __uint_as_float(0x7fc00000u);
    const float total = others + (known ? expf(lead) : 0.f);
    // A row that is all but certain: log(1 + others) and -others / total keep the digits that 1 - p would lose
    loss = lead == 0.f ? log1pf(others) : logf(total) - lead;
    for (int c = 0; c < classes; c++)
      error[n * classes + c] = from_float<T>((c == label ? -others : expf(to_float(x[c]) - highest)) / total);
  }
  loss = sum_block(loss);
  if (threadIdx.x == 0) partial[blockIdx.x] = loss;
}

// value = the partial sums' sum over count. grid 1, block SUMMING
__global__ void mean(const float* __restrict__ partial, float* __restrict__ value, int chunks, int count) {
  const double sum = sum_partial(partial, chunks);
  if (threadIdx.x == 0) *value = (float)(sum / count);
}

// dx = factor dy slope, for `count` vectors; dy: one float, null for 1
template <class T, int N>
__global__ void loss_backward(const T* __restrict__ slope, const float* __restrict__ dy, float factor, T* __restrict__ dx,
                              int count) {
  typedef Vector<T, N> V;
  if (dy) factor *= *dy;
  EACH(i, count) {
    V v = V::load(slope + i * N);
#pragma unroll
    for (int e = 0; e < N; e++) v.at[e] = from_float<T>(to_float(v.at[e]) * factor);
    v.store(dx + i * N);
  }
}
