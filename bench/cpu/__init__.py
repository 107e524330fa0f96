"""Times every op on one processor against what a user would call instead."""
