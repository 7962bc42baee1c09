// Group normalisation of (N, P, C), forward and backward, of one array or of two joined along channels.
//
// Idea: a block takes a chunk of pixels and a slab of channels of one image; a thread V neighbouring channels, whose
// coefficients it keeps in registers, and every `rows`-th pixel. Neighbouring lanes read neighbouring channels. Sums are
// kept for each channel, so that V and the groups' width have nothing to do with one another; threads, chunks and channels
// are joined in a fixed order, hence the same bits each time.
//   statistics   moments of each thread about its first number, joined by Chan's formula; means are kept as distances from
//                the first number of the group, which float32 holds though numbers be large. Where one block sees all
//                pixels (WHOLE) it ends with mean and rstd, else `finish_statistics` joins the chunks
//   normalise    y = (x - mean) rstd gamma + beta, through SiLU, times a mask of dropout
//   backward     sums of dn and dn n for each channel, n the normalised x and dn the gradient of n gamma + beta; over
//                images they are dbeta and dgamma, over a group's channels, times gamma, the two means that dx needs
// Limit: memory. statistics read x once; normalise reads and writes once; backward reads x and dy twice and writes dx: at
// least 3/4 of the copy rate where the arrays are larger than the cache. Sums need up to 24 KB of shared memory.
//
// Shapes: first (N, P, A), second (N, P, B) or null, C = A + B; gamma, beta (C,); mean, rstd (N, G); mask, y (N, P, C);
// partial (N, chunks, C, 2). V divides A and B. grid: (chunks, slabs, N), but for finish_…; block: THREADS.
// Resident: backward_sums, input_gradient, normalise 2 of 256; statistics 3 of 256; finish_sums 4 of 256;
// finish_statistics 5 of 256
#include "normalization.cuh"

// BLOCKS: on a multiprocessor at least. Without a number the compiler sees to more of them, and spills registers for it
constexpr int THREADS = 256, WARPS = THREADS / 32, BLOCKS = 2;

struct Norm {
  int images, pixels;
  int first, second;  // channels, A and B
  int groups;
  int chunk;          // pixels of a block
  int slab;           // channels of a block, a multiple of V; if WHOLE, of the groups' width
  __device__ __forceinline__ int channels() const { return first + second; }
  __device__ __forceinline__ int width() const { return channels() / groups; }
  __device__ __forceinline__ int chunks() const { return (pixels + chunk - 1) / chunk; }
};

// What a thread does of its block's share. Threads that are left over have no pixels
template <int V> struct Place {
  int image, channel, lanes, rows, row, begin, end;
  __device__ __forceinline__ explicit Place(const Norm& s) {
    const int start = blockIdx.y * s.slab, thread = threadIdx.x;
    image = blockIdx.z;
    lanes = min(s.slab, s.channels() - start) / V;
    rows = THREADS / lanes;
    row = thread / lanes;
    channel = start + thread % lanes * V;
    end = row < rows ? min(s.pixels, ((int)blockIdx.x + 1) * s.chunk) : 0;
    begin = blockIdx.x * s.chunk + row;
  }
  __device__ __forceinline__ int count() const { return begin < end ? (end - begin + rows - 1) / rows : 0; }
};

// The same channel of two arrays of N x P pixels, the second null or not
template <int V, class T>
__device__ __forceinline__ Column<T> column(T* first, T* second, const Norm& s, const Place<V>& at) {
  return column(first, second, make_int2(s.first, s.second), s.pixels, at.image, at.channel);
}

// Joins what the threads of one channel hold, row upon row; the first row's threads get the result. join(thread, other)
template <int V, class Join> __device__ __forceinline__ void join_rows(const Place<V>& at, Join join) {
  for (int n = at.rows; n > 1; n = (n + 1) / 2) {
    const int half = (n + 1) / 2;
    __syncthreads();
    if (at.row + half < n) join((int)threadIdx.x, (int)threadIdx.x + half * at.lanes);
  }
  __syncthreads();
}

// The first number of a channel's group
template <class T>
__device__ __forceinline__ float origin(const T* first, const T* second, const Norm& s, int image, int channel) {
  const int start = channel / s.width() * s.width();
  return to_float(*column(first, second, make_int2(s.first, s.second), s.pixels, image, start).at);
}

