from collections.abc import Sequence
from typing import Any

__version__: str
transforms: tuple[str, ...]  # by the value of the C++ enum

def active_isa() -> str: ...
def available_isas() -> list[str]: ...
def connect_torch(torch: Any, backend: Any) -> None:
    """Tell the core of torch and of the ContextVar that names the backend; fast paths need both."""

def is_plain(*arguments: Any) -> bool:
    """Whether an op on these may skip torch's dispatcher: each a number, a string, None or a torch.Tensor in CPU
    memory, no dispatch mode, no functorch transform, no gradient wanted."""

def group_advantage(
    rewards: Any,
    component_weights: Any,
    normalize: int,
    leave_one_out: bool,
    clip: float,
    advantage: Any,
    validate: bool,
    num_threads: int,
) -> None: ...
def dirichlet_sample(
    concentration: Any,
    seed: int,
    offset: int,
    weights: Any,
    log_weights: Any,
    log_prob: Any,
    validate: bool,
    num_threads: int,
) -> None: ...
def dirichlet_log_prob(
    concentration: Any,
    log_weights: Any,
    weight_floor: float,
    log_prob: Any,
    validate: bool,
    num_threads: int,
) -> None: ...
def dirichlet_log_prob_backward(
    concentration: Any,
    log_weights: Any,
    gradient: Any,
    weight_floor: float,
    concentration_gradient: Any,
    num_threads: int,
) -> None: ...
def dirichlet_score(
    concentration: Any,
    log_weights: Any,
    coefficients: Any,
    weight_floor: float,
    log_prob: Any,
    gradient: Any,
    validate: bool,
    num_threads: int,
) -> None: ...
def dirichlet_entropy(concentration: Any, entropy: Any, gradient: Any, validate: bool, num_threads: int) -> None: ...
def dirichlet_kl(
    concentration: Any,
    other: Any,
    kl: Any,
    gradient: Any,
    other_gradient: Any,
    validate: bool,
    num_threads: int,
) -> None: ...
def floor_log_weights(log_weights: Any, weight_floor: float, floored: Any, num_threads: int) -> None: ...
def float_function(function: int, x: Any, y: Any) -> None: ...
def gamma_functions(x: Any, y: Any) -> None: ...
def grpo_loss(
    concentration: Any,
    log_weights: Any,
    old_log_prob: Any,
    advantages: Any,
    reference_concentration: Any,
    clip: float,
    clip_high: float,
    kl_coefficient: float,
    entropy_coefficient: float,
    weight_floor: float,
    log_ratio_clamp: float,
    loss: Any,
    kl: Any,
    entropy: Any,
    clip_fraction: Any,
    ratio_max: Any,
    gradient: Any,
    validate: bool,
    num_threads: int,
) -> None: ...
def lambda_loss(
    scores: Any,
    gains: Any,
    mask: Any,
    discount: Any,
    temperature: float,
    loss: Any,
    gradient: Any,
    validate: bool,
    num_threads: int,
) -> None: ...

# Positional arguments, those of the public functions; `type` is TopK. A fast path returns None for a call that needs
# more than the core, and for an argument that does not fit as it is.
def transform_scores(
    scores: Any, transform: str, beta: Any, epsilon: Any, slope: Any, offsets: Any, layout: str, num_threads: Any
) -> Any: ...
def fuse_scores(
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
def fuse_topk(
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
def rank(
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

transform_scores_fast_path = transform_scores
fuse_scores_fast_path = fuse_scores
fuse_topk_fast_path = fuse_topk
rank_fast_path = rank

def topk_gain(
    scores: Any,
    weights: Any,
    gains: Any,
    discount: Any,
    masks: Any,
    component_list: Any,
    transform: int,
    beta: float,
    epsilon: float,
    slope: Any,
    offsets: Any,
    gain: Any,
    num_threads: int,
) -> None: ...

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

def policy_network_is_fast() -> bool:
    """Whether the kernels of `PolicyNetwork` fuse multiply-adds by an instruction."""

def clip_factor(norm: float, max_norm: float) -> float: ...

class PolicyNetwork:
    """The network of a policy in training; works in the memory of its parameters: weights and bias of each layer."""

    def __init__(
        self,
        parameters: list[Any],
        input_mean: Any,
        input_std: Any,
        concentration_floor: float,
        total_concentration: float,
    ) -> None: ...
    @property
    def num_parameters(self) -> int: ...
    def concentration(self, inputs: Any, factor: Any, concentration: Any, num_threads: int) -> None:
        """inputs [B, D], factor [B] or None → concentration [B, T]."""

    def forward(self, inputs: Any, factor: Any, concentration: Any, num_threads: int) -> None:
        """The same, and keeps what `gradient` needs."""

    def gradient(self, slope: Any, gradient: Any, num_threads: int) -> float:
        """slope [B, T] by the last concentration → gradient [P], and its norm."""

    def adam(
        self,
        gradient: Any,
        first: Any,
        second: Any,
        step: int,
        learning_rate: float,
        beta1: float,
        beta2: float,
        epsilon: float,
        weight_decay: float,
        scale: float,
    ) -> None:
        """Changes the parameters and the moments first and second [P]."""

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
