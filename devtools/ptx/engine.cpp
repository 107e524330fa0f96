// Executes a parsed PTX kernel: its programs (CTAs) one after another, the warps of a program in turns, the 32 lanes of
// a warp in lockstep; lanes that diverge run at the lowest instruction first, and an instruction of the whole warp
// waits for them.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <type_traits>
#include <unordered_map>
#include <vector>

using u8 = uint8_t;
using u16 = uint16_t;
using u32 = uint32_t;
using u64 = uint64_t;
using s16 = int16_t;
using s32 = int32_t;
using s64 = int64_t;

namespace {

constexpr int LANES = 32;
constexpr u32 ALL = ~0u;
using Lanes = std::array<u64, LANES>;

// ---- one lane's arithmetic ------------------------------------------------------------------------------------------
float f32(u64 x) { return std::bit_cast<float>(u32(x)); }
double f64(u64 x) { return std::bit_cast<double>(x); }
float f16(u64 x) { return float(std::bit_cast<_Float16>(u16(x))); }
float bf16(u64 x) { return f32(x << 16); }
u64 bits(float x) { return std::isnan(x) ? 0x7fffffffu : std::bit_cast<u32>(x); }
u64 bits(double x) { return std::isnan(x) ? 0x7fffffffffffffffull : std::bit_cast<u64>(x); }
bool ordered(auto x, auto y) { return !std::isunordered(x, y); }
u64 pred(u64 x) { return x & 1; }
s64 wide(s32 x) { return x; }
u64 wide(u32 x) { return x; }

template <class T>
constexpr u64 sign_of = u64(1) << (8 * sizeof(T) - 1);

template <class T>
T minimum(T x, T y) {  // -0 is below 0, NaN is not chosen
  if (std::isnan(x) || std::isnan(y)) return std::isnan(x) ? y : x;
  return x == y ? (std::signbit(x) ? x : y) : std::min(x, y);
}

s32 truncated(float x) {
  using Limits = std::numeric_limits<s32>;
  if (std::isnan(x)) return 0;
  return x < Limits::min() ? Limits::min() : x >= -float(Limits::min()) ? Limits::max() : s32(x);
}

template <class T>
T shift_right(T x, u32 count) {
  return count < 8 * sizeof(T) ? x >> count : T(std::is_signed_v<T> && x < 0 ? -1 : 0);
}

template <class T>
u64 bit_field(T x, u64 start, u64 length) {  // extends x, and the field, by its sign or by 0
  const int at = std::min<int>(start & 255, 63), rest = 64 - std::min<int>(length & 255, 64);
  if (rest == 64) return 0;
  const s64 field = u64(s64(x) >> at) << rest;
  return std::is_signed_v<T> ? field >> rest : u64(field) >> rest;
}

u64 permute(u64 x, u64 y, u64 selector) {
  const u64 both = u32(x) | y << 32;
  u64 result = 0;
  for (int i = 0; i < 4; i++) {
    const u64 choice = selector >> 4 * i, byte = both >> 8 * (choice & 7) & 255;
    result |= (choice & 8 ? byte / 128 * 255 : byte) << 8 * i;
  }
  return result;
}

// The first 20 bits of 1 / x; denormals count as 0.
u64 gross_reciprocal(double x) {
  const auto flushed = [](double y) { return std::fpclassify(y) == FP_SUBNORMAL ? std::copysign(0.0, y) : y; };
  const double result = flushed(1 / flushed(x));
  return std::isnormal(result) ? bits(result) & ~u64(ALL) : bits(result);
}

bool has(u32 mask, int lane) { return mask >> lane & 1; }
int first_of(u32 mask) { return std::countr_zero(mask); }
void each(u32 mask, auto act) {  // of its lanes
  for (; mask; mask &= mask - 1) act(first_of(mask));
}

using Operation = void (*)(Lanes&, const Lanes&, const Lanes&, const Lanes&, u32);
#define OPERATION(number, expression)                                                               \
  void operation_##number(Lanes& to, const Lanes& as, const Lanes& bs, const Lanes& cs, u32 mask) { \
    for (int lane = 0; lane < LANES; lane++) {                                                      \
      const u64 a = as[lane], b = bs[lane], c = cs[lane];                                           \
      if (has(mask, lane)) to[lane] = (expression);                                                 \
    }                                                                                               \
  }
