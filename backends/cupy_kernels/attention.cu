// Multi-head attention in one pass, forward and backward: no array of queries x keys is ever in global memory.
//
// Idea (Dao et al. 2022): a block owns OWN rows, queries or, for the gradients of keys and values, keys; it walks the
// others OTHERS at a time. A warp has 16 rows of its own, so that maximum and sum of a row stay among four lanes.
//   scores    the products of own rows with others, summed over a head's channels BD at a time: a head may be any width
//   forward   weights exp(score - largest so far); what was summed before shrinks when a larger score comes (algorithm 1)
//   backward  weights again from lse, the logarithm of each row's sum (algorithm 4). `slopes` is sum(p dp) of each query
// Results are made SLICE channels at a time (blockIdx.z), so that sums fit in registers whatever the width; each slice
// computes the scores anew, which costs little while images are small and gives the multiprocessors blocks to run.
// Limit: the peak of tensor cores for long sequences of narrow heads; for the 64 to 256 pixels of a U-Net, latency: about
// ten products of 64 x 32 x 32, one after the other.
//
// Shapes: q, dq, dy, y (N, queries, heads, width); k, v, dk, dv (N, keys, heads, width), each with a pitch of its own from
// row to row, so that q, k and v may lie side by side; lse, slopes (N, heads, queries). ALIGNED: pitches and the width are
// multiples of 16 bytes of what is multiplied, addresses aligned to 16.
// grid: (N heads, ceil(own / OWN), ceil(width / SLICE), or 1 for attention_slopes); block: THREADS
// Resident: attention, attention_queries, attention_slopes 2 of 128; attention_keys 1 of 128
#include "slices.cuh"

constexpr int WARPS = 4, THREADS = 32 * WARPS, OWN = 16 * WARPS, OTHERS = 32, BD = 32;
constexpr float LOWEST = -3.402823466e38f;

struct Attention {
  int heads, width, queries, keys;
  int pitch_q, pitch_k, pitch_v, pitch_y;          // y's, and dy's
  int pitch_dq, pitch_dk, pitch_dv;
  float scale;
};

// The rows of one image and head
template <class T> struct Rows {
  T* at;
  int pitch, count;
};

template <class T> __device__ __forceinline__ Rows<T> rows_of(T* all, int pitch, int count, const Attention& s) {
  const int image = blockIdx.x / s.heads, head = blockIdx.x % s.heads;
  return {all + (long long)image * count * pitch + head * s.width, pitch, count};
}

// What the backward kernels read, of one image and head
template <class T> struct Operands {
  Rows<const T> q, k, v, dy;

  __device__ __forceinline__ Operands(const T* all_q, const T* all_k, const T* all_v, const T* all_dy, const Attention& s)
      : q(rows_of(all_q, s.pitch_q, s.queries, s)), k(rows_of(all_k, s.pitch_k, s.keys, s)),
        v(rows_of(all_v, s.pitch_v, s.keys, s)), dy(rows_of(all_dy, s.pitch_y, s.queries, s)) {}
};

