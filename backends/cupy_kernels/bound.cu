// The terms of the variational bound and their gradients: backends/ops/bound.py says what is computed.
//   Shapes    output, doutput (N, P, 2C); target, x0 (N, P, C), `per` = P C; steps (N, 6); losses, dy (1 + N,)
//   Idea      forward a block an image, whose sum is in one order, then one block for the mean; backward a thread an element.
//             The decoder, which few images need, is computed in float64: differences of probabilities would lose their digits
//   Limit     memory, 16 bytes an element, where no image is at its first step; a batch of 64 small images is 64 blocks
//   Resident  bound, bound_backward 4 of 256; bound_mean 6 of 256
#include "sums.cuh"
#include "types.cuh"

constexpr double HALF_CELL = 1.0 / 255, BITS = 1.4426950408889634;
constexpr float EDGE = 0.999f;

// What an image's timestep says: a row of steps
struct Step {
  float gap, low, high, first, simple, bound;
};

// -log p of a grey level in nats, and its derivatives by x0 - mean and by the log-variance
struct Decoded {
  double nats, by_mean, by_log_variance;
};

__device__ Decoded decoder(double d, float x0, double log_variance) {
  const bool two_sided = -EDGE < x0 && x0 < EDGE;
  const double side = two_sided ? (d > 0 ? 1 : d < 0 ? -1 : 0) : x0 >= EDGE ? 1 : -1;
  const double inverse = exp(-0.5 * log_variance), distance = side * d, root_half = 0.70710678118654752;
  const double near = (HALF_CELL - distance) * inverse, half_square = 0.5 * near * near;
  double far = 0, ratio = 0, far_tail = 0;
  if (two_sided) {
    far = (HALF_CELL + distance) * inverse;
    ratio = exp(-2 * HALF_CELL * distance * inverse * inverse);
    far_tail = 0.5 * erfcx(far * root_half) * ratio;
  }
  const double near_tail = 0.5 * erfcx(fabs(near) * root_half);
  const double inside = near > 0 ? exp(-half_square) : 1;
  const double p = near > 0 ? 1 - inside * (near_tail + far_tail) : near_tail - far_tail;
  const double at_near = 0.39894228040143268 * inside / p, at_far = ratio * at_near;
  return {(near > 0 ? 0 : half_square) - log(p), (at_near - at_far) * inverse * side,
          0.5 * (near * at_near + far * at_far)};
}

__device__ __forceinline__ float log_variance_of(const Step& step, float v) {
  return step.low + 0.5f * (v + 1.f) * (step.high - step.low);
}

// losses[1 + n] of the image n. grid N, block SUMMING
template <class T>
__global__ void bound(const T* __restrict__ output, const T* __restrict__ target, const T* __restrict__ x0,
                      const float* __restrict__ steps, float* __restrict__ losses, int per, int channels) {
  const int n = blockIdx.x;
  const Step step = ((const Step*)steps)[n];
  float sum = 0.f;
  for (int i = threadIdx.x; i < per; i += SUMMING) {
    const T* pixel = output + 2 * (n * per + i - i % channels) + i % channels;
    const float r = to_float(pixel[0]) - to_float(target[n * per + i]), d = step.gap * r;
    const float log_variance = log_variance_of(step, to_float(pixel[channels]));
    float nats;
    if (step.first > 0.f) {
      nats = (float)decoder(d, to_float(x0[n * per + i]), log_variance).nats;
    } else {
      const float excess = log_variance - step.low;
      nats = 0.5f * (excess - 1.f + expf(-excess) + d * d * expf(-log_variance));
    }
    sum += step.simple * r * r + (float)BITS * step.bound * nats;
  }
  sum = sum_block(sum);
  if (threadIdx.x == 0) losses[1 + n] = sum / per;
}

// losses[0] = the mean of the others. grid 1, block SUMMING
__global__ void bound_mean(float* __restrict__ losses, int images) {
  const double sum = sum_partial(losses + 1, images);
  if (threadIdx.x == 0) losses[0] = (float)(sum / images);
}

// `count`: elements of target. dy: null where `factor` is the mean's
template <class T>
__global__ void bound_backward(const T* __restrict__ output, const T* __restrict__ target, const T* __restrict__ x0,
                               const float* __restrict__ steps, const float* __restrict__ dy, float factor,
                               T* __restrict__ doutput, int count, int images, int per, int channels, int hybrid) {
  EACH(i, count) {
    const int n = i / per, place = 2 * (i - i % channels) + i % channels;
    const Step step = ((const Step*)steps)[n];
    const float dloss = dy ? dy[0] / images + dy[1 + n] : factor / images;
    const float r = to_float(output[place]) - to_float(target[i]), d = step.gap * r;
    const float log_variance = log_variance_of(step, to_float(output[place + channels]));
    float by_mean, by_log_variance;
    if (step.first > 0.f) {
      const Decoded decoded = decoder(d, to_float(x0[i]), log_variance);
      by_mean = (float)decoded.by_mean, by_log_variance = (float)decoded.by_log_variance;
    } else {
      by_mean = d * expf(-log_variance);
      by_log_variance = 0.5f * (1.f - expf(step.low - log_variance) - d * by_mean);
    }
    const float by_nats = (float)BITS * step.bound * dloss / per;
    float dr = 2.f * step.simple * dloss / per * r;
    if (!hybrid) dr += by_nats * step.gap * by_mean;
    doutput[place] = from_float<T>(dr);
    doutput[place + channels] = from_float<T>(by_nats * 0.5f * (step.high - step.low) * by_log_variance);
  }
}