#include "generated.inc"

// ---- what Python gives and gets ------------------------------------------------------------------------------------
struct Instruction {
  s32 operation, guard, negated, outputs, inputs, bytes, target;
  s64 immediate;
  s32 out[4], in[6];

  bool stores() const { return outputs == 0; }  // of memory and matrices, as is the rest
  bool shared() const { return target & 1; }
  const s32* data() const { return stores() ? in + 1 : out; }
  int count() const { return stores() ? inputs - 1 : outputs; }
};

struct Buffer {  // of global memory, at its real address
  u64 base, size;
};

struct Finding {
  s32 kind, place, other_place, program, thread, other_thread;
  u64 count;
};

struct Launch {
  const Instruction* code;
  const u64* constants;  // pairs: register, value
  const Buffer* buffers;
  Finding* findings;
  u64 instructions, constant_count, buffer_count, capacity;  // of these
  u64 limit;                                                 // of steps of a program
  u64 registers, warps, shared_bytes;
  u64 fill;  // each byte of shared memory that is not written yet
  u64 grid[3];
  u64* lanes;  // → of each instruction, how many executed it
};

// ---- memory
// ----------------------------------------------------------------------------------------------------------
struct Access {
  s32 program = -1;  // none yet
  s32 place = 0;     // of the instruction
  u32 epoch = 0;     // barriers of all programs before it
  u32 sync = 0;      // barriers of the warp alone before it
  s32 thread = 0;

  int warp() const { return thread / LANES; }
};

enum Conflict { NO_CONFLICT, BETWEEN_PROGRAMS, BETWEEN_WARPS, BETWEEN_LANES };

Conflict conflict(const Access& before, const Access& now) {
  if (before.program < 0) return NO_CONFLICT;
  if (before.program != now.program) return BETWEEN_PROGRAMS;
  if (before.thread == now.thread || before.epoch != now.epoch) return NO_CONFLICT;
  if (before.warp() != now.warp()) return BETWEEN_WARPS;
  return before.sync == now.sync ? BETWEEN_LANES : NO_CONFLICT;
}

struct Race {
  Conflict conflict;
  Access before;
  bool both_stores;
};

// The last accesses to a byte of memory. Two accesses by different threads of which one is a store are a race if no
// barrier stands between them, in whatever order they were executed here.
struct Shadow {
  Access written;
  Access read;          // by one thread since the last barrier
  Access other_read;    // by another thread since then
  Access foreign_read;  // by an earlier program

  Race load(const Access& now) {
    if (read.program >= 0 && read.program != now.program) foreign_read = read;
    if (read.program != now.program || read.epoch != now.epoch) {
      read = now;
      other_read = {};
    } else if (read.thread == now.thread) {
      read = now;
    } else if (other_read.program < 0 || other_read.warp() == read.warp() || now.warp() != read.warp()) {
      other_read = now;  // a reader of another warp is worth more than one of the same
    }
    return {conflict(written, now), written, false};
  }

  Race store(const Access& now) {
    Race race{conflict(written, now), written, true};
    for (const Access* before : {&read, &other_read, &foreign_read}) {
      if (race.conflict == NO_CONFLICT) race = {conflict(*before, now), *before, false};
    }
    written = now;
    return race;
  }
};

// ---- warps
// -----------------------------------------------------------------------------------------------------------
struct Warp {
  int number = 0, place = 0, barrier = -1;
  u32 alive = ALL, sync = 0;
  bool diverged = false, waiting = false;
  std::array<int, LANES> places{};  // of the lanes, while diverged
  std::vector<Lanes> values;        // of each register

  void set(int r, u32 mask, auto value) {  // value: of a lane
    each(mask, [&](int lane) { values[r][lane] = value(lane); });
  }
  u32 predicate(int r) const {
    u32 result = 0;
    for (int lane = 0; lane < LANES; lane++) result |= u32(values[r][lane] & 1) << lane;
    return result;
  }
  void advance(u32 mask, int to) {
    if (!diverged) place = to;
    if (diverged) each(mask, [&](int lane) { places[lane] = to; });
  }
};

