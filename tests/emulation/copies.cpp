// cp.async: the destination holds NaNs until its thread has waited for the group, however fast a copy might have been.
#include <cstring>

#include "block.h"
#include "detector.h"
#include "memory.h"

namespace emulation {

void copy_async(void* to, const void* from, int bytes, int size) {
  if (uintptr_t(to) % size || (bytes && uintptr_t(from) % size)) fail("cp.async: an address is not aligned to its size");
  if (!in_shared(to, size)) fail("cp.async: the destination is outside shared memory");
  const void* pc = __builtin_return_address(0);
  Thread& me = *block.running;
  if (checking) {
    if (bytes) accessed(from, bytes, false, me, pc);
    accessed(to, size, true, me, pc);
    copy_started(to, size, me.index, pc);
  }
  Copy copy{(char*)to, size, {}};
  if (bytes) memcpy(copy.data, from, bytes);
  memset(to, 0xff, size);
  me.uncommitted.push_back(copy);
  statistics.async_bytes += bytes;
}

void commit_group() {
  Thread& me = *block.running;
  me.groups.push_back(std::move(me.uncommitted));
  me.uncommitted.clear();
}

void wait_group(int left) {
  Thread& me = *block.running;
  int done = int(me.groups.size()) - left;
  if (done <= 0) return;
  for (int g = 0; g < done; g++)
    for (const Copy& copy : me.groups[g]) {
      memcpy(copy.to, copy.data, copy.size);
      if (checking) {
        copy_arrived(copy.to, copy.size);
        accessed(copy.to, copy.size, true, me, __builtin_return_address(0));
      }
    }
  me.groups.erase(me.groups.begin(), me.groups.begin() + done);
}

void drop_copies_of_ending_thread() {
  Thread& me = *block.running;
  bool pending = !me.uncommitted.empty();
  for (const auto& group : me.groups) pending = pending || !group.empty();
  if (pending) report(std::string(where()) + ": ends with a cp.async that it has not waited for");
  me.groups.clear();
  me.uncommitted.clear();
}

}  // namespace emulation
