// Executes a parsed PTX kernel: its programs (CTAs) one after another, the warps of a program in turns, the 32 lanes of
// a warp in lockstep; lanes that diverge run at the lowest instruction first, and an instruction of the whole warp
// waits for them.
//
// Each half of a 64-bit register has a "defined" bit per lane, each byte of memory has one, too. Unwritten memory may
// be read, but must not decide an address, a branch or a guard, nor be stored to global memory.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <tuple>
#include <type_traits>
#include <vector>

#include "shadow.hpp"

namespace {

constexpr int LANES = 32;
constexpr uint32_t ALL = ~0u;
using Lanes = std::array<uint64_t, LANES>;

// ---- one lane's arithmetic ------------------------------------------------------------------------------------------
using u8 = uint8_t;
using u16 = uint16_t;
using u32 = uint32_t;
using u64 = uint64_t;
using s8 = int8_t;
using s16 = int16_t;
using s32 = int32_t;
using s64 = int64_t;

float f32(u64 x) { return std::bit_cast<float>(u32(x)); }
double f64(u64 x) { return std::bit_cast<double>(x); }
u64 bits(float x) { return std::isnan(x) ? 0x7fffffffu : std::bit_cast<u32>(x); }
u64 bits(double x) { return std::isnan(x) ? 0x7fffffffffffffffull : std::bit_cast<u64>(x); }
float half(u16 x) { return float(std::bit_cast<_Float16>(x)); }

template <class T>
T minimum(T x, T y) {  // -0 is below 0, NaN is not chosen
  if (std::isnan(x) || std::isnan(y)) return std::isnan(x) ? y : x;
  return x == y ? (std::signbit(x) ? x : y) : std::min(x, y);
}

template <class T>
T maximum(T x, T y) {
  if (std::isnan(x) || std::isnan(y)) return std::isnan(x) ? y : x;
  return x == y ? (std::signbit(x) ? y : x) : std::max(x, y);
}

template <class To, class From>
To truncated(From x) {
  using Limits = std::numeric_limits<To>;
  constexpr bool wide = sizeof(To) == 8 || sizeof(From) == 8;
  if (std::isnan(x)) return wide ? To(u64(1) << (8 * sizeof(To) - 1)) : 0;
  if (x <= From(Limits::min())) return Limits::min();
  return x >= std::ldexp(From(1), Limits::digits) ? Limits::max() : To(x);
}

template <class T>
T divide(T x, T y) {
  if (y == 0) return T(~u64(0));
  return std::is_signed_v<T> && y == T(-1) ? T(0 - u64(x)) : T(x / y);
}

template <class T>
T remainder(T x, T y) {
  if (y == 0) return x;
  return std::is_signed_v<T> && y == T(-1) ? 0 : T(x % y);
}

template <class T>
T shift_right(T x, u32 count) {
  constexpr u32 width = 8 * sizeof(T);
  return count < width ? x >> count : T(std::is_signed_v<T> && x < 0 ? -1 : 0);
}

template <class T>
u64 bit_field(T x, u32 start, u32 length) {
  constexpr int width = 8 * sizeof(T);
  const int at = start & 255, count = length & 255;
  if (count == 0) return 0;
  const bool sign = std::is_signed_v<T> && (x >> std::min(at + count - 1, width - 1) & 1);
  u64 result = 0;
  for (int i = 0; i < width; i++) {
    const bool inside = i < count && at + i < width;
    result |= u64(inside ? x >> (at + i) & 1 : sign) << i;
  }
  return result;
}

u64 permute(u32 x, u32 y, u32 selector) {
  const u64 both = x | u64(y) << 32;
  u32 result = 0;
  for (int i = 0; i < 4; i++) {
    const u32 choice = selector >> (4 * i);
    const u8 byte = u8(both >> 8 * (choice & 7));
    result |= u32(choice & 8 ? (byte & 128 ? 255 : 0) : byte) << (8 * i);
  }
  return result;
}

// The first 20 bits of 1 / x, and one unit of them more or less if approx is not 0; denormals count as 0.
u64 gross_reciprocal(double x, int approx) {
  if (std::fpclassify(x) == FP_SUBNORMAL) x = std::copysign(0.0, x);
  const double result = 1 / x;
  if (std::isnan(result) || std::isinf(result) || result == 0) return bits(result);
  if (std::fpclassify(result) == FP_SUBNORMAL) return bits(std::copysign(0.0, result));
  return (bits(result) & ~u64(ALL)) + (s64(approx) << 32);
}

using Operation = void (*)(Lanes&, const Lanes&, const Lanes&, const Lanes&, u32, int);
#define OPERATION(number, expression)                                                                    \
  void operation_##number(Lanes& to, [[maybe_unused]] const Lanes& as, [[maybe_unused]] const Lanes& bs, \
                          [[maybe_unused]] const Lanes& cs, u32 mask, [[maybe_unused]] int approx) {     \
    for (int lane = 0; lane < LANES; lane++) {                                                           \
      [[maybe_unused]] const u64 a = as[lane], b = bs[lane], c = cs[lane];                               \
      if (mask >> lane & 1) to[lane] = (expression);                                                     \
    }                                                                                                    \
  }