struct Step {  // of a warp: an instruction, the lanes that are there, and those whose guard holds
  Warp& warp;
  const Instruction& i;
  int place;
  u32 here, mask;

  const Lanes& in(int k) const { return warp.values[i.in[k]]; }
};

struct Machine {
  const Launch& launch;
  int program = 0;
  u32 epoch = 0;
  u64 steps = 0, found = 0;
  bool failed = false;
  std::vector<Warp> warps;
  std::vector<u8> shared;
  std::unordered_map<const u8*, Shadow> shared_shadow, global_shadow;  // of each byte

  // ---- programs and warps
  int run() {  // the number of findings
    const int count = launch.grid[0] * launch.grid[1] * launch.grid[2];
    for (int number = 0; number < count && !failed; number++) run_program(number);
    return found;
  }

  void run_program(int number) {
    program = number;
    epoch++;
    steps = 0;
    shared.assign(launch.shared_bytes, launch.fill);
    shared_shadow.clear();
    warps.assign(launch.warps, Warp{});
    for (Warp& warp : warps) start(warp, int(&warp - warps.data()));
    const auto any = [&](auto is) { return std::any_of(warps.begin(), warps.end(), is); };
    while (!failed && any([](const Warp& w) { return w.alive; })) {
      for (Warp& warp : warps) take_turn(warp);  // until each waits or has ended
      if (!failed && any([](const Warp& w) { return w.waiting; })) release();
    }
  }

  void start(Warp& warp, int number) {
    warp.number = number;
    warp.values.assign(launch.registers, Lanes{});
    const u64 x = launch.grid[0], y = launch.grid[1], z = launch.grid[2], at = program;
    const auto fill = [&](int r, auto value) { warp.set(r, ALL, value); };
    int r = 0;  // in the order of SPECIAL_REGISTERS
    fill(r++, [&](int lane) { return LANES * number + lane; });
    fill(r++, [](int lane) { return lane; });
    for (u64 value : {u64(number), at % x, at / x % y, at / x / y, x, y, z, LANES * launch.warps}) {
      fill(r++, [&](int) { return value; });
    }
    for (u64 k = 0; k < launch.constant_count; k++) {
      fill(int(launch.constants[2 * k]), [&](int) { return launch.constants[2 * k + 1]; });
    }
  }

  void release() {  // all warps that are left wait at a barrier
    const Warp& first = *std::find_if(warps.begin(), warps.end(), [](const Warp& w) { return w.waiting; });
    for (const Warp& warp : warps) {
      if (!warp.alive) return fail(BARRIER_AFTER_THE_EXIT_OF_THREADS, first.barrier, first, 0);
      if (warp.barrier != first.barrier) report(WARPS_AT_DIFFERENT_BARRIERS, warp.barrier, warp, 0, 0, first.barrier);
    }
    epoch++;
    for (Warp& warp : warps) warp.waiting = false;
  }

  // The lanes of a diverged warp that go next: those at the lowest instruction at which they need not wait for others;
  // if all wait, those at the lowest.
  u32 choose(Warp& warp) {
    std::map<int, u32> lanes_at;
    each(warp.alive, [&](int lane) { lanes_at[warp.places[lane]] |= 1u << lane; });
    warp.diverged = lanes_at.size() > 1;
    const auto goes = [&](const auto& at) { return !warp.diverged || !of_the_warp(launch.code[at.first]); };
    auto next = std::find_if(lanes_at.begin(), lanes_at.end(), goes);
    if (next == lanes_at.end()) next = lanes_at.begin();
    warp.place = next->first;
    return next->second;
  }

  static bool of_the_warp(const Instruction& i) { return i.operation >= WAIT && i.operation <= MATRIX; }

