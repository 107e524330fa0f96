"""Data sources: one loader per public data set, and the synthetic marketplace."""