#include "generated.inc"

}  // namespace

// ---- what Python gives and gets ------------------------------------------------------------------------------------
struct Instruction {
  s32 operation, guard, negated, outputs, inputs, bytes, rule, target;
  s64 immediate;
  s32 out[4], in[6];
};

struct Buffer {  // of global memory, at its real address
  u64 base, size;
  u8* defined;  // of each byte; null: of a huge one only the bounds are checked
};

struct Finding {
  s32 kind, place, other_place, program, thread, other_thread;
  u64 address, count;
};

struct Launch {
  const Instruction* code;
  const u64* constants;  // pairs: register, value
  const Buffer* buffers;
  const u16*
      costs;  // of each instruction: cycles until the next one issues, cycles until its result is there; may be null
  s32 instructions, registers, constant_count, buffer_count, warps, shared_bytes;
  u32 grid[3];
  s32 seed, turn, races, approx;
  u64 limit;                                   // of steps of a program
  u64 *issued, *lanes, *sectors, *wavefronts;  // of each instruction
  u64* totals;                                 // see Total
  Finding* findings;
  s32 capacity, found;
};

namespace {

enum Total { BARRIERS, DIVERGED, SECTORS_READ, SECTORS_WRITTEN, STEPS, CYCLES, SAME_VALUES };
enum Kind {
  OUT_OF_BOUNDS,
  MISALIGNED,
  UNDEFINED_ADDRESS,
  UNDEFINED_GUARD,
  UNDEFINED_STORE,
  RACE_OF_PROGRAMS,
  RACE_OF_WARPS,
  RACE_OF_LANES,
  BARRIER_DIVERGED,
  BARRIER_AFTER_EXIT,
  BARRIERS_DIFFER,
  MEMBERS_DIFFER,
  TOO_LONG
};

constexpr int SPECIAL_REGISTERS = 10;  // tid, laneid, warpid, ctaid xyz, nctaid xyz, ntid

struct Warp {
  int number = 0, place = 0, barrier = -1;
  u32 alive = ALL, sync = 0;
  bool diverged = false, waiting = false;
  std::array<int, LANES> places{};  // of the lanes, while diverged
  std::vector<Lanes> values;        // of each register
  std::vector<u32> low, high;       // lanes of which the halves of each register are defined
  std::vector<u64> ready;           // cycle at which each register is there
  u64 now = 0;

  u32 defined(int r) const { return low[r] & high[r]; }
  void define(int r, u32 mask, u32 lower, u32 upper) {
    low[r] = (low[r] & ~mask) | (lower & mask);
    high[r] = (high[r] & ~mask) | (upper & mask);
  }
  void fill(int r, auto value) {
    for (int lane = 0; lane < LANES; lane++) values[r][lane] = value(lane);
    define(r, ALL, ALL, ALL);
  }
  u32 predicate(int r) const {
    u32 result = 0;
    for (int lane = 0; lane < LANES; lane++) result |= u32(values[r][lane] & 1) << lane;
    return result;
  }
  void advance(u32 mask, int to) {
    if (!diverged) place = to;
    for (int lane = 0; diverged && lane < LANES; lane++) {
      if (mask >> lane & 1) places[lane] = to;
    }
  }
};

class Machine {
 public:
  explicit Machine(Launch& launch) : launch(launch), random(launch.seed) {
    for (int b = 0; b < launch.buffer_count; b++) {
      const Buffer& buffer = launch.buffers[b];
      global.emplace_back(launch.races && buffer.defined ? buffer.size : 0);
      touched.emplace_back(buffer.defined ? buffer.size / 32 + 2 : 0);
    }
  }

