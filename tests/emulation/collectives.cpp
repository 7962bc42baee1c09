// What the lanes of a warp do together. Each hands in a request and sleeps; the last to come does the work for all,
// straight into their memory.
#include <cstring>

#include "block.h"
#include "detector.h"
#include "memory.h"

namespace emulation {

static const char* name_of(Collective op) {
  switch (op) {
    case Collective::SYNC: return "__syncwarp";
    case Collective::SHUFFLE: return "a shuffle";
    case Collective::VOTE: return "a vote";
    case Collective::MMA_TF32: return "mma (tf32)";
    case Collective::MMA_BF16: return "mma (bf16)";
    case Collective::LDMATRIX: return "ldmatrix";
    case Collective::ROWS: return "wgmma";
    default: return "nothing";
  }
}

template <class F> static void each_lane(uint32_t lanes, F f) {
  for (; lanes; lanes &= lanes - 1) f(__builtin_ctz(lanes));
}

// The lanes that have met `request`: of its operation and mask
static uint32_t met(const Warp& warp, uint32_t lanes, const Request& request) {
  uint32_t found = 0;
  each_lane(lanes, [&](int l) {
    const Request& other = warp.request[l];
    if (other.op == request.op && other.mask == request.mask) found |= 1u << l;
  });
  return found;
}

static std::string in_words(const Request& request) {
  char text[60];
  snprintf(text, sizeof text, "%s (mask %08x)", name_of(request.op), request.mask);
  return text;
}

// Performs every collective of the warp that all of its lanes have reached
void complete_collectives(unsigned number) {
  Warp& warp = block.warps[number];
  for (bool done = true; done && warp.waiting;) {
    done = false;
    for (uint32_t rest = warp.waiting; rest && !done; rest &= rest - 1) {
      const Request& request = warp.request[__builtin_ctz(rest)];
      uint32_t group = request.mask & warp.live;
      // A lane may wait for another meeting, which comes first
      if ((group & warp.waiting) != group || met(warp, group, request) != group) continue;
      perform(warp, group);
      warp.waiting &= ~group;
      warp.ready |= group;
      done = true;
    }
  }
  if (warp.waiting && warp.waiting == warp.live) {
    const Request& first = warp.request[__builtin_ctz(warp.waiting)];
    uint32_t others = warp.waiting & ~met(warp, warp.waiting, first);
    const Request& other = others ? warp.request[__builtin_ctz(others)] : first;
    fail("lanes of a warp met at different operations: " + in_words(first) + " and " + in_words(other));
  }
}

static void collective(const Request& request) {
  Thread& me = *block.running;
  Warp& warp = block.warps[me.warp];
  uint32_t bit = 1u << me.lane;
  if (!(request.mask & bit)) fail("a thread calls a warp operation whose mask does not name it");
  warp.request[me.lane] = request;
  warp.waiting |= bit;
  warp.ready &= ~bit;
  if (((request.mask & warp.live) & ~warp.waiting) == 0) complete_collectives(me.warp);
  if (!(warp.ready & bit)) suspend();
}

void sync_warp(unsigned mask) {
  collective({Collective::SYNC, nullptr, {}, 0, 0, 0, mask});
  block.running->warp_epoch++;
}
void shuffle(unsigned mask, void* value, int bytes, Shuffle how, int by, int width) {
  collective({Collective::SHUFFLE, value, {}, bytes, int(how) | width << 8, by, mask});
}
unsigned ballot(unsigned mask, bool predicate) {
  unsigned set = 0;
  collective({Collective::VOTE, &set, {}, predicate, 0, 0, mask});
  return set;
}
void mma_tf32(float* d, const uint32_t* a, const uint32_t* b) {
  collective({Collective::MMA_TF32, d, {a, b}, 0, 0, 0, ~0u});
}
void mma_bf16(float* d, const uint32_t* a, const uint32_t* b) {
  collective({Collective::MMA_BF16, d, {a, b}, 0, 0, 0, ~0u});
}
void ldmatrix(uint32_t* r, const void* row, int matrices, bool transposed) {
  if (int(block.running->lane) < matrices * 8) {
    if (uintptr_t(row) & 15) fail("ldmatrix: a row is not aligned to 16 bytes");
    if (!in_shared(row, 16)) fail("ldmatrix: a row outside shared memory");
    if (checking) accessed(row, 16, false, *block.running, __builtin_return_address(0));
  }
  collective({Collective::LDMATRIX, r, {row, nullptr}, matrices, transposed, 0, ~0u});
}

void gather_rows(const uint32_t* a, uint32_t (*rows)[8]) {
  collective({Collective::ROWS, rows, {a, nullptr}, 0, 0, 0, ~0u});
}

static int source_lane(int lane, Shuffle how, int by, int width) {
  int base = lane & ~(width - 1), from = lane;
  if (how == INDEXED) from = base + (by & (width - 1));
  if (how == UP && lane - by >= base) from = lane - by;
  if (how == DOWN && lane + by < base + width) from = lane + by;
  if (how == XOR && (lane ^ by) < base + width) from = lane ^ by;
  return from;
}

static void perform_shuffle(Warp& warp, uint32_t lanes) {
  uint64_t handed[32];
  each_lane(lanes, [&](int l) { memcpy(&handed[l], warp.request[l].out, warp.request[l].a); });
  each_lane(lanes, [&](int l) {
    const Request& request = warp.request[l];
    int from = source_lane(l, Shuffle(request.b & 255), request.c, request.b >> 8);
    if (lanes >> from & 1) memcpy(request.out, &handed[from], request.a);
    else memset(request.out, 0xff, request.a);  // what a lane that is not there hands out is undefined
  });
}

static void perform_vote(Warp& warp, uint32_t lanes) {
  unsigned set = 0;
  each_lane(lanes, [&](int l) { set |= unsigned(warp.request[l].a) << l; });
  each_lane(lanes, [&](int l) { *(unsigned*)warp.request[l].out = set; });
}

static float as_float(uint32_t bits) {
  float f;
  memcpy(&f, &bits, 4);
  return f;
}

// D (16x8) += A (16xDEPTH) B (DEPTHx8), in float32 and in order. A GPU adds the products of one instruction with a few
// more bits and truncates: its results differ in the last bits
template <int DEPTH> static void multiply(const float (*a)[DEPTH], const float (*b)[8], Warp& warp) {
  for (int l = 0; l < 32; l++) {
    float* d = (float*)warp.request[l].out;
    for (int e = 0; e < 4; e++) {
      int row = (l >> 2) + (e >> 1) * 8, column = (l & 3) * 2 + (e & 1);
      for (int k = 0; k < DEPTH; k++) d[e] += a[row][k] * b[k][column];
    }
  }
  statistics.mma++;
}

static void perform_mma_tf32(Warp& warp) {
  // The hardware does not look at the low 13 bits: kernels that do not round lose accuracy here too
  auto truncated = [](uint32_t bits) { return as_float(bits & ~0x1fffu); };
  float a[16][8], b[8][8];
  for (int l = 0; l < 32; l++) {
    auto *in_a = (const uint32_t*)warp.request[l].in[0], *in_b = (const uint32_t*)warp.request[l].in[1];
    int g = l >> 2, t = l & 3;
    for (int e = 0; e < 4; e++) a[g + (e & 1) * 8][t + (e >> 1) * 4] = truncated(in_a[e]);
    for (int e = 0; e < 2; e++) b[t + e * 4][g] = truncated(in_b[e]);
  }
  multiply<8>(a, b, warp);
}

static void perform_mma_bf16(Warp& warp) {
  auto half = [](uint32_t bits, int h) { return as_float(h ? bits & 0xffff0000u : bits << 16); };
  float a[16][16], b[16][8];
  for (int l = 0; l < 32; l++) {
    auto *in_a = (const uint32_t*)warp.request[l].in[0], *in_b = (const uint32_t*)warp.request[l].in[1];
    int g = l >> 2, t = (l & 3) * 2;
    for (int h = 0; h < 2; h++) {
      for (int e = 0; e < 4; e++) a[g + (e & 1) * 8][t + (e >> 1) * 8 + h] = half(in_a[e], h);
      for (int e = 0; e < 2; e++) b[t + e * 8 + h][g] = half(in_b[e], h);
    }
  }
  multiply<16>(a, b, warp);
}

static void perform_ldmatrix(Warp& warp) {
  int matrices = warp.request[0].a;
  bool transposed = warp.request[0].b;
  statistics.ldmatrix++;
  for (int m = 0; m < matrices; m++) {
    auto row = [&](int r) { return warp.request[m * 8 + r].in[0]; };
    uint32_t banks = 0;  // eight rows of 16 bytes are one access if they lie in different banks
    for (int r = 0; r < 8; r++) {
      uint32_t taken = 0xfu << ((uintptr_t(row(r)) >> 2) & 31);
      statistics.ldmatrix_bank_conflicts += (banks & taken) != 0;
      banks |= taken;
    }
    for (int l = 0; l < 32; l++) {
      uint32_t word;
      if (transposed) {
        auto element = [&](int r) { return uint32_t(((const uint16_t*)row(r))[l >> 2]); };
        word = element((l & 3) * 2) | element((l & 3) * 2 + 1) << 16;
      } else {
        word = ((const uint32_t*)row(l >> 2))[l & 3];
      }
      ((uint32_t*)warp.request[l].out)[m] = word;
    }
  }
}

// Registers of a 16-row operand -> rows g and g + 8, whole, in each lane
static void perform_rows(Warp& warp) {
  for (int l = 0; l < 32; l++)
    for (int t = 0; t < 4; t++) {
      auto* a = (const uint32_t*)warp.request[(l & ~3) + t].in[0];
      auto* rows = (uint32_t(*)[8])warp.request[l].out;
      for (int e = 0; e < 4; e++) rows[e & 1][t + (e >> 1) * 4] = a[e];
    }
}

void perform(Warp& warp, uint32_t lanes) {
  Collective op = warp.request[__builtin_ctz(lanes)].op;
  if (op >= Collective::MMA_TF32 && lanes != ~0u)
    fail("mma and ldmatrix need all 32 lanes of a warp, but some have ended");
  switch (op) {
    case Collective::SHUFFLE: return perform_shuffle(warp, lanes);
    case Collective::VOTE: return perform_vote(warp, lanes);
    case Collective::MMA_TF32: return perform_mma_tf32(warp);
    case Collective::MMA_BF16: return perform_mma_bf16(warp);
    case Collective::LDMATRIX: return perform_ldmatrix(warp);
    case Collective::ROWS: return perform_rows(warp);
    default: return;
  }
}

}  // namespace emulation
