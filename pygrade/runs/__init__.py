"""A training as a program starts it: from a table, or a log, to a ranker with its verdict and its page."""
