"""The whole ranking system, stage by stage, from raw events to pages: ``pygrade pipeline`` and ``pygrade serve-check``.

`run.run_pipeline` is the list of stages and `stages` runs each of them once; `models`, `policy_log`, `candidates` and
`judge` are what they do, `report` and `pictures` what a reader sees of it. `check.serve_check` replays requests offline
and online. `pygrade.serving.pipeline` serves the result. Nothing below this package knows of it.
"""
