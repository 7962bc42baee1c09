// Parts of matrices on their way from global to shared memory.
#pragma once
#include "tile.cuh"

template <class To, class From> struct Same {
  static constexpr bool value = false;
};
template <class T> struct Same<T, T> {
  static constexpr bool value = true;
};

// A chunk of a slice, as copy_chunk, of numbers that may be of another type
template <bool ALIGNED, class In, class From, class Source>
__device__ __forceinline__ void copy_converted(In* to, const From* anywhere, Source source) {
  if constexpr (Same<In, From>::value) {
    copy_chunk<ALIGNED>(to, anywhere, source);
  } else {
    const From* from = source(0);
#pragma unroll
    for (int e = 0; e < WIDE<In>; e++) {
      if (!ALIGNED) from = source(e);
      to[e] = from_float<In>(from ? to_float(ALIGNED ? from[e] : *from) : 0.f);
    }
  }
}

// OUTER rows of INNER neighbours each, from (outer, inner) on, to rows of PITCH; zeros from the ends on
template <int THREADS, int OUTER, int INNER, int PITCH, bool ALIGNED, class In, class From>
__device__ __forceinline__ void fetch(In* to, const From* from, int pitch, int outer, int outer_end, int inner,
                                      int inner_end) {
  constexpr int CHUNKS = INNER / WIDE<In>, ALL = OUTER * CHUNKS;
#pragma unroll(ALIGNED ? 16 : 1)
  for (int q = 0; q < (ALL + THREADS - 1) / THREADS; q++) {
    const int u = q * THREADS + threadIdx.x, o = outer + u / CHUNKS, i = inner + u % CHUNKS * WIDE<In>;
    if (ALL % THREADS == 0 || u < ALL)
      copy_converted<ALIGNED>(to + u / CHUNKS * PITCH + u % CHUNKS * WIDE<In>, from, [&](int e) -> const From* {
        return o < outer_end && i + e < inner_end ? from + (long long)o * pitch + i + e : nullptr;
      });
  }
}
