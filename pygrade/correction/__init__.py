"""The correction: predictions moved by what a log shows of them, and the gate that accepts it."""
