// Many small arrays copied at once, as a network's gradients are to where they stay: a copy each would be a launch each.
//   Shapes    32 pairs of arrays of `sizes` elements, of pairs that there are not, zero
//   Idea      grid (blocks, 32): the second number says which pair
//   Limit     memory, 8 bytes an element; for a network's smallest arrays a launch, shared by 32
//   Resident  store_many 6 of 256
#include "types.cuh"

#define EIGHT(F, n) F(n##0), F(n##1), F(n##2), F(n##3), F(n##4), F(n##5), F(n##6), F(n##7)
#define ALL(F) EIGHT(F, 0), EIGHT(F, 1), EIGHT(F, 2), EIGHT(F, 3)
#define SOURCE(i) const float *s##i
#define TARGET(i) float *t##i
#define FROM(i) s##i
#define TO(i) t##i

struct Sizes {
  int of[32];
};

extern "C" __global__ void store_many(ALL(SOURCE), ALL(TARGET), Sizes sizes) {
  const float* const sources[] = {ALL(FROM)};
  float* const targets[] = {ALL(TO)};
  const float* source = sources[blockIdx.y];
  float* target = targets[blockIdx.y];
  EACH(i, sizes.of[blockIdx.y]) target[i] = source[i];
}
