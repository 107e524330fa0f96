"""The fusion policy: what it reads (`PolicySpec`), its network, its files."""

from pygrade.policy.correction import Correction
from pygrade.policy.mixture import Baseline, Mixture
from pygrade.policy.network import FusionPolicy
from pygrade.policy.page_terms import PageTerms
from pygrade.policy.projection import project_weights
from pygrade.policy.spec import PolicySpec

__all__ = ["Baseline", "Correction", "FusionPolicy", "Mixture", "PageTerms", "PolicySpec", "project_weights"]