// mean, rstd: written if WHOLE; partial: mean and squares of each chunk's channels, written if not
template <class T, int V, bool WHOLE>
__global__ void __launch_bounds__(THREADS, BLOCKS)
statistics(const T* __restrict__ first, const T* __restrict__ second, float* __restrict__ mean, float* __restrict__ rstd,
           float* __restrict__ partial, Norm s, float eps) {
  SHARED(Moments, part, [V][THREADS]);
  const Place<V> at(s);
  const Column<const T> x = column(first, second, s, at);
  const int thread = threadIdx.x, n = at.count();
  float shift[V] = {}, sum[V] = {}, square[V] = {};
  if (n) {
    const Vector<T, V> v = Vector<T, V>::load(x.pixel(at.begin));
#pragma unroll
    for (int e = 0; e < V; e++) shift[e] = to_float(v.at[e]);
  }
#pragma unroll(V > 4 ? 4 : 8)
  for (int i = at.begin + at.rows; i < at.end; i += at.rows) {
    const Vector<T, V> v = Vector<T, V>::load(x.pixel(i));
#pragma unroll
    for (int e = 0; e < V; e++) {
      const float away = to_float(v.at[e]) - shift[e];
      sum[e] += away;
      square[e] += away * away;
    }
  }
  // One division, not one for each channel
  const float share = n ? 1.f / n : 0.f;
#pragma unroll
  for (int e = 0; e < V; e++) {
    const float away = sum[e] * share;
    const float from = origin(first, second, s, at.image, at.channel + e);
    part[e][thread] = {(float)n, n ? shift[e] - from + away : 0.f, fmaxf(square[e] - away * sum[e], 0.f)};
  }
  join_rows(at, [&](int a, int b) {
#pragma unroll
    for (int e = 0; e < V; e++) part[e][a] = joined(part[e][a], part[e][b]);
  });
  if constexpr (WHOLE) {
    const int width = s.width(), groups = at.lanes * V / width, lane = thread & 31;
    for (int g = thread >> 5; g < groups; g += WARPS) {
      Moments of_lane = {0.f, 0.f, 0.f};
      for (int c = g * width + lane; c < (g + 1) * width; c += 32) of_lane = joined(of_lane, part[c % V][c / V]);
      const Moments all = joined_lanes(of_lane);
      const int group = blockIdx.y * s.slab / width + g, to = at.image * s.groups + group;
      if (lane == 0) {
        mean[to] = origin(first, second, s, at.image, group * width) + all.mean;
        rstd[to] = inverse_deviation(all, eps);
      }
    }
  } else if (at.row == 0) {
    float* to = partial + (((long long)at.image * s.chunks() + blockIdx.x) * s.channels() + at.channel) * 2;
#pragma unroll
    for (int e = 0; e < V; e++) to[2 * e] = part[e][thread].mean, to[2 * e + 1] = part[e][thread].squares;
  }
}

// A warp joins the chunks and channels of one image's group. grid: ceil(N G / WARPS)
template <class T>
__global__ void __launch_bounds__(THREADS, BLOCKS)
finish_statistics(const T* __restrict__ first, const T* __restrict__ second, const float* __restrict__ partial,
                  float* __restrict__ mean, float* __restrict__ rstd, Norm s, float eps) {
  const int lane = threadIdx.x & 31, one = blockIdx.x * WARPS + (threadIdx.x >> 5), width = s.width();
  if (one >= s.images * s.groups) return;
  const float* image = partial + (long long)(one / s.groups) * s.chunks() * s.channels() * 2;
  Moments of_lane = {0.f, 0.f, 0.f};
  for (int i = lane; i < s.chunks() * width; i += 32) {
    const int chunk = i / width;
    const float* from = image + ((long long)chunk * s.channels() + one % s.groups * width + i % width) * 2;
    of_lane = joined(of_lane, {(float)min(s.chunk, s.pixels - chunk * s.chunk), from[0], from[1]});
  }
  const Moments all = joined_lanes(of_lane);
  if (lane) return;
  mean[one] = origin(first, second, s, one / s.groups, one % s.groups * width) + all.mean;
  rstd[one] = inverse_deviation(all, eps);
}

