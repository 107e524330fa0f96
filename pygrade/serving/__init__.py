"""A trained policy or pipeline in front of a user."""
