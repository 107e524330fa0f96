"""Worlds that share no code with the simulator that pygrade was developed on, and what `train` leaves in them.

`pages` is how users browse, `shops`, `market` and `nulls` are the worlds, `evaluate` trains and judges by the exact
truth, `report` compares with the targets of docs/STUDY.md.
"""
