// Memory that shows mistakes: it starts as NaNs and ends at pages that nobody may touch.
#pragma once
#include <cstddef>
#include <string>
#include <vector>

namespace emulation {

constexpr size_t SHARED_MOST = 227 << 10;  // a block's share on Hopper

struct Shadow;  // of the detector

struct Allocation {
  size_t bytes;
  char* map;
  size_t map_bytes;
  std::vector<Shadow> shadow;
};

// The global array around p, and where it begins; null if there is none
Allocation* global_array(const void* p, char** base);

void make_shared_arena();
void start_shared(size_t dynamic_bytes);  // for a block: poisoned, without static arrays
// Whether these bytes are inside dynamic shared memory, or inside one static array
bool in_shared(const void* p, int bytes);
size_t shared_offset(const void* p);      // in the arena, for the detector's shadow
size_t shared_arena_bytes();

std::string describe(const void* p);      // "byte 8 of a global array of 64", "24 bytes behind a global array"

}  // namespace emulation
