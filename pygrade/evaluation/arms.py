"""Names of the arms that evaluations and reports compare."""

EQUAL, PRODUCTION, STATIC, LINEAR = "equal weights", "production", "best static", "best static, linear"
STAGE1, GRADE = "stage 1", "GRADE"