  void run() {
    const u32* grid = launch.grid;
    std::vector<int> order(size_t(grid[0]) * grid[1] * grid[2]);
    std::iota(order.begin(), order.end(), 0);
    if (launch.seed) std::shuffle(order.begin(), order.end(), random);
    for (int number : order) {
      if (!failed) run_program(number);
    }
    for (const std::vector<u8>& sectors : touched) {
      for (u8 sector : sectors)
        launch.totals[SECTORS_READ] += sector & 1, launch.totals[SECTORS_WRITTEN] += sector >> 1;
    }
  }

 private:
  // ---- programs and warps
  void run_program(int number) {
    program = number;
    epoch++;
    steps = 0;
    shared.assign(launch.shared_bytes, 0xa5);
    shared_defined.assign(launch.shared_bytes, 0);
    shared_shadow = ShadowMemory(launch.races ? launch.shared_bytes : 0);
    warps.assign(launch.warps, Warp{});
    std::vector<int> order(launch.warps);
    std::iota(order.begin(), order.end(), 0);
    for (int w : order) start(warps[w], w);
    while (!failed) {
      if (launch.seed) std::shuffle(order.begin(), order.end(), random);
      for (int w : order) {
        if (warps[w].alive && !warps[w].waiting)
          take_turn(warps[w], launch.turn ? 1 + random() % launch.turn : ~u64(0));
      }
      const auto count = [&](auto is) { return std::count_if(warps.begin(), warps.end(), is); };
      const auto ended = count([](const Warp& w) { return !w.alive; });
      if (ended == launch.warps) break;
      if (ended + count([](const Warp& w) { return w.waiting; }) == launch.warps) release(ended > 0);
    }
    launch.totals[STEPS] += steps;
    launch.totals[CYCLES] += latest();
  }

  void start(Warp& warp, int number) {
    warp.number = number;
    warp.values.assign(launch.registers, Lanes{});
    warp.low.assign(launch.registers, 0);
    warp.high.assign(launch.registers, 0);
    warp.ready.assign(launch.registers, 0);
    const u32 *grid = launch.grid, width = u32(LANES * launch.warps);
    const u32 special[SPECIAL_REGISTERS] = {0,
                                            0,
                                            u32(number),
                                            program % grid[0],
                                            program / grid[0] % grid[1],
                                            program / grid[0] / grid[1],
                                            grid[0],
                                            grid[1],
                                            grid[2],
                                            width};
    for (int r = 0; r < SPECIAL_REGISTERS; r++) warp.fill(r, [&](int) { return special[r]; });
    warp.fill(0, [&](int lane) { return LANES * number + lane; });
    warp.fill(1, [](int lane) { return lane; });
    for (int i = 0; i < launch.constant_count; i++) {
      warp.fill(int(launch.constants[2 * i]), [&](int) { return launch.constants[2 * i + 1]; });
    }
  }

  void release(bool exited) {  // all warps that are left wait at a barrier
    const Warp& first = *std::find_if(warps.begin(), warps.end(), [](const Warp& w) { return w.waiting; });
    if (exited) return fail(BARRIER_AFTER_EXIT, first.barrier, LANES * first.number);
    for (const Warp& warp : warps) {
      if (warp.barrier != first.barrier) report(BARRIERS_DIFFER, warp.barrier, LANES * warp.number, 0, first.barrier);
    }
    epoch++;
    launch.totals[BARRIERS]++;
    const u64 now = latest();
    for (Warp& warp : warps) warp.waiting = false, warp.now = now;
  }

  u64 latest() const {
    u64 now = 0;
    for (const Warp& warp : warps) now = std::max(now, warp.now);
    return now;
  }

