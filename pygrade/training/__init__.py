"""Training of a policy: reward, static weights, both stages, checkpoints, online learning."""
