"""The whole ranking system, stage by stage, from raw events to pages: ``pygrade pipeline`` and ``pygrade serve-check``.

`run.run_pipeline` is the list of stages and `stages` runs each of them once; `models`, `policy_log`, `candidates` and
`judge` do their work, `pygrade.console.pipeline` writes the report. `check.serve_check` ranks requests offline and
online. `pygrade.serving.pipeline` serves the result. Nothing below this package knows of it.
"""
