/* Loads the shared library argv[1] at run time, ranks by the policy in argv[2] in many threads of the library, closes
 * it, and does it all again: dlclose leaves the library in place, as pygrade.h says. Exits 0 where it works. */
#include <dlfcn.h>
#include <pygrade/pygrade.h>
#include <stdio.h>
#include <string.h>

enum { COUNT = 2000, K = 3 };

static pygrade_request requests[COUNT];
static pygrade_page pages[COUNT];
static float values[COUNT][K];
static int32_t indices[COUNT][K];

/* POSIX, not C, says that an object pointer may hold a function. */
static void symbol(void* library, const char* name, void* function) {
  void* address = dlsym(library, name);
  memcpy(function, &address, sizeof address);
}

static int rank(void* library, const char* directory) {
  pygrade_status (*load)(const char*, const pygrade_ranker_options*, pygrade_ranker**);
  pygrade_status (*rank_batch)(pygrade_ranker*, const pygrade_batch*);
  void (*release)(pygrade_ranker*);
  static const float context[] = {0.5f}, predictions[] = {0.9f, 0.1f, 0.2f, 0.3f, 0.5f, 0.5f};
  pygrade_batch batch = {sizeof batch, requests, pages, COUNT, 4, 0, NULL, 0};
  pygrade_ranker* ranker = NULL;
  char error[256] = "";
  int i;
  symbol(library, "pygrade_ranker_load", &load);
  symbol(library, "pygrade_ranker_rank_batch", &rank_batch);
  symbol(library, "pygrade_ranker_free", &release);
  for (i = 0; i < COUNT; ++i) {
    memset(&requests[i], 0, sizeof requests[i]);
    memset(&pages[i], 0, sizeof pages[i]);
    requests[i].size = sizeof requests[i];
    requests[i].context = context;
    requests[i].features = 1;
    requests[i].predictions = predictions;
    requests[i].candidates = 3;
    requests[i].tasks = 2;
    pages[i].size = sizeof pages[i];
    pages[i].k = K;
    pages[i].values = values[i];
    pages[i].indices = indices[i];
  }
  batch.error = error;
  batch.error_size = sizeof error;
  if (load(directory, NULL, &ranker) != PYGRADE_OK) return 1;
  if (rank_batch(ranker, &batch) != PYGRADE_OK) {
    fprintf(stderr, "%s\n", error);
    return 2;
  }
  for (i = 0; i < COUNT; ++i)
    if (pages[i].filled != 3 || memcmp(values[i], values[0], sizeof values[i]) != 0) return 3;
  release(ranker);
  return 0;
}

int main(int argc, char** argv) {
  int round;
  if (argc != 3) return 10;
  for (round = 0; round < 3; ++round) {
    void* library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    int status;
    if (library == NULL) {
      fprintf(stderr, "%s\n", dlerror());
      return 11;
    }
    status = rank(library, argv[2]);
    if (status != 0) return status;
    if (dlclose(library) != 0) return 12;
    library = dlopen(argv[1], RTLD_NOW | RTLD_NOLOAD);
    if (library == NULL) return 13; /* it was unloaded */
    dlclose(library);
  }
  return 0;
}
