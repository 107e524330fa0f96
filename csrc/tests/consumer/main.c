/* Uses the C ABI as a caller in another language would, with the policy in the directory argv[1]: ranks a request and
 * prints the rows of its log. Exits 0 where it works. */
#include <pygrade/pygrade.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char** argv) {
  const float context[] = {0.5f};                                   /* one feature */
  const float predictions[] = {0.9f, 0.1f, 0.2f, 0.3f, 0.5f, 0.5f}; /* three candidates, two tasks */
  const uint8_t mask[] = {1, 0, 1};
  const int64_t items[] = {70, 80, 90};
  float values[3], weights[2], concentration[2];
  int32_t indices[3];
  char text[2048];
  size_t length = 0;
  pygrade_ranker* ranker = NULL;
  pygrade_request request = PYGRADE_INIT(pygrade_request);
  pygrade_page page = PYGRADE_INIT(pygrade_page);
  pygrade_log_ids ids = PYGRADE_INIT(pygrade_log_ids);
  pygrade_counters counters = PYGRADE_INIT(pygrade_counters);

  if (argc != 2 || pygrade_abi_version() != PYGRADE_ABI_VERSION) return 1;
  printf("pygrade %s, %s\n", pygrade_version(), pygrade_isa());
  if (pygrade_ranker_load("no-such-directory", NULL, &ranker) != PYGRADE_NOT_FOUND) return 2;
  printf("as expected: %s\n", pygrade_last_error());
  if (ranker != NULL || pygrade_last_error()[0] == '\0') return 3;

  if (pygrade_ranker_load(argv[1], NULL, &ranker) != PYGRADE_OK) return 4;
  if (pygrade_ranker_num_tasks(ranker) != 2 || strcmp(pygrade_ranker_feature(ranker, 0), "age") != 0) return 5;
  request.context = context;
  request.features = 1;
  request.predictions = predictions;
  request.candidates = 3;
  request.tasks = 2;
  request.mask = mask;
  request.flags = PYGRADE_REQUEST_EXPLORE;
  page.k = 3;
  page.values = values;
  page.indices = indices;
  page.weights = weights;
  page.concentration = concentration;
  if (pygrade_ranker_rank(ranker, &request, &page) != PYGRADE_OK) return 6;
  if (page.filled != 2 || !page.explored || indices[0] + indices[1] != 2 || indices[2] != -1) return 7;

  ids.request_id = "request-1";
  ids.request_id_size = strlen(ids.request_id);
  ids.item_id = items;
  if (pygrade_ranker_log_header(ranker, NULL, 0, &length, NULL, 0) != PYGRADE_BUFFER_TOO_SMALL || length == 0) return 8;
  if (pygrade_ranker_log_header(ranker, text, sizeof text, &length, NULL, 0) != PYGRADE_OK) return 9;
  fwrite(text, 1, length, stdout);
  if (pygrade_ranker_log_rows(ranker, &request, &page, &ids, text, sizeof text - 1, &length) != PYGRADE_OK) return 10;
  text[length] = '\0';
  fputs(text, stdout);
  if (strncmp(text, "request-1,", 10) != 0 || strstr(text, ",90,") == NULL) return 11;

  if (pygrade_ranker_counters(ranker, &counters, NULL, 0) != PYGRADE_OK || counters.requests != 1) return 12;
  pygrade_ranker_free(ranker);
  return 0;
}
