// Products of a warpgroup, four warps at once, on Hopper's tensor cores (wgmma): one operand or both in shared memory, the
// sums in registers, the work in the background. One name, two bodies, as in warp.cuh: PTX for sm_90a, the emulation elsewhere.
//
// An operand lies in cells of 16 bytes, four floats or eight bfloat16 that follow one another in depth. Eight rows (pixels
// of A, columns of B) are eight cells that follow one another, each set of eight `rows` cells further than the last; the
// next cell in depth is `depth` cells further. So a row may begin at any cell: at any pixel of an image whose pixels are
// cells, one image for each four or eight channels.
#pragma once
#include "fragments.cuh"

struct alignas(16) Cell {
  uint32_t word[4];
};

// A chunk: what follows one another in depth in a cell
template <class Math> constexpr int CHUNK = Math::DEPTH / 2;

// Numbers of a chunk -> cells, one for each part of Math, `apart` cells from each other
template <class Math> __device__ __forceinline__ void store_cell(Cell* to, int apart, const float (&v)[CHUNK<Math>]) {
  Cell cell;
  if constexpr (CHUNK<Math> == 8) {
#pragma unroll
    for (int e = 0; e < 4; e++) cell.word[e] = pair_bf16(v[2 * e], v[2 * e + 1]);
    *to = cell;
  } else {
#pragma unroll
    for (int e = 0; e < 4; e++) cell.word[e] = tf32(v[e]);
    *to = cell;
    if constexpr (Math::PARTS == 2) {
#pragma unroll
      for (int e = 0; e < 4; e++) cell.word[e] = tf32(v[e] - __uint_as_float(cell.word[e]));
      to[apart] = cell;
    }
  }
}

// Where an operand of 64 (or N) rows and two cells in depth lies, both distances in cells; one that lies n cells further is
// n more
#ifdef __CUDA_ARCH__
__device__ __forceinline__ unsigned long long operand(const Cell* first, int rows, int depth) {
  return (unsigned long long)((SHARED_ADDRESS(first) & 0x3ffffu) >> 4) | (unsigned long long)depth << 16 |
         (unsigned long long)rows << 32;
}
#else
inline unsigned long long operand(const Cell* first, int rows, int depth) {
  return emulation::operand(first, rows, depth);
}
#endif

// sum (64 x N of a warpgroup) += a (64 x two cells) b (two cells x N), to nothing unless `keep`. In sum, warp w of the four
// has rows 16 w to 16 w + 15; of its lanes, with g = lane / 4 and t = lane % 4, sum[4 j + e] is
// (g + e / 2 * 8, 8 j + 2 t + e % 2). TF32 operands are float32 bits of which the hardware drops the low 13
template <int N, bool BF16> __device__ __forceinline__ void
multiply_group(float (&sum)[N / 2], unsigned long long a, unsigned long long b, int keep);

// The same, a in registers, which must stay as they are until the product is waited for: of its sixteen rows, a warp's lane
// has words t of rows g and g + 8, then words t + 4 (a word: a float, or two bfloat16)
template <int N, bool BF16> __device__ __forceinline__ void
multiply_group(float (&sum)[N / 2], const uint32_t (&a)[4], unsigned long long b, int keep);

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// PTX wants every register of the sums by its number: 8, 16, 32 or 64 of them, and after these the operands'
#define NAMES_8 "%0,%1,%2,%3,%4,%5,%6,%7"
#define TEN(t) ",%" #t "0,%" #t "1,%" #t "2,%" #t "3,%" #t "4,%" #t "5,%" #t "6,%" #t "7,%" #t "8,%" #t "9"
#define NAMES_16 NAMES_8 ",%8,%9,%10,%11,%12,%13,%14,%15"
#define NAMES_32 NAMES_8 ",%8,%9" TEN(1) TEN(2) ",%30,%31"
#define NAMES_64 NAMES_8 ",%8,%9" TEN(1) TEN(2) TEN(3) TEN(4) TEN(5) ",%60,%61,%62,%63"
#define SUMS_8(i)                                                                                                       \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define SUMS_16(i) SUMS_8(i), SUMS_8(i + 8)
#define SUMS_32(i) SUMS_16(i), SUMS_16(i + 16)
#define SUMS_64(i) SUMS_32(i), SUMS_32(i + 32)

