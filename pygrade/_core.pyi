from collections.abc import Sequence
from typing import Any

__version__: str
transforms: tuple[str, ...]  # by the value of the C++ enum

def active_isa() -> str: ...
def available_isas() -> list[str]: ...
def connect_torch(torch: Any, backend: Any) -> None:
    """Tell the core of torch and of the ContextVar that names the backend; fast paths need both."""

def float_function(function: int, x: Any, y: Any) -> None: ...
def gamma_functions(x: Any, y: Any) -> None: ...

# Positional arguments, those of the public functions; `type` is TopK. The fast path returns None for a call that needs
# more than the core, and for an argument that does not fit as it is.
def transform_scores_fast_path(
    scores: Any, transform: str, beta: Any, epsilon: Any, slope: Any, offsets: Any, layout: str, num_threads: Any
) -> Any: ...
def fuse_scores_fast_path(
    scores: Any,
    weights: Any,
    transform: str,
    beta: Any,
    epsilon: Any,
    slope: Any,
    offsets: Any,
    layout: str,
    num_threads: Any,
) -> Any: ...
def fuse_topk_fast_path(
    type: Any,
    scores: Any,
    weights: Any,
    k: Any,
    transform: str,
    mask: Any,
    beta: Any,
    epsilon: Any,
    slope: Any,
    offsets: Any,
    layout: str,
    out: Any,
    num_threads: Any,
) -> Any: ...
def rank_fast_path(
    type: Any,
    scores: Any,
    weights: Any,
    k: Any,
    transform: str,
    mask: Any,
    boost_mul: Any,
    boost_add: Any,
    groups: Any,
    caps: Any,
    beta: Any,
    epsilon: Any,
    slope: Any,
    offsets: Any,
    layout: str,
    out: Any,
    num_threads: Any,
) -> Any: ...

class Policy:
    """A saved policy as the C++ core reads it."""

    def __init__(self, json: bytes, tensors: bytes, name: str = "policy") -> None: ...
    @staticmethod
    def load(path: str) -> Policy: ...
    @staticmethod
    def read(path: str) -> tuple[bytes, bytes]: ...
    @property
    def tasks(self) -> list[str]: ...
    @property
    def features(self) -> list[str]: ...
    @property
    def scenarios(self) -> list[str]: ...
    @property
    def version(self) -> str: ...
    @property
    def schema_hash(self) -> str: ...
    @property
    def num_inputs(self) -> int: ...
    def evaluate(
        self,
        context: Any,
        predictions: Any,
        scenario: str | None,
        inputs: Any,
        concentration: Any,
        weights: Any,
        values: Any = None,
    ) -> None: ...

def piecewise_linear(values: Any, x: Sequence[float], y: Sequence[float], result: Any) -> None:
    """The map with knots x, y, see `pygrade.reference.piecewise_linear`, of values [n] into result [n]."""

class Ranker:
    """A policy in front of the blended-ranking op, with an exploration stream and counters."""

    def __init__(self, policy: Policy, impute: bool, stream: int) -> None: ...
    def successor(self, policy: Policy) -> Ranker:
        """The same stream and counters in front of another policy."""

    @property
    def stream(self) -> int: ...
    @stream.setter
    def stream(self, next: int) -> None: ...
    @property
    def counters(self) -> dict[str, int]: ...

def rank_pages(
    ranker: Ranker,
    context: Any,
    predictions: Any,
    k: int,
    offsets: Any,
    scenario: str | list[str] | None,
    mask: Any,
    boost_mul: Any,
    boost_add: Any,
    groups: Any,
    caps: Any,
    explore: bool,
    seed: int | None,
    values: Any,
    item_values: Any,
) -> tuple[Any, ...]:
    """values, indices, weights, concentration, fallback, explored and seed of a Page, the context as it was used, the
    multipliers in force if the policy takes any, and the number of the first request."""

def rank_pages_fast_path(
    ranker: Ranker,
    context: Any,
    predictions: Any,
    k: Any,
    offsets: Any,
    scenario: Any,
    mask: Any,
    boost_mul: Any,
    boost_add: Any,
    groups: Any,
    caps: Any,
    explore: Any,
    seed: Any,
    values: Any,
    item_values: Any,
) -> tuple[Any, ...] | None: ...
