#include "detector.h"

#include <dlfcn.h>

#include <algorithm>
#include <unordered_map>

#include "block.h"
#include "memory.h"

namespace emulation {

static std::vector<Shadow> shared_shadow;
static std::unordered_map<uintptr_t, Shadow> other_shadow;  // of __constant__ arrays
static std::unordered_map<const void*, unsigned> reported;  // by place in the code: the launch

void start_launch_detection() {
  other_shadow.clear();
  if (shared_shadow.empty()) shared_shadow.resize(shared_arena_bytes() / GRAIN);
}

// One report for a place in the code and a launch; the others only count
static void report_once(const void* pc, const void* p, const std::string& what) {
  unsigned& launch = reported[pc];
  if (launch == block.launch) return count_error();
  launch = block.launch;
  report(std::string(where()) + ": " + what + ": " + describe(p) + code_place(pc));
}

static void report_race(const char* what, unsigned other, const void* pc, const void* p) {
  report_once(pc, p,
              std::string("race, ") + what + " thread " + std::to_string(int(other) - 1) +
                  " (by index) without a barrier between");
}

// Whether barriers order the access of `other` (1 + thread) at these epochs before one by `by` now
static bool is_ordered(unsigned other, unsigned block_epoch, unsigned warp_epoch, const Thread& by) {
  if (!other || other == by.index + 1 || block_epoch != block.epoch) return true;
  return (other - 1) / 32 == by.warp && warp_epoch != by.warp_epoch;
}

static bool readers_are_ordered(const Shadow& s, const Thread& by) {
  if (!s.reader || s.read_block_epoch != block.epoch) return true;
  if (s.warps_read || (s.lanes_read && s.read_warp_epoch == by.warp_epoch)) return false;
  return is_ordered(s.reader, s.read_block_epoch, s.read_warp_epoch, by);
}

static void remember_write(Shadow& s, const Thread& by) {
  s.writer = by.index + 1, s.write_block_epoch = block.epoch, s.write_warp_epoch = by.warp_epoch;
  s.write_published = by.published;
  s.reader = 0, s.lanes_read = s.warps_read = false;
}

static void remember_read(Shadow& s, const Thread& by) {
  unsigned me = by.index + 1;
  if (!s.reader || s.read_block_epoch != block.epoch) s.lanes_read = s.warps_read = false;
  else if ((s.reader - 1) / 32 != by.warp) s.warps_read = true;
  else if (s.read_warp_epoch != by.warp_epoch) s.lanes_read = false;
  else if (s.reader != me) s.lanes_read = true;
  s.reader = me, s.read_block_epoch = block.epoch, s.read_warp_epoch = by.warp_epoch;
}

// Global memory: nothing orders the blocks of a launch. Whether the access is an ordinary one of its block after all
static bool of_this_block(Shadow& s, const void* p, bool write, const void* pc) {
  if (s.block != block.number) {
    if (s.writer || (write && s.reader))
      report_once(pc, p,
                  std::string(write ? "writes" : "reads") + " what another block (" + std::to_string(s.block) + ") " +
                      (s.writer ? "wrote" : "read") + " in the same launch");
    if (s.writer && !write) return false;  // the writer stays, for others to clash with
    bool read = s.reader || s.other_block_read;
    s = Shadow();
    s.launch = block.launch, s.block = block.number, s.other_block_read = read;
  }
  if (write && s.other_block_read) {
    report_once(pc, p, "writes what another block read in the same launch");
    s.other_block_read = false;
  }
  return true;
}

static void track(Shadow& s, const void* p, bool write, bool shared, const Thread& by, const void* pc) {
  if (s.launch != block.launch || (shared && s.block != block.number)) {
    s = Shadow();
    s.launch = block.launch, s.block = block.number;
  }
  if (s.copier)
    report_once(pc, p,
                std::string(write ? "write" : "read") + " of a cp.async destination that thread " +
                    std::to_string(int(s.copier) - 1) + " has not waited for");
  if (!shared && !of_this_block(s, p, write, pc)) return;
  if (!is_ordered(s.writer, s.write_block_epoch, s.write_warp_epoch, by))
    report_race(write ? "overwrites what was written by" : "reads what was written by", s.writer, pc, p);
  if (write && !readers_are_ordered(s, by)) report_race("overwrites what was read by", s.reader, pc, p);
  if (write) remember_write(s, by);
  else remember_read(s, by);
}

// Of the grain at p; null if it is nobody's business. Fails where the kernel has no business
static Shadow* shadow_of(const void* p, int bytes, bool* shared, const void* pc) {
  *shared = in_shared(p, bytes);
  if (*shared) return &shared_shadow[shared_offset(p) / GRAIN];
  char* base;
  Allocation* array = global_array(p, &base);
  if (array && (char*)p + bytes <= base + array->bytes) {
    if (array->shadow.empty()) array->shadow.resize(array->bytes / GRAIN + 1);
    return &array->shadow[((char*)p - base) / GRAIN];
  }
  auto within = [p](const auto& object) { return p >= (void*)&object && p < (void*)(&object + 1); };
  if (within(here) || within(arguments)) return nullptr;
  Dl_info info;
  if (!array && dladdr(p, &info)) {
    *shared = true;
    return &other_shadow[uintptr_t(p) / GRAIN];
  }
  fail("stray access of " + std::to_string(bytes) + " bytes at " + describe(p) + code_place(pc));
}

template <class F> static void each_grain(const void* p, int bytes, F f) {
  for (int i = 0; i < bytes; i += GRAIN) f((char*)p + i, std::min(GRAIN, bytes - i));
}

void accessed(const void* p, int bytes, bool write, const Thread& by, const void* pc) {
  if (in_stacks(p)) return;
  each_grain(p, bytes, [&](char* at, int count) {
    bool shared;
    if (Shadow* s = shadow_of(at, count, &shared, pc)) track(*s, at, write, shared, by, pc);
  });
}

void product_reads(const void* p, const Thread& by, const void* pc) {
  accessed(p, 16, false, by, pc);
  each_grain(p, 16, [&](char* at, int count) {
    bool shared;
    Shadow* s = shadow_of(at, count, &shared, pc);
    if (s && s->writer && threads[s->writer - 1].published == s->write_published)
      report_once(pc, at, "a wgmma reads what its writer has not published");
  });
}

void touch_atomically(const void* p, int bytes) {
  bool shared;
  if (checking) shadow_of(p, bytes, &shared, __builtin_return_address(0));
}

void copy_started(void* to, int bytes, unsigned thread, const void* pc) {
  bool shared;
  each_grain(to, bytes, [&](char* at, int count) { shadow_of(at, count, &shared, pc)->copier = thread + 1; });
}

void copy_arrived(void* to, int bytes) {
  bool shared;
  each_grain(to, bytes, [&](char* at, int count) { shadow_of(at, count, &shared, nullptr)->copier = 0; });
}

}  // namespace emulation

