"""How good a policy is: replay of logged pages, off-policy estimates, A/B tests."""
