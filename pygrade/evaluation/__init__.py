"""Evaluation of a policy: replay of logged pages, off-policy estimates, A/B tests."""