// NUMBER: of sums; KIND, DEPTH, TAIL: tf32, 8 and nothing, or bf16, 16 and that neither operand is transposed
#define FROM_SHARED(N, NUMBER, BF16, KIND, DEPTH, TAIL, A, B, KEEP)                                                     \
  template <> __device__ __forceinline__ void                                                                           \
  multiply_group<N, BF16>(float (&d)[NUMBER], unsigned long long a, unsigned long long b, int keep) {                   \
    asm volatile("{ .reg .pred p; setp.ne.b32 p, " KEEP ", 0;\n"                                                        \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k" DEPTH ".f32." KIND "." KIND " {" NAMES_##NUMBER "}, " A     \
                 ", " B ", p, 1, 1" TAIL TAIL "; }\n"                                                                   \
                 : SUMS_##NUMBER(0)                                                                                     \
                 : "l"(a), "l"(b), "r"(keep));                                                                          \
  }
#define FROM_REGISTERS(N, NUMBER, BF16, KIND, DEPTH, TAIL, A, B, KEEP)                                                  \
  template <> __device__ __forceinline__ void                                                                           \
  multiply_group<N, BF16>(float (&d)[NUMBER], const uint32_t (&a)[4], unsigned long long b, int keep) {                 \
    asm volatile("{ .reg .pred p; setp.ne.b32 p, " KEEP ", 0;\n"                                                        \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k" DEPTH ".f32." KIND "." KIND " {" NAMES_##NUMBER "}, {" A    \
                 "}, " B ", p, 1, 1" TAIL "; }\n"                                                                       \
                 : SUMS_##NUMBER(0)                                                                                     \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(keep));                                      \
  }
// I to O: the numbers that follow the sums'
#define EACH_WAY(N, NUMBER, I, J, K, L, M, O)                                                                           \
  FROM_SHARED(N, NUMBER, false, "tf32", "8", "", I, J, K)                                                               \
  FROM_SHARED(N, NUMBER, true, "bf16", "16", ", 0", I, J, K)                                                            \
  FROM_REGISTERS(N, NUMBER, false, "tf32", "8", "", I "," J "," K "," L, M, O)                                          \
  FROM_REGISTERS(N, NUMBER, true, "bf16", "16", ", 0", I "," J "," K "," L, M, O)
EACH_WAY(16, 8, "%8", "%9", "%10", "%11", "%12", "%13")
EACH_WAY(32, 16, "%16", "%17", "%18", "%19", "%20", "%21")
EACH_WAY(64, 32, "%32", "%33", "%34", "%35", "%36", "%37")
EACH_WAY(128, 64, "%64", "%65", "%66", "%67", "%68", "%69")

// Before the first product that uses registers which other instructions wrote
__device__ __forceinline__ void fence_group() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Until at most LEFT of the groups of products are under way, which read shared memory and write registers until then
template <int LEFT> __device__ __forceinline__ void wait_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
}
// What this thread wrote to shared memory is seen by products that begin after the next barrier
__device__ __forceinline__ void publish() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

#elif defined(__CUDACC__)

// Other targets know no such instructions; nothing is launched there that asks for them
template <int N, bool BF16> __device__ __forceinline__ void
multiply_group(float (&)[N / 2], unsigned long long, unsigned long long, int) {}
template <int N, bool BF16> __device__ __forceinline__ void
multiply_group(float (&)[N / 2], const uint32_t (&)[4], unsigned long long, int) {}
__device__ __forceinline__ void fence_group() {}
__device__ __forceinline__ void commit_products() {}
template <int LEFT> __device__ __forceinline__ void wait_products() {}
__device__ __forceinline__ void publish() {}

#else

template <int N, bool BF16> void multiply_group(float (&sum)[N / 2], unsigned long long a, unsigned long long b, int keep) {
  emulation::multiply_group(sum, a, b, N, BF16, keep);
}
template <int N, bool BF16>
void multiply_group(float (&sum)[N / 2], const uint32_t (&a)[4], unsigned long long b, int keep) {
  emulation::multiply_group(sum, a, b, N, BF16, keep);
}
inline void fence_group() {}
using emulation::commit_products;
template <int LEFT> void wait_products() { emulation::wait_products(LEFT); }
inline void publish() { emulation::publish(); }

#endif
