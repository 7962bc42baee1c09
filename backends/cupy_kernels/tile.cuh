// The product of two slices in shared memory by one warp: sum (ROWS x COLUMNS, in registers) += A (ROWS x depth)
// B (depth x COLUMNS). A kernel says how its slices get there; this, how they are multiplied.
//
// Fragments are those of mma m16n8k8 (TF32) and m16n8k16 (bfloat16). With g = lane / 4, t = lane % 4, in words of 32 bits
// (one float, or two bfloat16 that follow one another in depth), a lane holds
//   of A    (row g, word t), (row g + 8, t), (row g, t + 4), (row g + 8, t + 4)
//   of B    (word t, column g), (word t + 4, column g)
//   of sum  (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1)
#pragma once
#include "warp.cuh"

// How numbers are multiplied. In: the type in memory; DEPTH: of one instruction; PARTS: summands of each operand
struct Tf32 {  // relative error 3e-4
  typedef float In;
  static constexpr int DEPTH = 8, PARTS = 1;
};
struct Split {  // each operand the sum of two TF32 numbers, three products: float32's own error, at a third of the rate
  typedef float In;
  static constexpr int DEPTH = 8, PARTS = 2;
};
struct Bf16 {  // 3e-3 on float32 data, none on data that is bfloat16
  typedef bf16 In;
  static constexpr int DEPTH = 16, PARTS = 1;
};

template <class Math, int ROWS, int COLUMNS> struct WarpTile {
  typedef typename Math::In In;
  static constexpr int DOWN = ROWS / 16, ACROSS = COLUMNS / 8;  // instructions
  static constexpr bool FLOATS = sizeof(In) == 4;
  static_assert(ROWS % 16 == 0 && COLUMNS % 16 == 0, "a warp's tile is a multiple of 16 x 16");
  float sum[DOWN][ACROSS][4];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < DOWN; i++)
#pragma unroll
      for (int j = 0; j < ACROSS; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) sum[i][j][e] = 0.f;
  }

  // Sums over one step of Math::DEPTH. a: [row][depth] if A_BY_ROWS, else [depth][row]; b: [depth][column], or
  // [column][depth] if B_BY_COLUMNS; LDA, LDB: the lengths of their rows. No bank conflicts if those in which depth runs
  // along the row are 4 mod 32 words, the others 8 mod 32
  template <bool A_BY_ROWS, int LDA, int LDB, bool B_BY_COLUMNS = false>
  __device__ __forceinline__ void step(const In* a, const In* b, int lane) {
    uint32_t of_a[DOWN][Math::PARTS][4], of_b[ACROSS][Math::PARTS][2];
#pragma unroll
    for (int i = 0; i < DOWN; i++) {
      uint32_t words[4];
      load_a<A_BY_ROWS, LDA>(words, a, i * 16, lane);
      split_words(of_a[i], words);
    }
#pragma unroll
    for (int j = 0; j < ACROSS; j += 2) {
      uint32_t words[4];
      load_b<B_BY_COLUMNS, LDB>(words, b, j * 8, lane);
      split_words(of_b[j], words);
      split_words(of_b[j + 1], words + 2);
    }
#pragma unroll
    for (int i = 0; i < DOWN; i++)
#pragma unroll
      for (int j = 0; j < ACROSS; j++) {
        if constexpr (Math::PARTS == 2) {  // the small products first
          multiply(sum[i][j], of_a[i][1], of_b[j][0]);
          multiply(sum[i][j], of_a[i][0], of_b[j][1]);
        }
        multiply(sum[i][j], of_a[i][0], of_b[j][0]);
      }
  }

  // f(row, column, two sums that are neighbours in the row), for every pair of this lane
  template <class F> __device__ __forceinline__ void each_pair(int lane, F f) {
#pragma unroll
    for (int i = 0; i < DOWN; i++)
#pragma unroll
      for (int half = 0; half < 2; half++)
#pragma unroll
        for (int j = 0; j < ACROSS; j++)
          f(i * 16 + half * 8 + (lane >> 2), j * 8 + (lane & 3) * 2,
            make_float2(sum[i][j][half * 2], sum[i][j][half * 2 + 1]));
  }

 private:
  template <bool BY_ROWS, int LDA>
  static __device__ __forceinline__ void load_a(uint32_t* words, const In* a, int row, int lane) {
    if constexpr (BY_ROWS) {  // eight rows of 16 bytes a matrix, for either type
      ldmatrix4(words, a + (row + (lane & 15)) * LDA + (lane >> 4) * WIDE<In>);
    } else if constexpr (FLOATS) {  // there is no transposing load of 32-bit words
#pragma unroll
      for (int e = 0; e < 4; e++)
        words[e] = __float_as_uint(to_float(a[((lane & 3) + (e >> 1) * 4) * LDA + row + (lane >> 2) + (e & 1) * 8]));
    } else {
      ldmatrix4_transposed(words, a + ((lane >> 4) * 8 + (lane & 7)) * LDA + row + (lane >> 3 & 1) * 8);
    }
  }

  // Two neighbouring fragments of eight columns
  template <bool BY_COLUMNS, int LDB>
  static __device__ __forceinline__ void load_b(uint32_t* words, const In* b, int column, int lane) {
    if constexpr (BY_COLUMNS) {
      ldmatrix4(words, b + (column + (lane >> 4) * 8 + (lane & 7)) * LDB + (lane >> 3 & 1) * WIDE<In>);
    } else if constexpr (FLOATS) {
#pragma unroll
      for (int e = 0; e < 4; e++)
        words[e] = __float_as_uint(to_float(b[((lane & 3) + (e & 1) * 4) * LDB + column + (e >> 1) * 8 + (lane >> 2)]));
    } else {
      ldmatrix4_transposed(words, b + ((lane >> 3 & 1) * 8 + (lane & 7)) * LDB + column + (lane >> 4) * 8);
    }
  }

  // bfloat16 as they are; floats rounded to TF32, and for Split what is left of each as a second part
  template <int N>
  static __device__ __forceinline__ void split_words(uint32_t (&parts)[Math::PARTS][N], const uint32_t* words) {
#pragma unroll
    for (int e = 0; e < N; e++) {
      const float x = __uint_as_float(words[e]);
      parts[0][e] = FLOATS ? tf32(x) : words[e];
      if constexpr (Math::PARTS == 2) parts[1][e] = tf32(x - __uint_as_float(parts[0][e]));
    }
  }

  static __device__ __forceinline__ void multiply(float* d, const uint32_t* a, const uint32_t* b) {
    if constexpr (FLOATS) mma_tf32(d, a, b);
    else mma_bf16(d, a, b);
  }
};

// 16 bytes of a slice, from wherever its elements lie: source(e) is the address of element e, null for a zero. If ALIGNED
// they are neighbours and aligned to 16 bytes, or all zeros: then one copy in the background, and source(0) alone is asked.
// anywhere: an address of global memory for a copy that reads nothing
template <bool ALIGNED, class In, class Source>
__device__ __forceinline__ void copy_chunk(In* to, const In* anywhere, Source source) {
  if constexpr (ALIGNED) {
    const In* from = source(0);
    copy_async16(to, from ? from : anywhere, from != nullptr);
  } else {
#pragma unroll
    for (int e = 0; e < WIDE<In>; e++) {
      const In* from = source(e);
      to[e] = from ? *from : In{};
    }
  }
}