// What g++ -fsanitize=thread,alignment,bounds calls. Kernels are compiled with it and linked without: these stand in

using namespace emulation;

#define HOOK(name, bytes, write)                                                                         \
  extern "C" void name(void* p) {                                                                        \
    if (launching && checking) accessed(p, bytes, write, *block.running, __builtin_return_address(0));   \
  }
#define HOOKS(bytes)                                                                                     \
  HOOK(__tsan_read##bytes, bytes, false) HOOK(__tsan_write##bytes, bytes, true)                          \
  HOOK(__tsan_unaligned_read##bytes, bytes, false) HOOK(__tsan_unaligned_write##bytes, bytes, true)
HOOKS(1) HOOKS(2) HOOKS(4) HOOKS(8) HOOKS(16)

extern "C" void __tsan_read_range(void* p, size_t n) {
  if (launching && checking) accessed(p, int(n), false, *block.running, __builtin_return_address(0));
}
extern "C" void __tsan_write_range(void* p, size_t n) {
  if (launching && checking) accessed(p, int(n), true, *block.running, __builtin_return_address(0));
}
extern "C" void __tsan_func_entry(void*) {}
extern "C" void __tsan_func_exit() {}
extern "C" void __tsan_init() {}

struct Location {
  const char* file;
  unsigned line, column;
};
static std::string at(const Location* location) {
  return std::string(location->file) + ":" + std::to_string(location->line);
}
extern "C" void __ubsan_handle_type_mismatch_v1(Location* location, void* p) {
  if (launching) fail("misaligned access at " + at(location) + ", " + describe(p));
}
extern "C" void __ubsan_handle_out_of_bounds(Location* location, void* index) {
  if (launching) fail("index " + std::to_string((ptrdiff_t)index) + " out of bounds at " + at(location));
}