  void take_turn(Warp& warp) {  // until a barrier or the end
    while (warp.alive && !warp.waiting && !failed) {
      const u32 here = warp.diverged ? choose(warp) : warp.alive;
      const int place = warp.place;
      const Instruction& i = launch.code[place];
      if (++steps > launch.limit) return fail(TOO_LONG, place, warp, 0);
      u32 mask = here;
      if (i.guard >= 0) mask &= i.negated ? ~warp.predicate(i.guard) : warp.predicate(i.guard);
      const Step s{warp, i, place, here, mask};
      warp.advance(here, place + 1);
      launch.lanes[place] += std::popcount(mask);
      if (mask && i.operation < ROUTINE_COUNT) (this->*ROUTINES[i.operation])(s);
      if (mask && i.operation >= ROUTINE_COUNT) {
        OPERATIONS[i.operation](warp.values[i.out[0]], s.in(0), s.in(1), s.in(2), mask);
      }
    }
  }

  // ---- control
  void branch(const Step& s) {
    if (s.mask != s.here && !s.warp.diverged) s.warp.places.fill(s.warp.place), s.warp.diverged = true;
    s.warp.advance(s.mask, s.i.target);
  }

  void exit(const Step& s) { s.warp.alive &= ~s.mask; }

  void wait(const Step& s) {
    if (s.warp.alive != ALL) return fail(BARRIER_AFTER_THE_EXIT_OF_THREADS, s.place, s.warp, 0);
    if (s.mask != ALL) return fail(BARRIER_IN_A_DIVERGED_WARP, s.place, s.warp, 0);
    s.warp.waiting = true;
    s.warp.barrier = s.place;
  }

  void wait_in_warp(const Step& s) {
    check_members(s, 0);
    s.warp.sync++;
  }

  // ---- registers
  void pack(const Step& s) {  // bytes: of a part
    Lanes whole{};
    for (int k = 0; k < s.i.inputs; k++) {
      for (int lane = 0; lane < LANES; lane++) whole[lane] |= s.in(k)[lane] << 8 * s.i.bytes * k;
    }
    s.warp.set(s.i.out[0], s.mask, [&](int lane) { return whole[lane]; });
  }

  void unpack(const Step& s) {
    const Lanes whole = s.in(0);
    const u64 part = (u64(1) << 8 * s.i.bytes) - 1;
    for (int k = 0; k < s.i.outputs; k++) {
      s.warp.set(s.i.out[k], s.mask, [&](int lane) { return whole[lane] >> 8 * s.i.bytes * k & part; });
    }
  }

  // ---- instructions of a warp
  void check_members(const Step& s, int k) {
    if (u32(s.in(k)[first_of(s.mask)]) != s.mask) report(MEMBERS_OF_A_WARP_INSTRUCTION, s, first_of(s.mask));
  }

  void shuffle(const Step& s) {  // in: value, lane, clamp and segment, members
    enum { IDX, UP, DOWN, BFLY };
    check_members(s, 3);
    Lanes result{};
    each(s.mask, [&](int lane) {
      const int by = s.in(1)[lane] & 31, control = int(s.in(2)[lane]), segment = control >> 8 & 31;
      const int last = (lane & segment) | (control & 31 & ~segment),
                choices[] = {(lane & segment) | (by & ~segment), lane - by, lane + by, lane ^ by};
      int from = choices[s.i.target];
      if (s.i.target == UP ? from < last : from > last) from = lane;
      if (!has(s.mask, from)) report(MEMBERS_OF_A_WARP_INSTRUCTION, s, lane, LANES * s.warp.number + from);
      result[lane] = u32(s.in(0)[from]);
    });
    s.warp.set(s.i.out[0], s.mask, [&](int lane) { return result[lane]; });
  }

  void reduce(const Step& s) {  // in: value, members; target: the operation
    check_members(s, 1);
    Lanes result{}, next{};
    result[0] = u32(s.in(0)[first_of(s.mask)]);
    each(s.mask & (s.mask - 1), [&](int lane) {
      next[0] = u32(s.in(0)[lane]);
      OPERATIONS[s.i.target](result, result, next, next, 1);
    });
    s.warp.set(s.i.out[0], s.mask, [&](int) { return result[0]; });
  }

  // ---- memory
  static u64 address_of(const Step& s, int lane) {
    const u64 base = s.in(0)[lane];
    return (s.i.shared() ? u32(base) : base) + u64(s.i.immediate);
  }

