/* rank POLICY_DIR: ranks 40 made-up candidates by the C ABI and prints the page: a candidate and the bits of its score
 * a line. C90. */
#include <pygrade/pygrade.h>
#include <stdio.h>
#include <string.h>

enum { N = 40, K = 10, MOST = 64 }; /* a policy has at most 64 tasks */

int main(int argc, char** argv) {
  static float context[1024], prices[N], predictions[N * MOST], scores[K];
  static int32_t indices[K];
  char error[256] = "";
  pygrade_ranker_options options;
  pygrade_request request;
  pygrade_page page;
  pygrade_ranker* ranker = NULL;
  size_t i;

  memset(&options, 0, sizeof options);
  memset(&request, 0, sizeof request);
  memset(&page, 0, sizeof page);
  options.size = sizeof options;
  request.size = sizeof request;
  page.size = sizeof page;
  options.error = request.error = error;
  options.error_size = request.error_size = sizeof error;
  if (argc != 2 || pygrade_ranker_load(argv[1], &options, &ranker) != PYGRADE_OK) {
    fprintf(stderr, "%s\n", argc == 2 ? error : "usage: rank POLICY_DIR");
    return 2;
  }
  request.candidates = N;
  request.features = pygrade_ranker_num_features(ranker);
  request.tasks = pygrade_ranker_num_tasks(ranker);
  for (i = 0; i < request.features; ++i) context[i] = 0.5f;
  for (i = 0; i < N; ++i) prices[i] = (float)(1 + i % 8);
  for (i = 0; i < N * request.tasks; ++i) predictions[i] = (float)(1 + i * 7 % 50) / 64;
  request.context = context;
  request.item_values = prices;
  request.predictions = predictions;
  page.k = K;
  page.values = scores;
  page.indices = indices;
  if (pygrade_ranker_rank(ranker, &request, &page) != PYGRADE_OK) {
    fprintf(stderr, "%s\n", error);
    return 2;
  }
  for (i = 0; i < K; ++i) {
    uint32_t bits;
    memcpy(&bits, &scores[i], sizeof bits);
    printf("%d %08lx\n", (int)indices[i], (unsigned long)bits);
  }
  pygrade_ranker_free(ranker);
  return 0;
}
