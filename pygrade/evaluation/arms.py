"""Names of the arms that evaluations and reports compare."""

EXPECTED_VALUE, EXPECTED_VALUE_CALIBRATED = "expected value", "expected value, calibrated"
EQUAL, PRODUCTION, LOGGED_ORDER = "equal weights", "production", "logged order"
STATIC = "best static"  # in the policy's form
LINEAR, Z_LINEAR, Z_LOG, LOG1P = (f"best static, {form}" for form in ("linear", "z-linear", "z-log", "log1p"))
STAGE1, GRADE, SERVED = "stage 1", "GRADE", "served"
