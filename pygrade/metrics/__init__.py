"""Metrics. Exact: `roc` (AUC, GAUC), `by_task` (log-loss, calibration error), with `intervals` over users. Streamed, in
bins of the logit: `streamed`.
"""
