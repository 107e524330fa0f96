/* rank POLICY_DIR REQUESTS PAGES: ranks every request of a file by the C ABI and writes the pages, both in the format
 * of examples/request_file.py. C90, for a little-endian machine. */
#include <pygrade/pygrade.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CONTEXT = 1, MASK = 2, BOOST_MUL = 4, BOOST_ADD = 8, GROUPS = 16, SCENARIO = 32, EXPLORE = 64, VALUES = 128 };
enum { ITEM_VALUES = 256, NAMES = 512, MOST = 1024 };

/* The file of requests, and where it is read. Its arrays are ranked where they lie. */
static const char* at;
static const char* end;

static const void* take(size_t size) {
  const char* taken = at;
  size = (size + 3) / 4 * 4;
  if (size > (size_t)(end - at)) {
    fprintf(stderr, "the file of requests ends early\n");
    exit(2);
  }
  at += size;
  return taken;
}

static const void* take_if(int wanted, size_t size) { return wanted ? take(size) : NULL; }

static uint32_t number(void) { return *(const uint32_t*)take(4); }

static void read_file(const char* path) {
  FILE* file = fopen(path, "rb");
  long size = -1;
  char* content = NULL;
  if (file != NULL && fseek(file, 0, SEEK_END) == 0) size = ftell(file);
  if (size >= 0) content = malloc((size_t)size + 1);
  if (content == NULL || fseek(file, 0, SEEK_SET) != 0 || fread(content, 1, (size_t)size, file) != (size_t)size) {
    fprintf(stderr, "%s can't be read\n", path);
    exit(2);
  }
  fclose(file);
  at = content;
  end = content + size;
}

/* The request at `at`; its k and the seed of its draw come separately. Names become ids in one array. */
static pygrade_request next_request(uint32_t features, uint32_t tasks, uint32_t* k) {
  pygrade_request request;
  uint32_t parts, seed, offset;
  memset(&request, 0, sizeof request);
  request.size = sizeof request;
  request.features = features;
  request.tasks = tasks;
  request.candidates = number();
  *k = number();
  parts = number();
  request.group_columns = number();
  request.scenario_size = number();
  seed = number();
  offset = number();
  if (parts & EXPLORE) {
    request.flags = PYGRADE_REQUEST_EXPLORE | PYGRADE_REQUEST_DRAW;
    request.draw = (uint64_t)seed << 32 | offset;
  }
  request.context = take_if(parts & CONTEXT, features * sizeof(float));
  request.predictions = take(request.candidates * tasks * sizeof(float));
  request.mask = take_if(parts & MASK, request.candidates);
  request.boost_mul = take_if(parts & BOOST_MUL, request.candidates * sizeof(float));
  request.boost_add = take_if(parts & BOOST_ADD, request.candidates * sizeof(float));
  request.groups = take_if(parts & GROUPS, request.candidates * request.group_columns * sizeof(int32_t));
  request.caps = take_if(parts & GROUPS, request.group_columns * sizeof(int32_t));
  request.values = take_if(parts & VALUES, tasks * sizeof(float));
  request.item_values = take_if(parts & ITEM_VALUES, request.candidates * sizeof(float));
  if (parts & NAMES) {
    static int64_t ids[MOST];
    const char* names = take(request.candidates * 8);
    size_t i;
    for (i = 0; i < request.candidates && i < MOST; ++i) ids[i] = pygrade_stable_id(names + 8 * i, 8);
    request.item_ids = ids;
  }
  request.scenario = take_if(parts & SCENARIO, request.scenario_size);
  return request;
}

static void write_page(const pygrade_page* page, uint32_t tasks, FILE* file) {
  uint32_t head[7];
  head[0] = (uint32_t)page->k;
  head[1] = (uint32_t)page->filled;
  head[2] = page->fallback != PYGRADE_FALLBACK_NONE;
  head[3] = (uint32_t)page->explored;
  head[4] = (uint32_t)(page->seed >> 32);
  head[5] = (uint32_t)page->seed;
  head[6] = (uint32_t)page->missing_items;
  fwrite(head, sizeof head, 1, file);
  fwrite(&page->mixture_weight, sizeof page->mixture_weight, 1, file);
  fwrite(page->policy_version, 12, 1, file);
  fwrite(page->values, sizeof(float), page->k, file);
  fwrite(page->indices, sizeof(int32_t), page->k, file);
  fwrite(page->weights, sizeof(float), tasks, file);
  fwrite(page->concentration, sizeof(float), tasks, file);
}

int main(int argc, char** argv) {
  static float values[1024], weights[64], concentration[64]; /* a policy has at most 64 tasks */
  static int32_t indices[1024];
  char error[256] = "";
  pygrade_ranker_options options;
  pygrade_ranker* ranker = NULL;
  uint32_t head[2], count, features, tasks, i;
  FILE* file;

  if (argc != 4) {
    fprintf(stderr, "usage: rank POLICY_DIR REQUESTS PAGES\n");
    return 2;
  }
  memset(&options, 0, sizeof options);
  options.size = sizeof options;
  options.error = error;
  options.error_size = sizeof error;
  if (pygrade_ranker_load(argv[1], &options, &ranker) != PYGRADE_OK) {
    fprintf(stderr, "%s\n", error);
    return 2;
  }
  read_file(argv[2]);
  if (memcmp(take(8), "PGREQ001", 8) != 0) return 2;
  count = number();
  features = number();
  tasks = number();
  file = fopen(argv[3], "wb");
  if (file == NULL) {
    fprintf(stderr, "%s can't be written\n", argv[3]);
    return 2;
  }
  head[0] = count;
  head[1] = tasks;
  fwrite("PGPAG001", 8, 1, file);
  fwrite(head, sizeof head, 1, file);
  for (i = 0; i < count; ++i) {
    uint32_t k;
    pygrade_request request = next_request(features, tasks, &k);
    pygrade_page page;
    memset(&page, 0, sizeof page);
    page.size = sizeof page;
    page.k = k < 1024 ? k : 1024;
    page.values = values;
    page.indices = indices;
    page.weights = weights;
    page.concentration = concentration;
    request.error = error;
    request.error_size = sizeof error;
    if (pygrade_ranker_rank(ranker, &request, &page) != PYGRADE_OK) {
      fprintf(stderr, "request %lu: %s\n", (unsigned long)i, error);
      return 2;
    }
    write_page(&page, tasks, file);
  }
  if (fclose(file) != 0) return 2;
  pygrade_ranker_free(ranker);
  printf("C: %lu pages by pygrade %s\n", (unsigned long)count, pygrade_version());
  return 0;
}
