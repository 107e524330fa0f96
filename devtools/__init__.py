"""What tests and bench share; never part of the wheel."""