  // The lanes of a diverged warp that go next: those at the lowest instruction at which they need not wait for others.
  u32 choose(Warp& warp) {
    std::vector<int> waiting_at;
    for (int after = -1;;) {
      int lowest = std::numeric_limits<int>::max();
      for (int lane = 0; lane < LANES; lane++) {
        if ((warp.alive >> lane & 1) && warp.places[lane] > after) lowest = std::min(lowest, warp.places[lane]);
      }
      if (lowest == std::numeric_limits<int>::max()) lowest = waiting_at.front();  // all wait: go on, and report
      u32 mask = 0;
      for (int lane = 0; lane < LANES; lane++) {
        if ((warp.alive >> lane & 1) && warp.places[lane] == lowest) mask |= 1u << lane;
      }
      const bool stuck = !waiting_at.empty() && lowest == waiting_at.front();
      warp.place = lowest;
      if (mask == warp.alive) warp.diverged = false;
      if (mask == warp.alive || stuck || !of_the_warp(launch.code[lowest].operation)) return mask;
      waiting_at.push_back(after = lowest);
    }
  }

  static bool of_the_warp(int operation) {
    return operation == BAR_SYNC || operation == BAR_WARP_SYNC || (operation >= LDMATRIX && operation <= BALLOT);
  }

  void take_turn(Warp& warp, u64 turn) {
    while (warp.alive && !warp.waiting && !failed && turn--) {
      const u32 here = warp.diverged ? choose(warp) : warp.alive;
      const int place = warp.place;
      const Instruction& i = launch.code[place];
      launch.totals[DIVERGED] += warp.diverged;
      launch.issued[place]++;
      if (++steps > launch.limit) return fail(TOO_LONG, place, LANES * warp.number);
      u32 mask = here;
      if (i.guard >= 0) {
        if (const u32 bad = here & ~warp.defined(i.guard)) report(UNDEFINED_GUARD, place, thread_of(warp, bad));
        mask &= i.negated ? ~warp.predicate(i.guard) : warp.predicate(i.guard);
      }
      launch.lanes[place] += std::popcount(mask);
      if (launch.costs) pass_time(warp, i, place);
      execute(warp, i, place, here, mask);
    }
  }

  void pass_time(Warp& warp, const Instruction& i, int place) {  // issue in order: an instruction waits for its sources
    u64 start = std::max(warp.now, i.guard >= 0 ? warp.ready[i.guard] : 0);
    for (int k = 0; k < i.inputs; k++) start = std::max(start, warp.ready[i.in[k]]);
    warp.now = start + launch.costs[2 * place];
    for (int k = 0; k < i.outputs; k++) warp.ready[i.out[k]] = start + launch.costs[2 * place + 1];
  }

  void execute(Warp& warp, const Instruction& i, int place, u32 here, u32 mask) {
    if (i.operation == BRA) return branch(warp, i.target, place, here, mask);
    if (i.operation == RET) warp.alive &= ~mask;
    if (i.operation == BAR_SYNC) {
      if (mask != ALL)
        return fail(warp.alive == ALL ? BARRIER_DIVERGED : BARRIER_AFTER_EXIT, place, LANES * warp.number);
      warp.waiting = true;
      warp.barrier = place;
    }
    warp.advance(here, place + 1);
    if (mask == 0) return;
    switch (i.operation) {
      case BRA:
      case RET:
      case BAR_SYNC:
        break;
      case BAR_WARP_SYNC:
        check_members(warp, i.in[0], place, mask);
        warp.sync++;
        break;
      case LD_GLOBAL:
      case LD_SHARED:
        load(warp, i, place, mask, i.operation == LD_SHARED);
        break;
      case ST_GLOBAL:
      case ST_SHARED:
        store(warp, i, place, mask, i.operation == ST_SHARED);
        break;
      case LDMATRIX:
      case STMATRIX:
        matrix(warp, i, place, mask);
        break;
      case SHFL_BFLY:
      case SHFL_UP:
      case SHFL_DOWN:
      case SHFL_IDX:
        shuffle(warp, i, place, mask);
        break;
      case REDUX:
      case BALLOT:
        reduce(warp, i, place, mask);
        break;
      case PACK:
        pack(warp, i, mask);
        break;
      case UNPACK:
        unpack(warp, i, mask);
        break;
      default:
        calculate(warp, i, mask);
    }
  }

