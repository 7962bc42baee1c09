// Shapes of the ladder's convolutions: x (images, height, width, channels), w (3, 3, channels, outputs), y like x with
// `outputs` channels. Channels and outputs are multiples of 32 from v1 on.
#pragma once

struct Image {
  int images, height, width, channels, outputs;
  __device__ __forceinline__ int pixels() const { return images * height * width; }
};

// The pixel that tap (i, j) of a 3 x 3 kernel sees from pixel m, both counted through all images; -1 outside, for zeros
__device__ __forceinline__ int seen(int m, int tap, const Image& s) {
  const int column = m % s.width + tap % 3 - 1, row = m / s.width % s.height + tap / 3 - 1;
  const bool inside = m < s.pixels() && (unsigned)row < (unsigned)s.height && (unsigned)column < (unsigned)s.width;
  return inside ? m + (tap / 3 - 1) * s.width + tap % 3 - 1 : -1;
}