template <class Math, bool ALIGNED> struct Block {
  typedef typename Math::In In;
  static constexpr int PITCH = BD + WIDE<In>, CHUNK = (OWN + OTHERS) * PITCH;  // of channels, two on their way
  static constexpr int WEIGHTS = OWN * (OTHERS + WIDE<In>);
  typedef WarpTile<Math, 16, OTHERS> Scores;
  In* memory;
  In* weights;  // this warp's, [16][OTHERS]
  int lane, warp, own;

  __device__ __forceinline__ explicit Block(In* shared) {
    lane = threadIdx.x & 31, warp = threadIdx.x >> 5, own = blockIdx.y * OWN;
    memory = shared;
    weights = shared + 2 * CHUNK + warp * 16 * (OTHERS + WIDE<In>);
  }
  __device__ __forceinline__ In* after() const { return memory + 2 * CHUNK + WEIGHTS; }

  // Own rows of x times rows of y from `other` on. last(): copies to begin while the last channels are multiplied, into
  // memory that nobody reads after the first barrier here
  template <class T, class Last>
  __device__ __forceinline__ void scores(Scores& tile, Rows<const T> x, Rows<const T> y, int other, int width, Last last) {
    auto fetch_chunk = [&](int c) {
      In* to = memory + c % 2 * CHUNK;
      fetch<THREADS, OWN, BD, PITCH, ALIGNED>(to, x.at, x.pitch, own, x.count, c * BD, width);
      fetch<THREADS, OTHERS, BD, PITCH, ALIGNED>(to + OWN * PITCH, y.at, y.pitch, other, y.count, c * BD, width);
    };
    const int chunks = (width + BD - 1) / BD;
    tile.clear();
    __syncthreads();
    fetch_chunk(0);
    commit_group();
#pragma unroll 1
    for (int c = 0; c < chunks; c++) {
      if (c) __syncthreads();  // the chunk before is read
      if (c + 1 < chunks) fetch_chunk(c + 1);
      else last();
      commit_group();
      wait_group<1>();
      __syncthreads();
      const In* from = memory + c % 2 * CHUNK;
#pragma unroll 2  // more would only need registers
      for (int d = 0; d < BD; d += Math::DEPTH)
        tile.template step<true, PITCH, PITCH, true>(from + warp * 16 * PITCH + d, from + OWN * PITCH + d, lane);
    }
  }

  // f(half, column, score) -> weight, for each of this lane's: of row `half` * 8 + lane / 4 of its warp
  template <class F> __device__ __forceinline__ void each(Scores& tile, F f) {
#pragma unroll
    for (int half = 0; half < 2; half++)
#pragma unroll
      for (int j = 0; j < OTHERS / 8; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
          float& score = tile.sum[0][j][half * 2 + e];
          score = f(half, j * 8 + (lane & 3) * 2 + e, score);
        }
  }
  __device__ __forceinline__ int row(int half) const { return own + warp * 16 + half * 8 + (lane >> 2); }

  // The weights where `add` finds them
  __device__ __forceinline__ void put(const Scores& tile) {
#pragma unroll
    for (int half = 0; half < 2; half++)
#pragma unroll
      for (int j = 0; j < OTHERS / 8; j++)
#pragma unroll
        for (int e = 0; e < 2; e++)
          weights[(half * 8 + (lane >> 2)) * (OTHERS + WIDE<In>) + j * 8 + (lane & 3) * 2 + e] =
              from_float<In>(tile.sum[0][j][half * 2 + e]);
  }

  // sum += weights (16 x OTHERS) times a part of other rows, [OTHERS][SLICE + 8]
  template <int SLICE> __device__ __forceinline__ void add(WarpTile<Math, 16, SLICE>& sum, const In* part) {
#pragma unroll 1
    for (int d = 0; d < OTHERS; d += Math::DEPTH)
      sum.template step<true, OTHERS + WIDE<In>, SLICE + 8>(weights + d, part + d * (SLICE + 8), lane);
  }

  template <int SLICE, class T>
  __device__ __forceinline__ void fetch_part(In* to, Rows<const T> from, int other, int width) {
    fetch<THREADS, OTHERS, SLICE, SLICE + 8, ALIGNED>(to, from.at, from.pitch, other, from.count, blockIdx.z * SLICE,
                                                      width);
  }

  template <int SLICE, class T>
  __device__ __forceinline__ void store(WarpTile<Math, 16, SLICE>& sum, Rows<T> to, int width) {
    sum.each_pair(lane, [&](int i, int j, float2 v) {
      const int row = own + warp * 16 + i, c = blockIdx.z * SLICE + j;
      if (row >= to.count || c >= width) return;
      T* at = to.at + (long long)row * to.pitch + c;
      at[0] = from_float<T>(v.x);
      if (c + 1 < width) at[1] = from_float<T>(v.y);
    });
  }
};