  void branch(Warp& warp, int target, int place, u32 here, u32 taken) {
    if (taken == here) return warp.advance(here, target);
    if (taken == 0) return warp.advance(here, place + 1);
    if (!warp.diverged) warp.places.fill(place);
    warp.diverged = true;
    warp.advance(taken, target);
    warp.advance(here & ~taken, place + 1);
  }

  // ---- registers
  void calculate(Warp& warp, const Instruction& i, u32 mask) {
    u32 low = ALL, high = ALL;
    for (int k = 0; k < i.inputs; k++) low &= warp.low[i.in[k]], high &= warp.high[i.in[k]];
    if (i.rule == BY_SELECTED) {
      const u32 first = warp.predicate(i.in[2]), known = warp.defined(i.in[2]);
      low = known & ((first & warp.low[i.in[0]]) | (~first & warp.low[i.in[1]]));
      high = known & ((first & warp.high[i.in[0]]) | (~first & warp.high[i.in[1]]));
    } else if (i.rule == BY_LOW) {
      high = low;
    } else if (i.rule == BY_CARRY) {
      high &= low;
    } else if (i.rule == BY_ALL) {
      low = high = low & high;
    }
    OPERATIONS[i.operation](warp.values[i.out[0]], warp.values[i.in[0]], warp.values[i.in[1]], warp.values[i.in[2]],
                            mask, launch.approx);
    warp.define(i.out[0], mask, low, high);
  }

  void set(Warp& warp, int r, u32 mask, const Lanes& values, u32 low, u32 high) {
    for (int lane = 0; lane < LANES; lane++) {
      if (mask >> lane & 1) warp.values[r][lane] = values[lane];
    }
    warp.define(r, mask, low, high);
  }

  void pack(Warp& warp, const Instruction& i, u32 mask) {  // bytes: of a part
    Lanes whole{};
    u32 low = ALL, high = ALL;
    for (int k = 0; k < i.inputs; k++) {
      for (int lane = 0; lane < LANES; lane++) whole[lane] |= warp.values[i.in[k]][lane] << (8 * i.bytes * k);
      (8 * i.bytes * k < 32 ? low : high) &= warp.defined(i.in[k]);
    }
    if (i.bytes * i.inputs <= 4) high = low;
    set(warp, i.out[0], mask, whole, low, high);
  }

  void unpack(Warp& warp, const Instruction& i, u32 mask) {
    const Lanes whole = warp.values[i.in[0]];
    const u32 low = warp.low[i.in[0]], high = i.bytes * i.outputs <= 4 ? low : warp.high[i.in[0]];
    for (int k = 0; k < i.outputs; k++) {
      Lanes part;
      for (int lane = 0; lane < LANES; lane++)
        part[lane] = whole[lane] >> (8 * i.bytes * k) & ((u64(1) << 8 * i.bytes) - 1);
      const u32 known = 8 * i.bytes * k < 32 ? low : high;
      set(warp, i.out[k], mask, part, known, known);
    }
  }

  // ---- instructions of a warp
  void check_members(const Warp& warp, int members, int place, u32 mask) {
    if (u32(warp.values[members][std::countr_zero(mask)]) != mask) report(MEMBERS_DIFFER, place, thread_of(warp, mask));
  }

  void shuffle(Warp& warp, const Instruction& i, int place, u32 mask) {  // in: value, lane, clamp and segment, members
    check_members(warp, i.in[3], place, mask);
    Lanes result{};
    u32 known = 0;
    for (int lane = 0; lane < LANES; lane++) {
      if (!(mask >> lane & 1)) continue;
      const int by = warp.values[i.in[1]][lane] & 31, control = int(warp.values[i.in[2]][lane]);
      const int segment = control >> 8 & 31, last = (lane & segment) | (control & 31 & ~segment);
      int from = (lane & segment) | (by & ~segment);
      if (i.operation == SHFL_UP) from = lane - by;
      if (i.operation == SHFL_DOWN) from = lane + by;
      if (i.operation == SHFL_BFLY) from = lane ^ by;
      if (i.operation == SHFL_UP ? from < last : from > last) from = lane;
      if (!(mask >> from & 1)) report(MEMBERS_DIFFER, place, LANES * warp.number + lane, LANES * warp.number + from);
      result[lane] = u32(warp.values[i.in[0]][from]);
      known |= (warp.defined(i.in[0]) >> from & warp.defined(i.in[1]) >> lane & 1) << lane;
    }
    set(warp, i.out[0], mask, result, known, known);
  }

