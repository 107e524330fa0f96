// The last accesses to a byte of memory. Two accesses by different threads of which one is a store are a race if no
// barrier stands between them, in whatever order they were executed here.
#pragma once

#include <cstdint>

struct Access {
  int32_t program = -1;  // none yet
  int32_t place = 0;     // of the instruction
  uint32_t epoch = 0;    // barriers of all programs before it
  uint32_t sync = 0;     // barriers of the warp alone before it
  int32_t thread = 0;
};

enum Conflict { NO_CONFLICT, BETWEEN_PROGRAMS, BETWEEN_WARPS, BETWEEN_LANES };

inline Conflict conflict(const Access& before, const Access& now) {
  if (before.program < 0) return NO_CONFLICT;
  if (before.program != now.program) return BETWEEN_PROGRAMS;
  if (before.thread == now.thread || before.epoch != now.epoch) return NO_CONFLICT;
  if (before.thread / 32 != now.thread / 32) return BETWEEN_WARPS;
  return before.sync == now.sync ? BETWEEN_LANES : NO_CONFLICT;
}

class Shadow {
 public:
  struct Race {
    Conflict conflict = NO_CONFLICT;
    Access before;
    bool both_stores = false;
  };

  Race load(const Access& now) {
    Race race{conflict(written, now), written, false};
    if (read.program >= 0 && read.program != now.program) foreign_read = read;
    if (read.program != now.program || read.epoch != now.epoch) {
      read = now;
      other_read = {};
    } else if (read.thread == now.thread) {
      read = now;
    } else if (other_read.program < 0 || same_warp(other_read, read) || !same_warp(now, read)) {
      other_read = now;  // a reader of another warp is worth more than one of the same
    }
    return race;
  }

  Race store(const Access& now) {
    Race race{conflict(written, now), written, true};
    for (const Access* before : {&read, &other_read, &foreign_read}) {
      if (race.conflict == NO_CONFLICT) race = {conflict(*before, now), *before, false};
    }
    written = now;
    return race;
  }

 private:
  static bool same_warp(const Access& a, const Access& b) { return a.thread / 32 == b.thread / 32; }

  Access written;
  Access read;          // by one thread since the last barrier
  Access other_read;    // by another thread since then
  Access foreign_read;  // by an earlier program
};
