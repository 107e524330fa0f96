/* Launches a kernel made by `pygrade aot` through the CUDA driver API. Needs no CUDA header and no Python:

     pygrade aot --arch sm_90 --only entropy-T8 --out aot
     cc -std=c11 launch_aot.c -o launch_aot -ldl -lm
     ./launch_aot aot/entropy-T8.entropy_kernel.sm_90.cubin _entropy_kernel 32 0

   The arguments are `file`, `kernel`, `threads` and `shared_bytes` of the manifest. The kernel computes the entropy [B]
   of Dirichlets with concentrations [B, T] and its gradient [B, T], one program per row. The program checks that the
   entropy at a concentration of all ones is -log((T - 1)!). Exit code 77: no driver or no GPU. */
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

typedef int Result; /* CUresult: 0 is success */
typedef unsigned long long DevicePointer;

static void* driver;

static void* symbol(const char* name) {
  void* found = dlsym(driver, name);
  if (found == NULL) {
    fprintf(stderr, "libcuda has no %s\n", name);
    exit(1);
  }
  return found;
}

static void check(Result result, const char* what) {
  if (result != 0) {
    fprintf(stderr, "%s gives error %d\n", what, result);
    exit(1);
  }
}

/* Declares the driver's function `name` as a pointer of the same name. */
#define DRIVER(name, symbol_name, ...) \
  Result (*name)(__VA_ARGS__);         \
  *(void**)&name = symbol(symbol_name)

int main(int count, char** arguments) {
  if (count != 5) {
    fprintf(stderr, "usage: launch_aot CUBIN KERNEL THREADS SHARED_BYTES\n");
    return 2;
  }
  driver = dlopen("libcuda.so.1", RTLD_NOW);
  if (driver == NULL) {
    fprintf(stderr, "no libcuda.so.1: %s\n", dlerror());
    return 77;
  }
  DRIVER(init, "cuInit", unsigned);
  DRIVER(device_get, "cuDeviceGet", int*, int);
  DRIVER(retain, "cuDevicePrimaryCtxRetain", void**, int);
  DRIVER(set_current, "cuCtxSetCurrent", void*);
  DRIVER(load, "cuModuleLoad", void**, const char*);
  DRIVER(get_function, "cuModuleGetFunction", void**, void*, const char*);
  DRIVER(allocate, "cuMemAlloc_v2", DevicePointer*, size_t);
  DRIVER(to_device, "cuMemcpyHtoD_v2", DevicePointer, const void*, size_t);
  DRIVER(to_host, "cuMemcpyDtoH_v2", void*, DevicePointer, size_t);
  DRIVER(launch, "cuLaunchKernel", void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*,
         void**, void**);
  DRIVER(synchronize, "cuCtxSynchronize", void);
  if (init(0) != 0) {
    fprintf(stderr, "the driver finds no GPU\n");
    return 77;
  }
  int device = 0;
  void *context = NULL, *module = NULL, *function = NULL;
  check(device_get(&device, 0), "cuDeviceGet");
  check(retain(&context, device), "cuDevicePrimaryCtxRetain");
  check(set_current(context), "cuCtxSetCurrent");
  check(load(&module, arguments[1]), "cuModuleLoad");
  check(get_function(&function, module, arguments[2]), "cuModuleGetFunction");

  enum { ROWS = 3, TASKS = 8 };
  float ones[ROWS * TASKS], entropy[ROWS];
  for (int i = 0; i < ROWS * TASKS; ++i) ones[i] = 1.0f;
  DevicePointer concentration = 0, result = 0, gradient = 0, none = 0;
  check(allocate(&concentration, sizeof ones), "cuMemAlloc");
  check(allocate(&result, sizeof entropy), "cuMemAlloc");
  check(allocate(&gradient, sizeof ones), "cuMemAlloc");
  check(to_device(concentration, ones, sizeof ones), "cuMemcpyHtoD");

  /* The manifest's `arguments` in order; its two scratch pointers are null. */
  int tasks = TASKS;
  void* values[] = {&concentration, &result, &gradient, &tasks, &none, &none};
  unsigned threads = (unsigned)atoi(arguments[3]), shared = (unsigned)atoi(arguments[4]);
  check(launch(function, ROWS, 1, 1, threads, 1, 1, shared, NULL, values, NULL), "cuLaunchKernel");
  check(synchronize(), "cuCtxSynchronize");
  check(to_host(entropy, result, sizeof entropy), "cuMemcpyDtoH");

  double expected = -lgamma(TASKS);
  for (int row = 0; row < ROWS; ++row) {
    printf("row %d: entropy %.7g, expected %.7g\n", row, (double)entropy[row], expected);
    if (!(fabs(entropy[row] - expected) < 1e-5)) return 1;
  }
  return 0;
}
