// Figures of this process, by the names that Prometheus' own clients use.
#include <dirent.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <cstdio>
#include <ctime>

#include "service/registry.hpp"

namespace pygrade::inline v0_2::detail {

namespace {

// When this process began, in seconds since 1970: the 22nd field of its record, in ticks since the machine started.
double start_of_process() {
  unsigned long long ticks = 0;
  long long booted = 0;
  char line[4096];
  if (std::FILE* file = std::fopen("/proc/self/stat", "r")) {
    const std::size_t size = std::fread(line, 1, sizeof line - 1, file);
    std::fclose(file);
    line[size] = '\0';
    const char* at = line + std::string_view(line, size).rfind(')') + 1;  // a name may hold blanks
    for (int field = 2; field < 22 && *at != '\0'; ++at) field += *at == ' ' && at[1] != ' ';
    std::sscanf(at, "%llu", &ticks);
  }
  if (std::FILE* file = std::fopen("/proc/stat", "r")) {
    while (std::fgets(line, sizeof line, file) != nullptr && std::sscanf(line, "btime %lld", &booted) != 1) {
    }
    std::fclose(file);
  }
  if (ticks == 0 || booted == 0) return 0.0;
  return static_cast<double>(booted) + static_cast<double>(ticks) / static_cast<double>(::sysconf(_SC_CLK_TCK));
}

}  // namespace

void add_process_figures(Figures& figures) {
  if (timespec spent{}; ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &spent) == 0)
    figures.set("process_cpu_seconds_total",
                static_cast<double>(spent.tv_sec) + 1e-9 * static_cast<double>(spent.tv_nsec));
  if (std::FILE* file = std::fopen("/proc/self/statm", "r")) {
    double pages = 0.0, resident = 0.0;
    const bool whole = std::fscanf(file, "%lf %lf", &pages, &resident) == 2;
    std::fclose(file);
    const auto page = static_cast<double>(::sysconf(_SC_PAGESIZE));
    if (whole) figures.set("process_virtual_memory_bytes", pages * page);
    if (whole) figures.set("process_resident_memory_bytes", resident * page);
  }
  if (DIR* folder = ::opendir("/proc/self/fd")) {
    double count = -3.0;  // ".", ".." and the folder itself
    while (::readdir(folder) != nullptr) ++count;
    ::closedir(folder);
    figures.set("process_open_fds", count);
  }
  if (rlimit limit{}; ::getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
    figures.set("process_max_fds", static_cast<double>(limit.rlim_cur));
  static const double start = start_of_process();
  if (start > 0.0) figures.set("process_start_time_seconds", start);
}

}  // namespace pygrade::inline v0_2::detail
