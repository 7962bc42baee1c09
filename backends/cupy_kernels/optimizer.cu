// One pass over flat arrays each: the global norm, clipping, Adam with or without the average of weights, that average.
//   Shapes    grads, params, m, v, average: (P,) float; partial: one float for each chunk; norm: one float
//   Idea      a thread takes four neighbours of each array, at once where all are there. Numbers that change from step to
//             step come from device memory (`numbers`), so that a graph replays them: one thread of each block turns them,
//             in float64, into the factors that its block uses. Sums go by chunks, in one order (sums.cuh)
//   Limit     memory: norm 4 bytes a parameter, clip 8, adam 28, adam with average 36, average 12; at 90 % of the copy rate
//   Resident  adam 4 of 256; clip, ema, root, sum_squares 6 of 256
#include "sums.cuh"

typedef Vector<float, 4> Four;

// x[i … i + 3], with zeros after the end; by one access where four are left and `wide` says that addresses allow it
__device__ __forceinline__ Four load(const float* x, int i, int count, bool wide) {
  if (wide && count - i >= 4) return Four::load(x + i);
  Four v = {};
#pragma unroll
  for (int e = 0; e < 4; e++)
    if (i + e < count) v.at[e] = x[i + e];
  return v;
}
__device__ __forceinline__ void store(const Four& v, float* x, int i, int count, bool wide) {
  if (wide && count - i >= 4) return v.store(x + i);
#pragma unroll
  for (int e = 0; e < 4; e++)
    if (i + e < count) x[i + e] = v.at[e];
}

// partial[k] = sum of squares of chunk k. grid ceil(count / CHUNK), block SUMMING
__global__ void sum_squares(const float* __restrict__ x, float* __restrict__ partial, int count, int wide) {
  const int begin = blockIdx.x * CHUNK, end = min(begin + CHUNK, count);
  float sum = 0.f;
  for (int i = begin + 4 * threadIdx.x; i < end; i += 4 * SUMMING) {
    const Four v = load(x, i, end, wide);
#pragma unroll
    for (int e = 0; e < 4; e++) sum += v.at[e] * v.at[e];
  }
  sum = sum_block(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// norm = the root of the partial sums' sum. grid 1, block SUMMING
__global__ void root(const float* __restrict__ partial, float* __restrict__ norm, int chunks) {
  const double sum = sum_partial(partial, chunks);
  if (threadIdx.x == 0) *norm = (float)sqrt(sum);
}

// grads *= most / norm where the norm is more than `most`; a norm of NaN spreads
__global__ void clip(float* __restrict__ grads, const float* __restrict__ norm, float most, int count, int wide) {
  const float factor = *norm <= most ? 1.f : most / *norm;
  EACH(group, (count + 3) / 4) {
    const int i = 4 * group;
    Four v = load(grads, i, count, wide);
#pragma unroll
    for (int e = 0; e < 4; e++) v.at[e] *= factor;
    store(v, grads, i, count, wide);
  }
}

// What changes from step to step, in float64 as the reference has it: 1 - 0.999 in float32 is off by 1e-5
struct Numbers {
  double step, lr, scale, decay;
};
struct Rates {
  double beta1, beta2, eps, weight_decay;
};
struct Factors {
  float beta1, share1, beta2, share2, rate, keep, unbias, eps, scale, share;
};

// Kingma & Ba 2015, algorithm 1, decay decoupled; then the average, if there is one, moves towards the new parameters. A
// scale of NaN moves nothing: so a step that went wrong leaves all as it was, without the host
__global__ void adam(float* __restrict__ params, const float* __restrict__ grads, float* __restrict__ m,
                     float* __restrict__ v, float* __restrict__ average, int count, int wide, Rates rates,
                     const Numbers* __restrict__ numbers) {
  SHARED(Factors, shared, [1]);
  if (threadIdx.x == 0) {
    const Numbers n = *numbers;
    shared[0] = {(float)rates.beta1,
                 (float)(1 - rates.beta1),
                 (float)rates.beta2,
                 (float)(1 - rates.beta2),
                 (float)(n.lr / (1 - pow(rates.beta1, n.step))),
                 (float)(1 - n.lr * rates.weight_decay),
                 (float)(1 / (1 - pow(rates.beta2, n.step))),
                 (float)rates.eps,
                 (float)n.scale,
                 (float)(1 - n.decay)};
  }
  __syncthreads();
  const Factors f = shared[0];
  if (f.scale != f.scale) return;
  EACH(group, (count + 3) / 4) {
    const int i = 4 * group;
    const Four g = load(grads, i, count, wide);
    Four p = load(params, i, count, wide), first = load(m, i, count, wide), second = load(v, i, count, wide), mean = {};
    if (average) mean = load(average, i, count, wide);
#pragma unroll
    for (int e = 0; e < 4; e++) {
      const float slope = f.scale * g.at[e];
      first.at[e] = f.beta1 * first.at[e] + f.share1 * slope;
      second.at[e] = f.beta2 * second.at[e] + f.share2 * (slope * slope);
      p.at[e] = p.at[e] * f.keep - f.rate * (first.at[e] / (sqrtf(second.at[e] * f.unbias) + f.eps));
      mean.at[e] += f.share * (p.at[e] - mean.at[e]);
    }
    store(p, params, i, count, wide);
    store(first, m, i, count, wide);
    store(second, v, i, count, wide);
    if (average) store(mean, average, i, count, wide);
  }
}

// average += (1 - decay) (params - average)
__global__ void ema(float* __restrict__ average, const float* __restrict__ params, int count, int wide,
                    const Numbers* __restrict__ numbers) {
  const float share = (float)(1 - numbers->decay);
  EACH(group, (count + 3) / 4) {
    const int i = 4 * group;
    const Four p = load(params, i, count, wide);
    Four mean = load(average, i, count, wide);
#pragma unroll
    for (int e = 0; e < 4; e++) mean.at[e] += share * (p.at[e] - mean.at[e]);
    store(mean, average, i, count, wide);
  }
}
