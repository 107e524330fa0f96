// Figures of this process, by the names that Prometheus' own clients use.
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "service/registry.hpp"

namespace pygrade::inline v0_2::detail {
namespace {
// When this process began, in seconds since 1970: the 22nd field of its record, in ticks since the machine started.
double start_of_process() {
  std::ifstream process("/proc/self/stat"), machine("/proc/stat");
  std::string line, word;
  std::getline(process, line);
  std::istringstream fields(line.substr(line.rfind(')') + 1));  // a name may hold blanks
  double ticks = 0.0, booted = 0.0;
  for (int field = 3; field < 22; ++field) fields >> word;
  fields >> ticks;
  while (machine >> word && word != "btime") {
  }
  machine >> booted;
  return ticks == 0.0 || booted == 0.0 ? 0.0 : booted + ticks / static_cast<double>(::sysconf(_SC_CLK_TCK));
}
}  // namespace

void add_process_figures(Figures& figures) {
  if (timespec spent{}; ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &spent) == 0)
    figures.set("process_cpu_seconds_total",
                static_cast<double>(spent.tv_sec) + 1e-9 * static_cast<double>(spent.tv_nsec));
  double pages = 0.0, resident = 0.0;
  if (std::ifstream("/proc/self/statm") >> pages >> resident) {
    const auto page = static_cast<double>(::sysconf(_SC_PAGESIZE));
    figures.set("process_virtual_memory_bytes", pages * page);
    figures.set("process_resident_memory_bytes", resident * page);
  }
  std::error_code error;
  double open = -1.0;  // the directory itself is one of them
  for (std::filesystem::directory_iterator file("/proc/self/fd", error); !error && file != end(file);
       file.increment(error))
    ++open;
  if (!error) figures.set("process_open_fds", open);  // no report may fail for it
  if (rlimit limit{}; ::getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
    figures.set("process_max_fds", static_cast<double>(limit.rlim_cur));
  static const double start = start_of_process();
  if (start > 0.0) figures.set("process_start_time_seconds", start);
}
}  // namespace pygrade::inline v0_2::detail