  void reduce(Warp& warp, const Instruction& i, int place, u32 mask) {  // in: value, members; target: see Reduction
    enum Reduction { ADD, MIN_S32, MAX_S32, MIN_U32, MAX_U32, AND, OR, XOR, MIN_F32, MAX_F32, VOTE };
    check_members(warp, i.in[1], place, mask);
    const Lanes& values = warp.values[i.in[0]];
    u32 result = i.target == VOTE ? 0 : u32(values[std::countr_zero(mask)]);
    for (int lane = i.target == VOTE ? 0 : std::countr_zero(mask) + 1; lane < LANES; lane++) {
      if (!(mask >> lane & 1)) continue;
      const u32 x = u32(values[lane]);
      switch (i.target) {
        case ADD:
          result += x;
          break;
        case MIN_S32:
          result = u32(std::min(s32(result), s32(x)));
          break;
        case MAX_S32:
          result = u32(std::max(s32(result), s32(x)));
          break;
        case MIN_U32:
          result = std::min(result, x);
          break;
        case MAX_U32:
          result = std::max(result, x);
          break;
        case AND:
          result &= x;
          break;
        case OR:
          result |= x;
          break;
        case XOR:
          result ^= x;
          break;
        case MIN_F32:
          result = u32(bits(minimum(f32(result), f32(x))));
          break;
        case MAX_F32:
          result = u32(bits(maximum(f32(result), f32(x))));
          break;
        case VOTE:
          result |= (x & 1) << lane;
          break;
      }
    }
    Lanes every;
    every.fill(result);
    const u32 known = (warp.defined(i.in[0]) & mask) == mask ? ALL : 0;
    set(warp, i.out[0], mask, every, known, known);
  }

  // ---- memory
  struct Place {  // of an access that may be made
    u8* data = nullptr;
    u8* defined = nullptr;
    ShadowMemory* shadow = nullptr;
    u64 byte = 0;  // in its buffer
    int buffer = -1;
  };

  // Where a lane's access goes; data is null, and reported, if it must not be made.
  Place locate(const Warp& warp, u64 address, int bytes, int alignment, bool is_shared, int place, int lane) {
    const int thread = LANES * warp.number + lane;
    Place at;
    if (address % alignment) {
      report(MISALIGNED, place, thread, 0, -1, address);
    } else if (is_shared) {
      if (u64(bytes) <= shared.size() && address <= shared.size() - bytes)
        return {&shared[address], &shared_defined[address], &shared_shadow, address, -1};
      report(OUT_OF_BOUNDS, place, thread, 0, -1, address);
    } else if ((at.buffer = buffer_at(address, bytes)) < 0) {
      report(OUT_OF_BOUNDS, place, thread, 0, -1, address);
    } else {
      const Buffer& buffer = launch.buffers[at.buffer];
      at.byte = address - buffer.base;
      at.data = reinterpret_cast<u8*>(address);
      if (buffer.defined) at.defined = buffer.defined + at.byte, at.shadow = &global[at.buffer];
    }
    return at;
  }

  int buffer_at(u64 address, int bytes) {
    const auto holds = [&](int b) {
      const Buffer& buffer = launch.buffers[b];
      return u64(bytes) <= buffer.size && address - buffer.base <= buffer.size - bytes;  // wraps below the base
    };
    for (int k = 0; k < launch.buffer_count; k++) {
      const int b = (last_buffer + k) % launch.buffer_count;
      if (holds(b)) return last_buffer = b;
    }
    return -1;
  }

