"""Names of the arms that evaluations and reports compare."""

EXPECTED_VALUE, EXPECTED_VALUE_CALIBRATED = "expected value", "expected value, calibrated"
CORRECTED_EXPECTED_VALUE = "corrected expected value"  # of predictions that the policy's correction corrected
EQUAL, PRODUCTION, LOGGED_ORDER = "equal weights", "production", "logged order"
PRODUCTION_SCORE = "production score"  # what production ranked by, of the log; a request to a service may have it
STATIC = "best static"  # in the policy's form
LEAST_SQUARES = "best static, least squares"
LINEAR, Z_LINEAR, Z_LOG, LOG1P = (f"best static, {form}" for form in ("linear", "z-linear", "z-log", "log1p"))
# The start of the trained policy, the trained policy (after stage 2), and what the artifact ranks by. A policy whose
# training is not beside it is one of the first two, but nothing says which.
STAGE1, GRADE, SERVED, ALONE = "stage 1", "GRADE", "served", "policy alone"
FOLDERS = {STAGE1: "stage1", GRADE: "stage2"}  # what each of GRADE's stages leaves, and its directory in a run
