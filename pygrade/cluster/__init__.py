"""Many machines: pygrade's work on Ray. Nothing else in the package imports ray."""