  void note(const Warp& warp, const Place& at, int bytes, bool stores, bool same, int place, int lane) {
    if (!launch.races || !at.shadow) return;
    const Access now{program, place, epoch, warp.sync, LANES * warp.number + lane};
    for (int k = 0; k < bytes; k++) {
      Shadow& shadow = (*at.shadow)[at.byte + k];
      const Shadow::Race race = stores ? shadow.store(now) : shadow.load(now);
      if (race.conflict == NO_CONFLICT) continue;
      if (race.both_stores && same) {  // layouts hold some values in several lanes
        launch.totals[SAME_VALUES]++;
        continue;
      }
      report(Kind(RACE_OF_PROGRAMS + race.conflict - BETWEEN_PROGRAMS), place, now.thread, race.before.thread,
             race.before.place, at.byte + k);
    }
  }

  // The lanes of an access with defined addresses, and these.
  u32 addresses(const Warp& warp, const Instruction& i, int place, u32 mask, bool is_shared, Lanes& to) {
    const u32 bad = mask & ~warp.defined(i.in[0]);
    if (bad) report(UNDEFINED_ADDRESS, place, thread_of(warp, bad));
    for (int lane = 0; lane < LANES; lane++) {
      const u64 base = warp.values[i.in[0]][lane];
      to[lane] = (is_shared ? u32(base) : base) + u64(i.immediate);
    }
    return mask & ~bad;
  }

  void load(Warp& warp, const Instruction& i, int place, u32 mask, bool is_shared) {
    Lanes from;
    mask = addresses(warp, i, place, mask, is_shared, from);
    const int bytes = i.bytes * i.outputs;
    count_traffic(place, mask, from, bytes, is_shared);
    for (int lane = 0; lane < LANES; lane++) {
      if (!(mask >> lane & 1)) continue;
      const Place at = locate(warp, from[lane], bytes, bytes, is_shared, place, lane);
      if (!at.data) continue;
      note(warp, at, bytes, false, false, place, lane);
      touch(at, bytes, 1);
      for (int v = 0; v < i.outputs; v++) {
        u64 value = 0;
        std::memcpy(&value, at.data + v * i.bytes, i.bytes);
        const u8* known = at.defined ? at.defined + v * i.bytes : nullptr;
        const u32 defined = !known || std::all_of(known, known + i.bytes, [](u8 x) { return x; }) ? ALL : 0;
        warp.values[i.out[v]][lane] = value;
        warp.define(i.out[v], 1u << lane, defined, defined);
      }
    }
  }

  void store(Warp& warp, const Instruction& i, int place, u32 mask, bool is_shared) {
    Lanes to;
    mask = addresses(warp, i, place, mask, is_shared, to);
    const int count = i.inputs - 1, bytes = i.bytes * count;
    count_traffic(place, mask, to, bytes, is_shared);
    for (int lane = 0; lane < LANES; lane++) {
      if (!(mask >> lane & 1)) continue;
      const Place at = locate(warp, to[lane], bytes, bytes, is_shared, place, lane);
      if (!at.data) continue;
      u8 value[32];
      for (int v = 0; v < count; v++) std::memcpy(value + v * i.bytes, &warp.values[i.in[1 + v]][lane], i.bytes);
      note(warp, at, bytes, true, std::memcmp(value, at.data, bytes) == 0, place, lane);
      touch(at, bytes, 2);
      std::memcpy(at.data, value, bytes);
      for (int v = 0; v < count; v++) {
        const bool known = warp.defined(i.in[1 + v]) >> lane & 1;
        if (!known && !is_shared) report(UNDEFINED_STORE, place, LANES * warp.number + lane, 0, -1, to[lane]);
        if (at.defined) std::memset(at.defined + v * i.bytes, known || !is_shared, i.bytes);
      }
    }
  }