// Of V channels: what makes x the normalised n, and n the result
template <int V> struct Coefficients {
  float mean[V], rstd[V], gamma[V], beta[V];
  __device__ __forceinline__ Coefficients(const Norm& s, const Place<V>& at, const float* means, const float* rstds,
                                          const float* gammas, const float* betas) {
#pragma unroll
    for (int e = 0; e < V; e++) {
      const int group = at.image * s.groups + (at.channel + e) / s.width();
      mean[e] = means[group], rstd[e] = rstds[group], gamma[e] = gammas[at.channel + e], beta[e] = betas[at.channel + e];
    }
  }
  __device__ __forceinline__ float normal(float x, int e) const { return (x - mean[e]) * rstd[e]; }
  // The gradient of n gamma + beta
  template <bool SILU> __device__ __forceinline__ float before(float dy, float n, int e) const {
    return SILU ? dy * silu_slope(n * gamma[e] + beta[e]) : dy;
  }
};

template <class T, int V, bool SILU>
__global__ void __launch_bounds__(THREADS, BLOCKS)
normalise(const T* __restrict__ first, const T* __restrict__ second, const float* __restrict__ gamma,
          const float* __restrict__ beta, const float* __restrict__ mean, const float* __restrict__ rstd,
          const T* __restrict__ mask, T* __restrict__ y, Norm s) {
  const Place<V> at(s);
  const Column<const T> x = column(first, second, s, at);
  const long long start = (long long)at.image * s.pixels * s.channels() + at.channel;
  const Coefficients<V> c(s, at, mean, rstd, gamma, beta);
#pragma unroll(V > 4 ? 2 : 4)
  for (int i = at.begin; i < at.end; i += at.rows) {
    const long long to = start + (long long)i * s.channels();
    Vector<T, V> v = Vector<T, V>::load(x.pixel(i));
    Vector<T, V> m = {};
    if (mask) m = Vector<T, V>::load(mask + to);
#pragma unroll
    for (int e = 0; e < V; e++) {
      float out = c.normal(to_float(v.at[e]), e) * c.gamma[e] + c.beta[e];
      if (SILU) out = silu_of(out);
      v.at[e] = from_float<T>(mask ? out * to_float(m.at[e]) : out);
    }
    v.store(y + to);
  }
}

// dfirst, dsecond: the gradient of y, (N, P, dwidths.x) and (N, P, dwidths.y) that together are C channels; times the mask.
// partial: sums of dn and of dn n
template <class T, int V, bool SILU>
__global__ void __launch_bounds__(THREADS, BLOCKS)
backward_sums(const T* __restrict__ dfirst, const T* __restrict__ dsecond, int2 dwidths, const T* __restrict__ first,
              const T* __restrict__ second, const float* __restrict__ gamma, const float* __restrict__ beta,
              const float* __restrict__ mean, const float* __restrict__ rstd, const T* __restrict__ mask,
              float* __restrict__ partial, Norm s) {
  SHARED(float2, part, [V][THREADS]);
  const Place<V> at(s);
  const Column<const T> x = column(first, second, s, at);
  const Column<const T> dy = column(dfirst, dsecond, dwidths, s.pixels, at.image, at.channel);
  const T* of_mask = mask + (long long)at.image * s.pixels * s.channels() + at.channel;
  const Coefficients<V> c(s, at, mean, rstd, gamma, beta);
  float plain[V] = {}, times_n[V] = {};
#pragma unroll(V > 4 ? 2 : 4)
  for (int i = at.begin; i < at.end; i += at.rows) {
    const Vector<T, V> v = Vector<T, V>::load(x.pixel(i)), d = Vector<T, V>::load(dy.pixel(i));
    Vector<T, V> m = {};
    if (mask) m = Vector<T, V>::load(of_mask + (long long)i * s.channels());
#pragma unroll
    for (int e = 0; e < V; e++) {
      const float n = c.normal(to_float(v.at[e]), e), kept = to_float(d.at[e]) * (mask ? to_float(m.at[e]) : 1.f);
      const float dn = c.template before<SILU>(kept, n, e);
      plain[e] += dn;
      times_n[e] += dn * n;
    }
  }
#pragma unroll
  for (int e = 0; e < V; e++) part[e][threadIdx.x] = make_float2(plain[e], times_n[e]);
  join_rows(at, [&](int a, int b) {
#pragma unroll
    for (int e = 0; e < V; e++) part[e][a].x += part[e][b].x, part[e][a].y += part[e][b].y;
  });
  if (at.row == 0) {
    float* to = partial + (((long long)at.image * s.chunks() + blockIdx.x) * s.channels() + at.channel) * 2;
#pragma unroll
    for (int e = 0; e < V; e++) to[2 * e] = part[e][threadIdx.x].x, to[2 * e + 1] = part[e][threadIdx.x].y;
  }
}

