// Matrix products on tensor cores: out = A B + bias + extra, for `linear` forward and backward, and whatever needs one.
//
// Idea: a block makes BM x BN numbers. Slices of BK along the depth go to shared memory, STAGES - 1 of them on their way
// while one is multiplied by warps of WM x WN (tile.cuh). Either operand may lie transposed, so that no copy is made:
//   y  = x W + b     A by rows, B by depth
//   dx = dy W^T      A by rows, B by columns
//   dW = x^T dy      A by depth (rows of x), and its sums of B's columns, which are db
// Depth may be cut into shares (blockIdx.z), where rows and columns are few and the depth is long, as in dW: each share
// writes sums of its own, and `add_shares` adds them in a fixed order. No two blocks meet: the same bits each time.
// In memory numbers are A, B and Out; where A or B is not what Math multiplies, it is converted on the way in.
// Limit: the peak of tensor cores for large sizes (mma.sync reaches 60 % of it on Hopper); memory where depth or columns
// are below some 100; latency for the few rows of a time embedding, where small tiles give more blocks something to do.
//
// Shapes: A (rows, depth) or, by depth, (depth, rows); B (depth, columns) or, by columns, (columns, depth); bias (columns,)
// or null; extra, out (rows, columns); pitches: of rows in memory. ALIGNED: pitches and sizes along rows in memory are
// multiples of 16 bytes of what is multiplied, addresses aligned to 16; the other way goes element by element.
// grid: (ceil(rows / BM), ceil(columns / BN), shares); block: 32 (BM / WM) (BN / WN)
// Resident: multiply 1 of 128; add_shares 6 of 256
#include "slices.cuh"

struct Product {
  int rows, columns, depth;
  int pitch_a, pitch_b;
  int share;  // of the depth, a multiple of BK
};

// sums: of B's columns, or null; next: numbers from the results of one share to those of the next
// shared memory: STAGES slices, of A (BM (BK + WIDE) by rows, BK (BM + 8) by depth) and B alike
template <class Math, class A, class B, class Out, int BM, int BN, int BK, int WM, int WN, int STAGES, bool A_BY_ROWS,
          bool B_BY_COLUMNS, bool ALIGNED>
__global__ void __launch_bounds__((BM / WM) * (BN / WN) * 32)
multiply(const A* __restrict__ a, const B* __restrict__ b, const float* __restrict__ bias, const Out* extra, Out* out,
         float* sums, int next, Product s) {
  typedef typename Math::In In;
  constexpr int THREADS = (BM / WM) * (BN / WN) * 32;
  constexpr int LDA = A_BY_ROWS ? BK + WIDE<In> : BM + 8, LDB = B_BY_COLUMNS ? BK + WIDE<In> : BN + 8;
  constexpr int SLICE_A = (A_BY_ROWS ? BM : BK) * LDA, SLICE = SLICE_A + (B_BY_COLUMNS ? BN : BK) * LDB;
  static_assert(THREADS >= BN, "a thread sums a column of B");
  DYNAMIC_SHARED(In, memory);
  const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5;
  const int warp_m = warp / (BN / WN) * WM, warp_n = warp % (BN / WN) * WN;
  const int m0 = blockIdx.x * BM, n0 = blockIdx.y * BN;
  const int begin = blockIdx.z * s.share, end = min(s.depth, begin + s.share), slices = (end - begin + BK - 1) / BK;

  auto fetch_slice = [&](int slice) {
    In* to = memory + slice % STAGES * SLICE;
    const int d = begin + slice * BK;
    if constexpr (A_BY_ROWS) fetch<THREADS, BM, BK, LDA, ALIGNED>(to, a, s.pitch_a, m0, s.rows, d, end);
    else fetch<THREADS, BK, BM, LDA, ALIGNED>(to, a, s.pitch_a, d, end, m0, s.rows);
    if constexpr (B_BY_COLUMNS) fetch<THREADS, BN, BK, LDB, ALIGNED>(to + SLICE_A, b, s.pitch_b, n0, s.columns, d, end);
    else fetch<THREADS, BK, BN, LDB, ALIGNED>(to + SLICE_A, b, s.pitch_b, d, end, n0, s.columns);
  };

  WarpTile<Math, WM, WN> tile;
  tile.clear();
  const bool adds_columns = !B_BY_COLUMNS && sums && m0 == 0 && thread < BN;
  float sum = 0.f;
#pragma unroll
  for (int slice = 0; slice < STAGES - 1; slice++) {
    if (slice < slices) fetch_slice(slice);
    commit_group();  // empty ones too, so that the count below is right
  }
  for (int slice = 0; slice < slices; slice++) {
    wait_group<STAGES - 2>();  // this thread's part of the slice is here
    __syncthreads();           // everybody's is, and nobody reads any more what is filled next
    if (slice + STAGES - 1 < slices) fetch_slice(slice + STAGES - 1);
    commit_group();
    const In* of_a = memory + slice % STAGES * SLICE;
    const In* of_b = of_a + SLICE_A;
#pragma unroll
    for (int d = 0; d < BK; d += Math::DEPTH)
      tile.template step<A_BY_ROWS, LDA, LDB, B_BY_COLUMNS>(A_BY_ROWS ? of_a + warp_m * LDA + d : of_a + d * LDA + warp_m,
                                                            B_BY_COLUMNS ? of_b + warp_n * LDB + d : of_b + d * LDB + warp_n,
                                                            lane);
    if (adds_columns) {
#pragma unroll 8
      for (int d = 0; d < BK; d++) sum += to_float(of_b[d * LDB + thread]);
    }
  }
  wait_group<0>();  // a block must not end with copies under way

  out += (long long)blockIdx.z * next;
  tile.each_pair(lane, [&](int i, int j, float2 v) {
    const int m = m0 + warp_m + i, n = n0 + warp_n + j;
    if (m >= s.rows || n >= s.columns) return;
    const long long to = (long long)m * s.columns + n;
    const bool two = n + 1 < s.columns;
    if (bias) v.x += bias[n], v.y += two ? bias[n + 1] : 0.f;
    if constexpr (ALIGNED) {
      if (extra) {
        const Vector<Out, 2> more = Vector<Out, 2>::load(extra + to);
        v.x += to_float(more.at[0]), v.y += to_float(more.at[1]);
      }
      const Vector<Out, 2> pair = {{from_float<Out>(v.x), from_float<Out>(v.y)}};
      pair.store(out + to);
    } else {
      out[to] = from_float<Out>(v.x + (extra ? to_float(extra[to]) : 0.f));
      if (two) out[to + 1] = from_float<Out>(v.y + (extra ? to_float(extra[to + 1]) : 0.f));
    }
  });
  if (adds_columns && n0 + thread < s.columns) sums[(long long)blockIdx.z * next + n0 + thread] = sum;
}

// out[i] = sum over shares of partial[share][i], the first `count` of them, and sums, where there are, the others.
// grid: ceil(all / 256)
__global__ void __launch_bounds__(256)
add_shares(const float* __restrict__ partial, float* __restrict__ out, float* __restrict__ sums, int shares, int count,
           int all) {
  const int i = blockIdx.x * 256 + threadIdx.x;
  if (i >= all) return;
  float sum = 0.f;
#pragma unroll 4
  for (int share = 0; share < shares; share++) sum += partial[(long long)share * all + i];
  if (i < count) out[i] = sum;
  else sums[i - count] = sum;
}
