"""The fusion policy: what it reads (`PolicySpec`), its network, its files."""

from pygrade.policy.network import FusionPolicy
from pygrade.policy.projection import project_weights
from pygrade.policy.spec import PolicyConfig, PolicySpec

__all__ = ["FusionPolicy", "PolicyConfig", "PolicySpec", "project_weights"]
