"""The whole ranking system, stage by stage, from raw events to pages: ``pygrade pipeline``, ``--check``.

`run.run_pipeline` is the list of stages, and `stages.Runner` runs each of them once. A module has the work of each:
`features` (with events and leaks), `prerank`, `mtl`, `logs` (with `policy_log` and `candidates`), `policy` (with the
judgment) and `publish`; `pygrade.console.pipeline` writes the report. `check.serve_check` ranks requests
offline and online. `pygrade.serving.pipeline` serves the result. Nothing below this package knows of it.
"""