// A warp makes of the sums either a group's means of dn gamma and dn gamma n, or a channel's dgamma and dbeta.
// means: (N, G, 2). grid: ceil((N G + C) / WARPS)
__global__ void __launch_bounds__(THREADS, BLOCKS)
finish_sums(const float* __restrict__ partial, const float* __restrict__ gamma, float* __restrict__ means,
            float* __restrict__ dgamma, float* __restrict__ dbeta, Norm s) {
  const int lane = threadIdx.x & 31, one = blockIdx.x * WARPS + (threadIdx.x >> 5);
  const int all = s.images * s.groups, channels = s.channels(), width = s.width(), channel = one - all;
  if (channel >= channels) return;
  float plain = 0.f, times_n = 0.f;
  if (one < all) {
    const float* image = partial + (long long)(one / s.groups) * s.chunks() * channels * 2;
    for (int i = lane; i < s.chunks() * width; i += 32) {
      const int c = one % s.groups * width + i % width;
      const float* from = image + ((long long)(i / width) * channels + c) * 2;
      plain += gamma[c] * from[0];
      times_n += gamma[c] * from[1];
    }
  } else {
    for (int i = lane; i < s.images * s.chunks(); i += 32) {
      const float* from = partial + ((long long)i * channels + channel) * 2;
      plain += from[0];
      times_n += from[1];
    }
  }
  plain = sum_lanes(plain), times_n = sum_lanes(times_n);
  if (lane) return;
  const float share = 1.f / ((float)s.pixels * width);
  if (one < all) means[2 * one] = plain * share, means[2 * one + 1] = times_n * share;
  else dbeta[channel] = plain, dgamma[channel] = times_n;
}

// dx = rstd (dn gamma - mean(dn gamma) - n mean(dn gamma n)) + more. out, out_second: dx in the parts of x; more: of the
// first part, or null. An output may be the very array of dy or of `more`
template <class T, int V, bool SILU>
__global__ void __launch_bounds__(THREADS, BLOCKS)
input_gradient(const T* dfirst, const T* dsecond, int2 dwidths, const T* __restrict__ first,
               const T* __restrict__ second, const float* __restrict__ gamma, const float* __restrict__ beta,
               const float* __restrict__ mean, const float* __restrict__ rstd, const T* __restrict__ mask,
               const float* __restrict__ means, const T* more, T* out, T* out_second, Norm s) {
  const Place<V> at(s);
  const Column<const T> x = column(first, second, s, at);
  const Column<const T> dy = column(dfirst, dsecond, dwidths, s.pixels, at.image, at.channel);
  const Column<T> dx = column(out, out_second, s, at);
  const bool adds = more && at.channel < s.first;
  const T* of_more = more + (long long)at.image * s.pixels * s.first + at.channel;
  const T* of_mask = mask + (long long)at.image * s.pixels * s.channels() + at.channel;
  const Coefficients<V> c(s, at, mean, rstd, gamma, beta);
  float plain[V], times_n[V];
#pragma unroll
  for (int e = 0; e < V; e++) {
    const int group = at.image * s.groups + (at.channel + e) / s.width();
    plain[e] = means[2 * group], times_n[e] = means[2 * group + 1];
  }
#pragma unroll(V > 4 ? 1 : 2)
  for (int i = at.begin; i < at.end; i += at.rows) {
    const Vector<T, V> v = Vector<T, V>::load(x.pixel(i)), d = Vector<T, V>::load(dy.pixel(i));
    Vector<T, V> m = {}, other = {}, result;
    if (mask) m = Vector<T, V>::load(of_mask + (long long)i * s.channels());
    if (adds) other = Vector<T, V>::load(of_more + (long long)i * s.first);
#pragma unroll
    for (int e = 0; e < V; e++) {
      const float n = c.normal(to_float(v.at[e]), e), kept = to_float(d.at[e]) * (mask ? to_float(m.at[e]) : 1.f);
      // Rounded as the mean is: their difference, of a group of one, must be zero
      const float through = __fmul_rn(c.template before<SILU>(kept, n, e), c.gamma[e]) - plain[e] - n * times_n[e];
      result.at[e] = from_float<T>(c.rstd[e] * through + (adds ? to_float(other.at[e]) : 0.f));
    }
    result.store(dx.pixel(i));
  }
}
