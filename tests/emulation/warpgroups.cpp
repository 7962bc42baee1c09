// wgmma: the sums change, and shared memory is read, only when the thread waits for the group, however early the products
// might have been done. Each thread computes its own sums, of the rows and columns that the PTX manual gives it.
#include <cstring>

#include "block.h"
#include "detector.h"
#include "memory.h"

namespace emulation {

// Bits 0 to 13: where the operand begins, from 16 to 29 and 32 to 45 the distances, all in cells of 16 bytes
unsigned long long operand(const void* first, int rows, int depth) {
  if (uintptr_t(first) % 16) fail("wgmma: an operand is not aligned to 16 bytes");
  if (rows < 0 || rows >= 1 << 14 || depth < 0 || depth >= 1 << 14) fail("wgmma: a distance has no room in a descriptor");
  return (unsigned long long)(((const char*)first - (const char*)dynamic_shared()) >> 4) |
         (unsigned long long)depth << 16 | (unsigned long long)rows << 32;
}

static const char* cell_of(unsigned long long operand, int row, int chunk) {
  int first = operand & 0x3fff, depth = operand >> 16 & 0x3fff, rows = operand >> 32 & 0x3fff;
  return (const char*)dynamic_shared() + 16ll * (first + row / 8 * rows + row % 8 + chunk * depth);
}

// A row of an operand, both cells, as floats: 8 of TF32, 16 of bfloat16
static void load_row(float* to, unsigned long long operand, int row, bool bf16, const void* pc) {
  for (int chunk = 0; chunk < 2; chunk++) {
    const char* cell = cell_of(operand, row, chunk);
    if (!in_shared(cell, 16)) fail("wgmma: an operand reaches beyond shared memory" + code_place(pc));
    if (checking) product_reads(cell, *block.running, pc);
    for (int e = 0; e < (bf16 ? 8 : 4); e++) {
      uint32_t bits;
      if (bf16) {
        uint16_t half;
        memcpy(&half, cell + 2 * e, 2);
        bits = uint32_t(half) << 16;
      } else {
        memcpy(&bits, cell + 4 * e, 4);
        bits &= ~0x1fffu;  // the hardware does not look at them
      }
      memcpy(to + chunk * (bf16 ? 8 : 4) + e, &bits, 4);
    }
  }
}

void multiply_group(float* sum, unsigned long long a, unsigned long long b, int columns, bool bf16, bool keep) {
  Thread& me = *block.running;
  if (me.index / 128 * 4 + 4 > block.warps.size()) fail("wgmma: a warpgroup of fewer than four warps");
  me.unfinished.push_back({sum, a, b, nullptr, {}, {}, columns, bf16, keep, __builtin_return_address(0)});
}

void multiply_group(float* sum, const uint32_t* a, unsigned long long b, int columns, bool bf16, bool keep) {
  Thread& me = *block.running;
  Product product{sum, 0, b, a, {}, {}, columns, bf16, keep, __builtin_return_address(0)};
  memcpy(product.given, a, sizeof product.given);
  gather_rows(a, product.rows);
  me.unfinished.push_back(product);
}

void commit_products() {
  Thread& me = *block.running;
  me.product_groups.push_back(std::move(me.unfinished));
  me.unfinished.clear();
}

static float number_in(const uint32_t* words, int k, bool bf16) {
  uint32_t bits = bf16 ? (k & 1 ? words[k / 2] & 0xffff0000u : words[k / 2] << 16) : words[k] & ~0x1fffu;
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

static void perform(const Product& p, const Thread& me) {
  int depth = p.bf16 ? 16 : 8, warp = me.warp % 4, g = me.lane >> 2, t = me.lane & 3;
  float a[2][16], b[16];
  if (p.registers && memcmp(p.registers, p.given, sizeof p.given))
    fail("wgmma: registers of an operand changed while it was under way" + code_place(p.pc));
  for (int half = 0; half < 2; half++) {
    if (p.registers)
      for (int k = 0; k < depth; k++) a[half][k] = number_in(p.rows[half], k, p.bf16);
    else load_row(a[half], p.a, warp * 16 + half * 8 + g, p.bf16, p.pc);
  }
  for (int j = 0; j < p.columns / 8; j++)
    for (int e = 0; e < 2; e++) {
      load_row(b, p.b, j * 8 + t * 2 + e, p.bf16, p.pc);
      for (int half = 0; half < 2; half++) {
        float& sum = p.sum[j * 4 + half * 2 + e];
        if (!p.keep) sum = 0.f;
        for (int k = 0; k < depth; k++) sum += a[half][k] * b[k];
      }
    }
  statistics.wgmma++;
}

void wait_products(int left) {
  Thread& me = *block.running;
  int done = int(me.product_groups.size()) - left;
  if (done <= 0) return;
  for (int g = 0; g < done; g++)
    for (const Product& product : me.product_groups[g]) perform(product, me);
  me.product_groups.erase(me.product_groups.begin(), me.product_groups.begin() + done);
}

void publish() { block.running->published++; }

void drop_products_of_ending_thread() {
  Thread& me = *block.running;
  bool pending = !me.unfinished.empty();
  for (const auto& group : me.product_groups) pending = pending || !group.empty();
  if (pending) report(std::string(where()) + ": ends with a wgmma that it has not waited for");
  me.unfinished.clear();
  me.product_groups.clear();
}

}  // namespace emulation