  void memory(const Step& s) {
    Lanes address;  // a load may overwrite its own
    for (int lane = 0; lane < LANES; lane++) address[lane] = address_of(s, lane);
    each(s.mask, [&](int lane) {
      u8* const at = locate(s, lane, address[lane], s.i.bytes * s.i.count());
      for (int v = 0; at && v < s.i.count(); v++) move(s, lane, at + s.i.bytes * v, s.i.data()[v], 0);
    });
  }

  // Matrices of 8 rows of 16 bytes, whose addresses the lanes give: lane l holds the elements 2 (l mod 4) and the next
  // of row l / 4.
  void matrix(const Step& s) {
    if (s.mask != ALL) return report(MEMBERS_OF_A_WARP_INSTRUCTION, s, first_of(s.mask));
    Lanes rows;
    for (int lane = 0; lane < LANES; lane++) rows[lane] = address_of(s, lane);
    for (int m = 0; m < s.i.count(); m++) {
      for (int element = 0; element < 2 * LANES; element++) {
        const int lane = element / 2, h = element % 2, column = lane % 4 * 2 + h;
        u8* const at = locate(s, lane, rows[8 * m + lane / 4], 16);
        if (!at) return;
        move(s, lane, at + 2 * column, s.i.data()[m], 16 * h);
      }
    }
  }

  // Where a lane's access goes; null, and reported, if it must not be made.
  u8* locate(const Step& s, int lane, u64 address, int bytes) {
    if (address % bytes) return report(MISALIGNED, s, lane), nullptr;
    if (s.i.shared() && u64(bytes) <= shared.size() && address <= shared.size() - bytes) return &shared[address];
    const auto holds = [&](const Buffer& b) { return u64(bytes) <= b.size && address - b.base <= b.size - bytes; };
    const bool known = std::any_of(launch.buffers, launch.buffers + launch.buffer_count, holds);
    if (!s.i.shared() && known) return reinterpret_cast<u8*>(address);
    return report(OUT_OF_BOUNDS, s, lane), nullptr;
  }

  // Moves i.bytes between the bits of a register from a shift on, and memory.
  void move(const Step& s, int lane, u8* data, int r, int shift) {
    u64& value = s.warp.values[r][lane];
    u64 moved = s.i.stores() ? value >> shift : 0;
    note(s, lane, data, std::memcmp(&moved, data, s.i.bytes) == 0);
    if (s.i.stores()) {
      std::memcpy(data, &moved, s.i.bytes);
    } else {
      std::memcpy(&moved, data, s.i.bytes);
      value = (shift ? value : 0) | moved << shift;
    }
  }

  // Notes the access of a lane: races with those before.
  void note(const Step& s, int lane, const u8* data, bool same) {
    const Access now{program, s.place, epoch, s.warp.sync, LANES * s.warp.number + lane};
    for (int k = 0; k < s.i.bytes; k++) {
      Shadow& shadow = (s.i.shared() ? shared_shadow : global_shadow)[data + k];
      const Race race = s.i.stores() ? shadow.store(now) : shadow.load(now);
      if (race.conflict == NO_CONFLICT || (race.both_stores && same)) continue;  // layouts repeat some values in lanes
      report(Kind(RACE_BETWEEN_PROGRAMS + int(race.conflict) - 1), s, lane, race.before.thread, race.before.place);
    }
  }

  // ---- findings
  void report(Kind kind, int place, const Warp& warp, int lane, int other_thread = 0, int other_place = -1) {
    Finding* const end = launch.findings + found;
    const auto same = [&](const Finding& f) {
      return f.kind == kind && f.place == place && f.other_place == other_place;
    };
    if (Finding* const known = std::find_if(launch.findings, end, same); known != end) {
      known->count++;
    } else if (found < launch.capacity) {
      found++;
      *end = {kind, place, other_place, program, LANES * warp.number + lane, other_thread, 1};
    }
  }

  void report(Kind kind, const Step& s, int lane, int other_thread = 0, int other_place = -1) {
    report(kind, s.place, s.warp, lane, other_thread, other_place);
  }

  void fail(Kind kind, int place, const Warp& warp, int lane) {
    report(kind, place, warp, lane);
    failed = true;
  }

  static constexpr void (Machine::* ROUTINES[])(const Step&) = {MACHINE_ROUTINES};
};

}  // namespace

extern "C" int run(const Launch* launch) { return Machine{*launch}.run(); }