  // Matrices of 8 rows of 16 bytes, whose addresses the lanes give: lane l holds the elements 2 (l mod 4) and the next
  // of row l / 4, or of column l / 4 if transposed (target).
  void matrix(Warp& warp, const Instruction& i, int place, u32 mask) {
    if (mask != ALL) return report(MEMBERS_DIFFER, place, thread_of(warp, mask));
    const bool stores = i.operation == STMATRIX;
    const int matrices = stores ? i.inputs - 1 : i.outputs;
    Lanes rows;
    if (addresses(warp, i, place, mask, true, rows) != ALL) return;
    for (int m = 0; m < matrices; m++) {
      Lanes first;
      std::copy_n(rows.begin() + 8 * m, 8, first.begin());
      count_traffic(place, 0xff, first, 16, true);
      for (int lane = 0; lane < LANES; lane++) {
        const int r = stores ? i.in[1 + m] : i.out[m];
        const Lanes old = warp.values[r];
        u64 value = stores ? old[lane] : 0;
        bool known = !stores || (warp.defined(r) >> lane & 1);
        for (int h = 0; h < 2; h++) {
          const int across = lane % 4 * 2 + h, row = i.target ? across : lane / 4,
                    column = i.target ? lane / 4 : across;
          if (rows[8 * m + row] % 16)
            return report(MISALIGNED, place, LANES * warp.number + lane, 0, -1, rows[8 * m + row]);
          const Place at = locate(warp, rows[8 * m + row] + 2 * column, 2, 2, true, place, lane);
          if (!at.data) return;
          const u16 element = u16(value >> 16 * h);
          note(warp, at, 2, stores, stores && std::memcmp(at.data, &element, 2) == 0, place, lane);
          if (stores) {
            std::memcpy(at.data, &element, 2);
            at.defined[0] = at.defined[1] = known;
          } else {
            value |= u64(at.data[0] | at.data[1] << 8) << 16 * h;
            known &= at.defined[0] && at.defined[1];
          }
        }
        if (!stores) warp.values[r][lane] = value, warp.define(r, 1u << lane, known ? ALL : 0, known ? ALL : 0);
      }
    }
  }

  void touch(const Place& at, int bytes, u8 how) {  // sectors of 32 bytes
    if (at.buffer < 0 || touched[at.buffer].empty()) return;
    for (u64 sector = at.byte / 32; sector <= (at.byte + bytes - 1) / 32; sector++) touched[at.buffer][sector] |= how;
  }

  // Sectors of global memory that the lanes ask for; of shared memory the cycles in which the 32 banks serve them.
  void count_traffic(int place, u32 mask, const Lanes& address, int bytes, bool is_shared) {
    const auto distinct = [](std::vector<u64>& keys) {
      std::sort(keys.begin(), keys.end());
      keys.erase(std::unique(keys.begin(), keys.end()), keys.end());
      return keys.size();
    };
    const int unit = is_shared ? 4 : 32, together = !is_shared || bytes <= 4 ? LANES : bytes == 8 ? 16 : 8;
    for (int first = 0; first < LANES; first += together) {
      std::vector<u64> keys;
      for (int lane = first; lane < first + together; lane++) {
        if (!(mask >> lane & 1)) continue;
        for (u64 key = address[lane] / unit; key <= (address[lane] + bytes - 1) / unit; key++) keys.push_back(key);
      }
      const u64 count = distinct(keys);
      if (!is_shared) {
        launch.sectors[place] += count;
        continue;
      }
      std::array<int, 32> banks{};
      for (u64 key : keys) banks[key % 32]++;
      launch.wavefronts[place] += *std::max_element(banks.begin(), banks.end());
    }
  }

  // ---- findings
  static int thread_of(const Warp& warp, u32 mask) { return LANES * warp.number + std::countr_zero(mask); }

  void report(Kind kind, int place, int thread, int other_thread = 0, int other_place = -1, u64 address = 0) {
    const auto [known, fresh] = seen.try_emplace({kind, place, other_place}, launch.found);
    if (!fresh) {
      launch.findings[known->second].count++;
    } else if (launch.found < launch.capacity) {
      launch.findings[launch.found++] = {kind, place, other_place, program, thread, other_thread, address, 1};
    } else {
      seen.erase(known);
    }
  }

  void fail(Kind kind, int place, int thread) {
    report(kind, place, thread);
    failed = true;
  }

  Launch& launch;
  std::mt19937 random;
  int program = 0, last_buffer = 0;
  u32 epoch = 0;
  u64 steps = 0;
  bool failed = false;
  std::vector<Warp> warps;
  std::vector<u8> shared, shared_defined;
  ShadowMemory shared_shadow;
  std::vector<ShadowMemory> global;      // of each buffer
  std::vector<std::vector<u8>> touched;  // sectors of each buffer that were read (1) and written (2)
  std::map<std::tuple<int, int, int>, int> seen;
};

}  // namespace

extern "C" void run(Launch* launch) { Machine(*launch).run(); }
