#include <cstdlib>
#include <stdexcept>

#include "check.hpp"
#include "isa.hpp"

using namespace pygrade;

namespace {
struct Table {
  int level;
};
}  // namespace

TEST(baseline_is_always_available) { CHECK(isa_available(Isa::baseline)); }

TEST(names_are_those_of_the_environment_variable) {
  CHECK_EQUAL(isa_name(Isa::baseline), "baseline");
  CHECK_EQUAL(isa_name(Isa::avx2), "avx2");
  CHECK_EQUAL(isa_name(Isa::avx512), "avx512");
}

// The only tests that may change the environment: they run in one thread, before the choice is final.
TEST(an_unknown_choice_is_refused_and_does_not_stick) {
  setenv("PYGRADE_ISA", "sse9", 1);
  CHECK_THROWS(std::invalid_argument, "PYGRADE_ISA is 'sse9'; expected baseline, avx2 or avx512", active_isa());
  setenv("PYGRADE_ISA", "baseline", 1);
  CHECK(active_isa() == Isa::baseline);
}

TEST(the_choice_is_made_once_and_selects_the_table) {
  setenv("PYGRADE_ISA", "avx2", 1);
  CHECK(active_isa() == Isa::baseline);
  const Table tables[] = {{0}, {1}, {2}};
  CHECK_EQUAL(detail::select_kernels(tables[0], tables[1], tables[2]).level, 0);
}
