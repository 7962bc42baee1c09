#include "memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <map>

#include "block.h"
#include "detector.h"

namespace emulation {

// Global memory. Each array ends within 15 bytes of a guard page, as they are aligned to 16; another lies before it

static std::map<char*, Allocation> arrays;
static char* last_base;  // the array found last: accesses come in runs
static Allocation* last_array;

Allocation* global_array(const void* p, char** base) {
  char* at = (char*)p;
  if (last_array && at >= last_base && at < last_base + last_array->bytes) {
    *base = last_base;
    return last_array;
  }
  auto it = arrays.upper_bound(at);
  if (it == arrays.begin()) return nullptr;
  --it;
  if (at >= it->first + it->second.bytes) return nullptr;
  last_array = &it->second;
  *base = last_base = it->first;
  return last_array;
}

extern "C" void* emulation_allocate(size_t bytes) {
  size_t page = sysconf(_SC_PAGESIZE), room = (bytes + 15) & ~size_t(15), body = (room + page - 1) / page * page;
  char* map = (char*)mmap(nullptr, body + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (map == MAP_FAILED) return nullptr;
  if (body) {
    mprotect(map + page, body, PROT_READ | PROT_WRITE);
    memset(map + page, 0xff, body);
  }
  char* p = map + page + body - room;
  arrays[p] = Allocation{bytes, map, body + 2 * page, {}};
  last_array = nullptr;
  return p;
}

extern "C" void emulation_free(void* p) {
  auto it = arrays.find((char*)p);
  if (it == arrays.end()) return;
  munmap(it->second.map, it->second.map_bytes);
  arrays.erase(it);
  last_array = nullptr;
}

// Whether the slack beside the array that holds p was written: a store out of bounds that met no guard page
extern "C" int emulation_damaged(void* p) {
  char* base;
  Allocation* array = global_array(p, &base);
  if (!array) return 0;
  size_t page = sysconf(_SC_PAGESIZE);
  auto untouched = [](const char* from, const char* to) {
    for (; from < to; from++)
      if ((unsigned char)*from != 0xff) return false;
    return true;
  };
  return !untouched(array->map + page, base) ||
         !untouched(base + array->bytes, array->map + array->map_bytes - page);
}

// Shared memory: an arena before a guard page. The launch's dynamic part lies at its end, static arrays below that

struct StaticArray {
  const void* site;
  char* base;
  size_t bytes;
};
constexpr size_t ARENA = 256 << 10, GAP = 64;
static char* arena;
static char* dynamic_base;
static size_t dynamic_size, static_size;
static std::vector<StaticArray> static_arrays;

void make_shared_arena() {
  if (arena) return;
  size_t guard = 65536;
  arena = (char*)mmap(nullptr, ARENA + guard, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  mprotect(arena + ARENA, guard, PROT_NONE);
}

void start_shared(size_t bytes) {
  dynamic_size = bytes;
  dynamic_base = arena + ARENA - ((bytes + 15) & ~size_t(15));
  memset(dynamic_base, 0xff, arena + ARENA - dynamic_base);
  static_arrays.clear();
  static_size = 0;
}

void* dynamic_shared() { return dynamic_base; }

void* static_shared(const void* site, size_t bytes) {
  char* end = dynamic_base;
  for (StaticArray& array : static_arrays) {
    if (array.site == site) return array.base;
    end = array.base;
  }
  static_size += bytes;
  if (static_size > 48 << 10) fail("more than 48 KB of static shared memory");
  if (static_size + dynamic_size > SHARED_MOST) fail("static and dynamic shared memory together pass 227 KB");
  char* base = (char*)((uintptr_t)(end - GAP - bytes) & ~uintptr_t(127));
  memset(base, 0xff, end - base);
  static_arrays.push_back({site, base, bytes});
  return base;
}

bool in_shared(const void* p, int bytes) {
  char *from = (char*)p, *to = from + bytes;
  if (from >= dynamic_base && to <= dynamic_base + dynamic_size) return true;
  for (const StaticArray& array : static_arrays)
    if (from >= array.base && to <= array.base + array.bytes) return true;
  return false;
}

size_t shared_offset(const void* p) { return (char*)p - arena; }
size_t shared_arena_bytes() { return ARENA; }

std::string describe(const void* p) {
  char text[200], *at = (char*)p, *base;
  if (in_shared(p, 1)) {
    size_t byte = at >= dynamic_base ? at - dynamic_base : 0;
    for (const StaticArray& array : static_arrays)
      if (at >= array.base && at < array.base + array.bytes) byte = at - array.base;
    snprintf(text, sizeof text, "shared byte %zu", byte);
  } else if (Allocation* array = global_array(p, &base)) {
    snprintf(text, sizeof text, "byte %td of a global array of %zu", at - base, array->bytes);
  } else {  // the nearest thing that it may have been meant for
    ptrdiff_t least = 1 << 30;
    const char* which = "any array";
    auto nearer = [&](ptrdiff_t distance, const char* what) {
      if (distance >= 0 && distance < least) least = distance, which = what;
    };
    auto it = arrays.upper_bound(at);
    if (it != arrays.end()) nearer(it->first - at, "before a global array");
    if (it != arrays.begin()) {
      --it;
      nearer(at - (it->first + it->second.bytes), "behind a global array");
    }
    if (at < arena + ARENA + 65536) nearer(at - (dynamic_base + dynamic_size), "behind shared memory");
    for (const StaticArray& array : static_arrays)
      if (at < array.base + array.bytes + GAP) nearer(at - (array.base + array.bytes), "behind a static shared array");
    snprintf(text, sizeof text, "%td bytes %s", least, which);
  }
  return text;
}

}  // namespace emulation
