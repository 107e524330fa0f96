"""The simulated marketplace: its log, its A/B tests, the demo."""
