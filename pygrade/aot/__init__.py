"""GPU binaries compiled ahead of time."""