// shared memory: 2 CHUNK + WEIGHTS + OTHERS (SLICE + 8) numbers
template <class Math, class T, int SLICE, bool ALIGNED>
__global__ void __launch_bounds__(THREADS)
attention(const T* __restrict__ q, const T* __restrict__ k, const T* __restrict__ v, T* __restrict__ y,
          float* __restrict__ lse, Attention s) {
  typedef typename Math::In In;
  DYNAMIC_SHARED(In, memory);
  Block<Math, ALIGNED> block(memory);
  In* part = block.after();
  const Rows<const T> of_q = rows_of(q, s.pitch_q, s.queries, s), of_k = rows_of(k, s.pitch_k, s.keys, s),
                      of_v = rows_of(v, s.pitch_v, s.keys, s);
  WarpTile<Math, 16, SLICE> sum;
  sum.clear();
  float largest[2] = {LOWEST, LOWEST}, total[2] = {0.f, 0.f};
  for (int other = 0; other < s.keys; other += OTHERS) {
    typename Block<Math, ALIGNED>::Scores p;
    block.scores(p, of_q, of_k, other, s.width, [&] { block.template fetch_part<SLICE>(part, of_v, other, s.width); });
    float top[2] = {largest[0], largest[1]}, added[2] = {0.f, 0.f}, factor[2];
    block.each(p, [&](int half, int j, float score) {
      score = other + j < s.keys ? score * s.scale : LOWEST;
      top[half] = fmaxf(top[half], score);
      return score;
    });
#pragma unroll
    for (int half = 0; half < 2; half++) {
      top[half] = max_lanes<4>(top[half]);
      factor[half] = __expf(largest[half] - top[half]);
      largest[half] = top[half];
    }
    block.each(p, [&](int half, int, float score) {
      const float weight = __expf(score - largest[half]);
      added[half] += weight;
      return weight;
    });
#pragma unroll
    for (int half = 0; half < 2; half++) {
      total[half] = total[half] * factor[half] + sum_lanes<4>(added[half]);
#pragma unroll
      for (int j = 0; j < SLICE / 8; j++) sum.sum[0][j][half * 2] *= factor[half], sum.sum[0][j][half * 2 + 1] *= factor[half];
    }
    block.put(p);
    wait_group<0>();
    __syncthreads();
    block.add(sum, part);
  }
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const float inverse = 1.f / total[half];
#pragma unroll
    for (int j = 0; j < SLICE / 8; j++) sum.sum[0][j][half * 2] *= inverse, sum.sum[0][j][half * 2 + 1] *= inverse;
    const int row = block.row(half);
    if (blockIdx.z == 0 && (block.lane & 3) == 0 && row < s.queries)
      lse[(long long)blockIdx.x * s.queries + row] = largest[half] + logf(total[half]);
  }
  block.store(sum, rows_of(y, s.pitch_y, s.queries, s), s.width);
}

// slopes = sum over keys of p dp, dp = dy v^T. shared memory: 2 CHUNK + WEIGHTS numbers
template <class Math, class T, bool ALIGNED>
__global__ void __launch_bounds__(THREADS)
attention_slopes(const T* __restrict__ q, const T* __restrict__ k, const T* __restrict__ v, const T* __restrict__ dy,
                 const float* __restrict__ lse, float* __restrict__ slopes, Attention s) {
  DYNAMIC_SHARED(typename Math::In, memory);
  Block<Math, ALIGNED> block(memory);
  const Operands<T> of(q, k, v, dy, s);
  float of_row[2], total[2] = {0.f, 0.f};
#pragma unroll
  for (int half = 0; half < 2; half++)
    of_row[half] = block.row(half) < s.queries ? lse[(long long)blockIdx.x * s.queries + block.row(half)] : 0.f;
  for (int other = 0; other < s.keys; other += OTHERS) {
    typename Block<Math, ALIGNED>::Scores p, dp;
    block.scores(p, of.q, of.k, other, s.width, [] {});
    block.scores(dp, of.dy, of.v, other, s.width, [] {});
    block.each(p, [&](int half, int j, float score) {
      return other + j < s.keys ? __expf(score * s.scale - of_row[half]) : 0.f;
    });
#pragma unroll
    for (int half = 0; half < 2; half++)
#pragma unroll
      for (int j = 0; j < OTHERS / 8; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) total[half] += p.sum[0][j][half * 2 + e] * dp.sum[0][j][half * 2 + e];
  }
  wait_group<0>();  // of groups that are empty
#pragma unroll
  for (int half = 0; half < 2; half++) {
    total[half] = sum_lanes<4>(total[half]);
    const int row = block.row(half);
    if ((block.lane & 3) == 0 && row < s.queries) slopes[(long long)blockIdx.x * s.queries + row] = total[half];
  }
}

