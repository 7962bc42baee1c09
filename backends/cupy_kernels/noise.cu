// Random numbers by Philox4x32-10, each from its position alone: the numbers of backends/ops/philox.py.
//   Shapes    y, x: any, of `count` elements: rows of `row` each, the first of which is row `first` of a longer array.
//             A block of four numbers has one counter (block low, block high, stream, step)
//   Idea      a thread draws the four numbers of a block and stores them at once, or one by one where y begins within a
//             block; words are 32 bits wide, their products 64; what follows is float64, rounded once, so that the
//             numbers are the CPU's to the last bit or two
//   Limit     uniform, dropout: memory (4 bytes an element, dropout 8), at 90 % of the copy rate. normal: float64 arithmetic,
//             some 60 operations an element: on a GPU with few float64 units (1/64 of the others) a tenth of the copy rate
//   Resident  dropout 4 of 256; random_uniform, random_normal 6 of 256
// The step is a number, or where it changes between replays of a graph, one int64 in device memory (`steps`); so is the
// first row (`firsts`).
#include "types.cuh"

struct Words {
  uint32_t at[4];
};

// What a number depends on besides its position
struct Key {
  uint32_t seed_low, seed_high, stream, step;
};

__device__ __forceinline__ Words philox(unsigned long long block, Key key) {
  uint32_t c0 = (uint32_t)block, c1 = (uint32_t)(block >> 32), c2 = key.stream, c3 = key.step, k0 = key.seed_low, k1 = key.seed_high;
#pragma unroll
  for (int round = 0; round < 10; round++) {
    const uint32_t high0 = __umulhi(c0, 0xD2511F53u), low0 = c0 * 0xD2511F53u;
    const uint32_t high1 = __umulhi(c2, 0xCD9E8D57u), low1 = c2 * 0xCD9E8D57u;
    c0 = high1 ^ c1 ^ k0, c1 = low1, c2 = high0 ^ c3 ^ k1, c3 = low0;
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// The middle of the word's cell of width 2^-32, in (0, 1)
__device__ __forceinline__ double open_unit(uint32_t word) { return (word + 0.5) * (1.0 / 4294967296.0); }

// As kernels take it: WORDS are the arguments, KEY what is made of them
#define WORDS                                                                                              \
  uint32_t seed_low, uint32_t seed_high, uint32_t stream, uint32_t step, const long long *steps, int row,  \
      long long first, const long long *firsts
#define KEY {seed_low, seed_high, stream, steps ? (uint32_t)*steps : step}

// The blocks that an array's numbers lie in: its own is block `at` of those from `from` on, and begins with element
// 4 at - skipped, which is none of the array's where that is negative
struct Blocks {
  unsigned long long from;
  int skipped, count;
};
__device__ __forceinline__ Blocks blocks_of(int count, int row, long long first) {
  const unsigned long long start = (unsigned long long)first * row;
  const int skipped = (int)(start & 3);
  return {start >> 2, skipped, (skipped + count + 3) / 4};
}
#define BLOCKS blocks_of(count, row, firsts ? *firsts : first)

// Four neighbours, loaded and stored as far as they are the array's. It is aligned to 16 bytes, the widest access
template <class T> struct Four {
  static constexpr int WIDTH = sizeof(T) == 8 ? 2 : 4;
  Vector<T, WIDTH> part[4 / WIDTH];
  __device__ __forceinline__ T& at(int e) { return part[e / WIDTH].at[e % WIDTH]; }
  __device__ __forceinline__ void load(const T* x, int first, int count) {
    if (first % 4 == 0 && count - first >= 4) {
      for (int i = 0; i < 4 / WIDTH; i++) part[i] = Vector<T, WIDTH>::load(x + first + i * WIDTH);
    } else {
      for (int e = max(0, -first); e < min(4, count - first); e++) at(e) = x[first + e];
    }
  }
  __device__ __forceinline__ void store(T* y, int first, int count) {
    if (first % 4 == 0 && count - first >= 4) {
      for (int i = 0; i < 4 / WIDTH; i++) part[i].store(y + first + i * WIDTH);
    } else {
      for (int e = max(0, -first); e < min(4, count - first); e++) y[first + e] = at(e);
    }
  }
};

template <class T> __global__ void random_uniform(T* __restrict__ y, int count, WORDS) {
  const Key key = KEY;
  const Blocks blocks = BLOCKS;
  EACH(block, blocks.count) {
    const Words words = philox(blocks.from + block, key);
    Four<T> v;
#pragma unroll
    for (int e = 0; e < 4; e++) v.at(e) = (T)open_unit(words.at[e]);
    v.store(y, 4 * block - blocks.skipped, count);
  }
}

// Two normal numbers of two uniform ones (Box & Muller 1958)
template <class T> __global__ void random_normal(T* __restrict__ y, int count, WORDS) {
  const Key key = KEY;
  const Blocks blocks = BLOCKS;
  EACH(block, blocks.count) {
    const Words words = philox(blocks.from + block, key);
    Four<T> v;
#pragma unroll
    for (int e = 0; e < 4; e += 2) {
      const double radius = sqrt(-2.0 * log(open_unit(words.at[e])));
      double sine, cosine;
      sincos(6.283185307179586 * open_unit(words.at[e + 1]), &sine, &cosine);
      v.at(e) = (T)(radius * cosine), v.at(e + 1) = (T)(radius * sine);
    }
    v.store(y, 4 * block - blocks.skipped, count);
  }
}

// What T is computed in, and to and from it
__device__ __forceinline__ float wide(float x) { return x; }
__device__ __forceinline__ float wide(bf16 x) { return to_float(x); }
__device__ __forceinline__ double wide(double x) { return x; }
__device__ __forceinline__ void narrow(float x, float& y) { y = x; }
__device__ __forceinline__ void narrow(float x, bf16& y) { y = to_bf16(x); }
__device__ __forceinline__ void narrow(double x, double& y) { y = x; }

// y = x m, or the mask m alone where x is null: 0 with probability `rate`, else `kept`. As on the CPU the uniform number is
// rounded to R before it is compared
template <class T, class R>
__global__ void dropout(const T* __restrict__ x, T* __restrict__ y, int count, WORDS, R rate, R kept) {
  const Key key = KEY;
  const Blocks blocks = BLOCKS;
  EACH(block, blocks.count) {
    const Words words = philox(blocks.from + block, key);
    Four<T> v = {};
    if (x) v.load(x, 4 * block - blocks.skipped, count);
#pragma unroll
    for (int e = 0; e < 4; e++) {
      const R mask = (R)open_unit(words.at[e]) >= rate ? kept : (R)0;
      narrow(x ? wide(v.at(e)) * mask : mask, v.at(e));
    }
    v.store(y, 4 * block - blocks.skipped, count);
  }
}
