"""The fusion policy: from what is known about a request to a Dirichlet distribution over its fusion weights."""

from pygrade.policy.network import FORMAT_VERSION, FusionPolicy, PolicyConfig, project_weights

__all__ = ["FORMAT_VERSION", "FusionPolicy", "PolicyConfig", "project_weights"]