// dq = ds k, ds = p (dp - slope) scale. shared memory: 2 CHUNK + WEIGHTS + OTHERS (SLICE + 8) numbers
template <class Math, class T, int SLICE, bool ALIGNED>
__global__ void __launch_bounds__(THREADS)
attention_queries(const T* __restrict__ q, const T* __restrict__ k, const T* __restrict__ v, const T* __restrict__ dy,
                  const float* __restrict__ lse, const float* __restrict__ slopes, T* __restrict__ dq, Attention s) {
  typedef typename Math::In In;
  DYNAMIC_SHARED(In, memory);
  Block<Math, ALIGNED> block(memory);
  In* part = block.after();
  const Operands<T> of(q, k, v, dy, s);
  float of_row[2], slope[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const long long row = (long long)blockIdx.x * s.queries + block.row(half);
    const bool is = block.row(half) < s.queries;
    of_row[half] = is ? lse[row] : 0.f, slope[half] = is ? slopes[row] : 0.f;
  }
  WarpTile<Math, 16, SLICE> sum;
  sum.clear();
  for (int other = 0; other < s.keys; other += OTHERS) {
    typename Block<Math, ALIGNED>::Scores p, dp;
    block.scores(p, of.q, of.k, other, s.width, [] {});
    block.scores(dp, of.dy, of.v, other, s.width, [&] { block.template fetch_part<SLICE>(part, of.k, other, s.width); });
    block.each(p, [&](int half, int j, float score) {
      return other + j < s.keys ? __expf(score * s.scale - of_row[half]) : 0.f;
    });
#pragma unroll
    for (int half = 0; half < 2; half++)
#pragma unroll
      for (int j = 0; j < OTHERS / 8; j++)
#pragma unroll
        for (int e = 0; e < 2; e++)
          p.sum[0][j][half * 2 + e] *= (dp.sum[0][j][half * 2 + e] - slope[half]) * s.scale;
    block.put(p);
    wait_group<0>();
    __syncthreads();
    block.add(sum, part);
  }
  block.store(sum, rows_of(dq, s.pitch_dq, s.queries, s), s.width);
}

// dv = p^T dy, dk = ds^T q, with keys for rows. shared memory: 2 CHUNK + WEIGHTS + 2 OTHERS (SLICE + 8) numbers
template <class Math, class T, int SLICE, bool ALIGNED>
__global__ void __launch_bounds__(THREADS)
attention_keys(const T* __restrict__ q, const T* __restrict__ k, const T* __restrict__ v, const T* __restrict__ dy,
               const float* __restrict__ lse, const float* __restrict__ slopes, T* __restrict__ dk, T* __restrict__ dv,
               Attention s) {
  typedef typename Math::In In;
  DYNAMIC_SHARED(In, memory);
  Block<Math, ALIGNED> block(memory);
  In *part_dy = block.after(), *part_q = part_dy + OTHERS * (SLICE + 8);
  const Operands<T> of(q, k, v, dy, s);
  lse += (long long)blockIdx.x * s.queries, slopes += (long long)blockIdx.x * s.queries;
  WarpTile<Math, 16, SLICE> sum_dk, sum_dv;
  sum_dk.clear();
  sum_dv.clear();
  for (int other = 0; other < s.queries; other += OTHERS) {
    typename Block<Math, ALIGNED>::Scores p, dp;
    block.scores(p, of.k, of.q, other, s.width, [] {});
    block.scores(dp, of.v, of.dy, other, s.width, [&] {
      block.template fetch_part<SLICE>(part_dy, of.dy, other, s.width);
      block.template fetch_part<SLICE>(part_q, of.q, other, s.width);
    });
    block.each(p, [&](int, int j, float score) {
      return other + j < s.queries ? __expf(score * s.scale - lse[other + j]) : 0.f;
    });
    block.put(p);
    wait_group<0>();
    __syncthreads();
    block.add(sum_dv, part_dy);
    block.each(dp, [&](int, int j, float score) {
      return other + j < s.queries ? (score - slopes[other + j]) * s.scale : 0.f;
    });
#pragma unroll
    for (int j = 0; j < OTHERS / 8; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) p.sum[0][j][e] *= dp.sum[0][j][e];
    __syncwarp();  // the warp has read its weights
    block.put(p);
    __syncwarp();
    block.add(sum_dk, part_q);
  }
  block.store(sum_dk, rows_of(dk, s.pitch_dk, s.keys, s), s.width);
  block.store(sum_dv, rows_of(dv, s.pitch_dv, s.keys, s), s.width);
}
