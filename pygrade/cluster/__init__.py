"""Work on several machines through Ray (``pip install 'pygrade-ranking[cluster]'``). Only this folder imports it.

`connect` gives the `Workers` that everything below takes as an argument.
"""

from pygrade.cluster.connect import connect
from pygrade.cluster.errors import ClusterError

__all__ = ["ClusterError", "connect"]
