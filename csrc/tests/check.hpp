// The checks of the C++ tests. A TEST registers itself; main.cpp runs all of an executable and counts failures.
#pragma once

#include <cmath>
#include <cstdio>
#include <functional>
#include <span>
#include <sstream>
#include <string>
#include <vector>

namespace pygrade::inline v0_2::tests {
struct Test {
  const char* name;
  void (*run)();
};

inline std::vector<Test>& all_tests() {
  static std::vector<Test> tests;
  return tests;
}

struct Registration {
  Registration(const char* name, void (*run)()) { all_tests().push_back({name, run}); }
};

inline int failures = 0;

inline void report(bool passed, const char* file, int line, const std::string& text) {
  if (passed) return;
  ++failures;
  std::fprintf(stderr, "%s:%d: %s\n", file, line, text.c_str());
}

template <class T>
std::string text(const T& value) {
  std::ostringstream out;
  out.precision(17);
  if constexpr (requires { std::span(value); } && !requires { std::string(value); }) {
    out << "{";
    for (const auto& item : value) out << " " << +item;
    out << " }";
  } else if constexpr (requires { +value; }) {
    out << +value;
  } else {
    out << value;
  }
  return out.str();
}

template <class A, class B>
void check_equal(const A& actual, const B& expected, const char* file, int line, const char* expression) {
  const bool same = actual == expected;
  report(same, file, line,
         same ? "" : std::string(expression) + " is " + text(actual) + ", expected " + text(expected));
}

inline void check_near(double actual, double expected, double tolerance, const char* file, int line,
                       const char* expression) {
  const bool near = actual == expected || std::abs(actual - expected) <= tolerance;
  report(near, file, line,
         near ? "" : std::string(expression) + " is " + text(actual) + ", expected " + text(expected));
}

template <class Exception>
void check_throws(const std::function<void()>& call, const std::string& part, const char* file, int line,
                  const char* expression) {
  try {
    call();
  } catch (const Exception& error) {
    const std::string message = error.what();
    report(message.find(part) != std::string::npos, file, line,
           std::string(expression) + " threw '" + message + "', expected it to say '" + part + "'");
    return;
  }
  report(false, file, line, std::string(expression) + " did not throw");
}
}  // namespace pygrade::inline v0_2::tests

#define TEST(name)                                                               \
  static void name();                                                            \
  static const ::pygrade::tests::Registration name##_registration(#name, &name); \
  static void name()

#define CHECK(condition) ::pygrade::tests::report(static_cast<bool>(condition), __FILE__, __LINE__, #condition)
#define CHECK_EQUAL(actual, expected) ::pygrade::tests::check_equal((actual), (expected), __FILE__, __LINE__, #actual)
#define CHECK_NEAR(actual, expected, tolerance) \
  ::pygrade::tests::check_near((actual), (expected), (tolerance), __FILE__, __LINE__, #actual)
#define CHECK_THROWS(Exception, part, call) \
  ::pygrade::tests::check_throws<Exception>([&] { (void)(call); }, (part), __FILE__, __LINE__, #call)
