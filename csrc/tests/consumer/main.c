/* Uses the C ABI as a caller in another language would; exits 0 where it works. */
#include <pygrade/pygrade.h>
#include <stdio.h>

int main(void) {
  pygrade_ranker* ranker = NULL;
  if (pygrade_abi_version() != PYGRADE_ABI_VERSION) return 1;
  printf("pygrade %s, %s\n", pygrade_version(), pygrade_isa());
  if (pygrade_ranker_load("no-such-directory", NULL, &ranker) != PYGRADE_NOT_FOUND) return 2;
  printf("as expected: %s\n", pygrade_last_error());
  if (ranker != NULL || pygrade_last_error()[0] == '\0') return 3;
  pygrade_ranker_free(ranker);
  return 0;
}
