// Runs the tests of one executable. Exit status: 0 all passed, 1 some failed, 77 the machine lacks the instruction set.
#include <cstdlib>
#include <string_view>

#include "check.hpp"
#include "pygrade/isa.hpp"

int main() {
  using namespace pygrade;
  const char* variable = std::getenv("PYGRADE_ISA");
  const std::string wanted = variable == nullptr ? "" : variable;
  bool available = wanted.empty();
  for (Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512}) available |= isa_name(isa) == wanted && isa_available(isa);
  if (!available) {
    std::fprintf(stderr, "skipped: this machine does not run %s\n", wanted.c_str());
    return 77;
  }
  for (const tests::Test& test : tests::all_tests()) {
    const int before = tests::failures;
    test.run();
    std::printf("%-6s %s\n", tests::failures == before ? "ok" : "FAILED", test.name);
  }
  if (tests::all_tests().empty()) {
    std::fprintf(stderr, "no test is registered\n");
    return 1;
  }
  if (!wanted.empty() &&
      isa_name(active_isa()) != wanted) {  // proves that the tests ran on the instruction set asked for
    std::fprintf(stderr, "ran %s instead of %s\n", std::string(isa_name(active_isa())).c_str(), wanted.c_str());
    return 1;
  }
  return tests::failures == 0 ? 0 : 1;
}
