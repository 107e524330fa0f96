from collections.abc import Callable, Iterable, Sequence
from os import PathLike
from typing import Any

__version__: str
transforms: dict[str, bool]  # in the order of the C++ enum; True: takes scores ≥ 0 alone

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
    scores: Any, weights: Any, transform: str, beta: Any, epsilon: Any, slope: Any, offsets: Any, layout: str,
    num_threads: Any,
) -> Any: ...  # fmt: skip
def fuse_topk_fast_path(
    type: Any, scores: Any, weights: Any, k: Any, transform: str, mask: Any, beta: Any, epsilon: Any, slope: Any,
    offsets: Any, layout: str, out: Any, num_threads: Any,
) -> Any: ...  # fmt: skip
def rank_fast_path(
    type: Any, scores: Any, weights: Any, k: Any, transform: str, mask: Any, boost_mul: Any, boost_add: Any,
    groups: Any, caps: Any, cap_slots: Any, decay: Any, beta: Any, epsilon: Any, slope: Any, offsets: Any,
    layout: str, out: Any, num_threads: Any,
) -> Any: ...  # fmt: skip
def dirichlet_log_prob_fast_path(
    concentration: Any, log_weights: Any, weight_floor: Any, validate: Any, num_threads: Any
) -> Any: ...
def dirichlet_log_prob_backward_fast_path(
    concentration: Any, log_weights: Any, gradient: Any, weight_floor: Any, num_threads: Any
) -> Any: ...
def dirichlet_score_fast_path(
    concentration: Any, log_weights: Any, coefficients: Any, weight_floor: Any, validate: Any, num_threads: Any
) -> Any: ...
def group_advantage_fast_path(
    rewards: Any, component_weights: Any, normalize: Any, leave_one_out: Any, clip: Any, validate: Any,
    num_threads: Any,
) -> Any: ...  # fmt: skip
def grpo_loss_fast_path(
    concentration: Any, log_weights: Any, old_log_prob: Any, advantages: Any, reference_concentration: Any, clip: Any,
    clip_high: Any, kl_coefficient: Any, entropy_coefficient: Any, weight_floor: Any, log_ratio_clamp: Any,
    validate: Any, num_threads: Any,
) -> Any: ...  # fmt: skip
def check_page_rules(rows: int, *rules: Any) -> None:
    """ValueError for rules, in the order of request.def, that do not fit ``rows`` candidates."""

class Correction:
    """A correction of predictions in the C++ core (csrc/include/pygrade/correction.hpp); copies its arrays, float32."""

    def __init__(
        self,
        *,
        items: Sequence[str],
        parents: Sequence[int],
        amounts: Sequence[bool],
        indicators: Sequence[int],
        form: str,
        median: Any,
        x_mean: Any,
        x_std: Any,
        l_mean: Any,
        l_std: Any,
        weights: Any,
        map_mean: Any,
        map_std: Any,
        map_knots: Any,
        map_weights: Any,
        tree_inputs: Any,
        tree_thresholds: Any,
        tree_masks: Any,
        tree_leaves: Any,
    ) -> None: ...
    @property
    def num_tree_inputs(self) -> int: ...
    def apply(
        self, context: Any, predictions: Any, offsets: Any, items: Any, result: Any, num_threads: int = 1
    ) -> None:
        """context [R, F] or None, predictions [M, T], offsets [R + 1] and items [M, I] or None → result [M, T]."""

    def tree_inputs(self, context: Any, predictions: Any, offsets: Any, items: Any, result: Any) -> None:
        """As `apply`, → result [M, D]."""

    def shifts(self, context: Any, predictions: Any, items: Any, result: Any) -> None:
        """context [F], predictions [N · T] and items [N · I], each or None, → result [T, 1 + V]."""

class History:
    """The rule that makes columns of history (csrc/include/pygrade/history.hpp)."""

    def __init__(
        self,
        *,
        tasks: Sequence[str],
        categories: bool,
        exposure_delay_ms: int,
        feedback_delay_ms: int,
        half_life: int,
        expected: Sequence[float],
        user: Sequence[float],
        item: Sequence[float],
        category: Sequence[float],
    ) -> None: ...
    @property
    def context_columns(self) -> list[str]: ...
    @property
    def item_columns(self) -> list[str]: ...

class HistoryPass:
    """A pass over a log in order of time; arguments as of HistoryLog."""

    def __init__(self, history: History) -> None: ...
    def read(
        self,
        *,
        user: Any,
        time: Any,
        request: Any,
        offsets: Any,
        item: Any,
        category: Any,
        slot: Any,
        predictions: Any,
        feedback: Any,
        context: Any,
        columns: Any,
    ) -> None:
        """Fills context [R, C] and columns [M, I]."""

def correction_gram(z: Any, u: Any, h: Any, offsets: Any, result: Any, num_threads: int = 1) -> None:
    """Σ h (z_r ⊗ u_i)(z_r ⊗ u_i)ᵀ over the rows i of the requests r, of float64 z [R, Z], u [M, U] and h [M] with
    offsets [R + 1], into result [Z · U, Z · U]; place z · U + u. The bits do not depend on the threads."""

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
        items: Any = None,
    ) -> None:
        """items [N, I]: of the correction, for a policy whose network takes corrected predictions."""

class MultiTaskModel:
    """A saved multi-task model as the C++ core reads it."""

    def __init__(self, json: bytes, tensors: bytes, name: str = "mtl") -> None: ...
    @staticmethod
    def load(path: str | PathLike[str]) -> MultiTaskModel: ...
    @property
    def tasks(self) -> list[str]: ...
    @property
    def dense_columns(self) -> list[str]: ...
    @property
    def id_columns(self) -> list[str]: ...
    @property
    def features(self) -> str: ...
    @property
    def schema_hash(self) -> str: ...
    @property
    def request_dense(self) -> int: ...
    @property
    def request_ids(self) -> int: ...
    def predict(
        self, dense: Any, ids: Any, probabilities: Any, calibrated: bool = True, num_threads: int = 1
    ) -> None: ...
    def predict_request(
        self, request_dense: Any, request_ids: Any, dense: Any, ids: Any, probabilities: Any, calibrated: bool = True
    ) -> None: ...

def read_predictions(scales: str, tasks: Sequence[str], predictions: Any, result: Any) -> None:
    """Predictions [M, T] as a table has them, by scales (JSON), into result [M, T]: as a log has them."""

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
    """A policy in front of the blended-ranking op, with an exploration stream and counters.

    Every core policy comes with the object (a FusionPolicy) that its pages name.
    """

    def __init__(self, core: Policy, policy: Any, seed: int) -> None: ...
    def swap(self, core: Policy, policy: Any) -> None:
        """Serve another policy. Returns when no thread ranks with the old one any more."""

    def score(self, result: Any, num_threads: int, **arguments: Any) -> None:
        """Write the score that each candidate is ranked by into result [M]; arguments: see `rank_pages`."""

    def score_parts(self, weights: Any, **arguments: Any) -> tuple[Any, Any, Any]:
        """Each task's part [M, T] of these scores with weights [R, T], the baseline's [M], see `Page.contributions`,
        and corrected predictions [M, T], None if nothing reads them. NaN where a prediction is missing.
        """

    def history_reasons(
        self, request: int, candidates: Any, **arguments: Any
    ) -> list[list[tuple[str, str, float, str]]]:
        """The fields of `HistoryReason` of candidates [n] of a request."""

    @property
    def policy(self) -> Any: ...
    @property
    def version(self) -> str: ...
    def reserve_draws(self, count: int) -> int:
        """The first of ``count`` consecutive draws of the exploration stream, all of one seed."""

    @property
    def counters(self) -> dict[str, int]: ...

def rank_pages(ranker: Ranker, **arguments: Any) -> dict[str, Any]:
    """The fields of a Page that the core fills, by name. Arguments: k, offsets, seed and the fields of request.def,
    arrays of B requests or all candidates, converted where needed; ValueError or TypeError name what is wrong."""

def mix_scores(base: Any, other: Any, mixture_weight: float, offsets: Any, result: Any, num_threads: int) -> None:
    """Scores of two rankings base and other [M] of requests [R + 1] → those of their mixture, result [M]."""

def describe_move(effect: float, above: int, sorted_place: int, place: int, root: str) -> str:
    """As text: "moved down 3: 2 like it above, click × 0.62"; "" if nothing moved the item."""

class UserTower:
    """The user tower of `pygrade.prerank.TwoTower` in the C++ core."""

    def user_vectors(self, request_dense: Any, request_ids: Any, sequences: Any, vectors: Any) -> None:
        """Vectors of requests into vectors [R, width]."""

class ItemIndex:
    """Items by ascending id and their vectors in the C++ core."""

    def __init__(self, item_id: Any, vectors: Any) -> None: ...
    def __len__(self) -> int: ...
    @property
    def width(self) -> int: ...
    def search(self, vectors: Any, seen: list[Any], eligible: Any, items: Any, scores: Any) -> None:
        """The best items [R, n] of vectors [R, D] and their scores [R, n], padded with -1 and -inf."""

    def layout(self) -> dict[str, Any]:
        """Copies of item_id and vectors as Prerank.save writes them."""

class Prerank:
    """A user tower and an item index as the C++ core serves them."""

    def __init__(self, json: bytes, tensors: bytes, name: str = "prerank") -> None: ...
    @staticmethod
    def load(path: str) -> Prerank: ...
    @property
    def tower(self) -> UserTower: ...
    @property
    def index(self) -> ItemIndex: ...

class StoreError(Exception): ...
class StoreUnreachableError(StoreError): ...

class Store:
    """A store of the core (csrc/include/pygrade/store.hpp), of which pygrade.stores.Store is the face.

    Requests are (table, keys int64 [n]).
    """

    def get(
        self, requests: Iterable[tuple[str, Any]], version: str | None = None, seconds: float | None = None
    ) -> list[list[bytes | None]]: ...
    def put(
        self, table: str, keys: Any, values: Iterable[bytes], version: str | None = None, ttl: float | None = None
    ) -> None: ...
    def update(
        self,
        requests: Iterable[tuple[str, Any]],
        change: Callable[[list[list[bytes | None]]], Iterable[Iterable[bytes]]],
        ttl: float | None = None,
    ) -> None: ...
    def sweep(self) -> int: ...
    def begin(self, version: str) -> None: ...
    def switch_to(self, version: str) -> None: ...
    def versions(self) -> dict[str, str]: ...
    def drop(self, version: str) -> None: ...
    def at(self, version: str) -> Store: ...
    def current(self) -> str | None: ...
    @property
    def reachable(self) -> bool: ...
    @property
    def url(self) -> str: ...

class PythonStore(Store):
    """A store that Python implements (csrc/bindings/python_store.hpp)."""

    def __init__(self, store: Any) -> None: ...

def store_kinds() -> list[tuple[str, str, str, bool]]:
    """Scheme, form of the address, description, and whether this build has it, of every kind of store."""

def without_secret(url: str) -> str:
    """A store's address without user and password."""

def open_store(
    url: str,
    create: bool = False,
    read_only: bool = False,
    timeout: float = 0.1,
    max_bytes: int | None = None,
    wait_for_server: bool = True,
) -> Store: ...

class Features:
    """Schema and fitted values of features in the C++ core; immutable."""

    def __init__(self, schema: str, fitted: bytes, name: str = "features") -> None: ...
    @staticmethod
    def load(path: str) -> Features: ...
    @property
    def hash(self) -> str: ...
    def inputs(self, names: list[str], of_requests: bool, dense: Any, ids: Any) -> Any:
        """[q, F] of dense [q, D] and ids [q, C]: columns, and levels ``feature=level``, by name; of items NaN of what
        is none. SchemaError, of requests, for such a name."""

    def normalize(self, request_dense: Any, item_dense: Any, cross_dense: Any, request_out: Any, rows_out: Any) -> None:
        """Normalized request_dense [R, Du], and item_dense [n, Di] and cross_dense [n, Dx] side by side."""

class Records:
    """Records of one table of a schema in memory. Arrays are int64; key -2^63 stands for none."""

    def __init__(self, schema: str, table: str) -> None: ...
    def __len__(self) -> int: ...
    def keys(self) -> Any:
        """[K] as they came."""

    def apply(self, events: Any) -> None:
        """Adds events [width, e] of a `LogReader`, in any order."""

    def merge(self, keys: Any, records: Any) -> None: ...
    def get(self, keys: Any) -> tuple[Any, Any]:
        """Records [q, width], and which of the keys [q] are known."""

class LogReader:
    """Features of the requests of a log, in codes in place of ids. Attributes: ids [m] ascending, rows [m, C]."""

    def __init__(self, schema: str, user_ids: Any, user_rows: Any, item_ids: Any, item_rows: Any) -> None: ...
    def events(self, user_id: Any, item_id: Any, event_time: Any, scenario: Any, outcomes: dict[str, Any]) -> Any:
        """int64 [width, e]: time, item, the key of each table, each outcome in fixed point, and of each measure 1 if
        it is known. outcomes: float64 [e] by column. `SchemaError` if they do not fit."""

    def read(
        self,
        records: list[Records],
        events: Any,
        user_id: Any,
        timestamp: Any,
        scenario: Any,
        offsets: Any,
        item_id: Any,
        context: list[Any],
    ) -> tuple[Any, ...]:
        """request_dense, request_ids, sequences, item_dense, item_ids and cross_dense of requests in order of time.

        records: of each table; in the end all events are in them. context: of each column float64 [R] or codes [R].
        """

class KeyIndex:
    """Distinct keys and their numbers from 0 on, in the order in which they came."""

    def __init__(self) -> None: ...
    def __len__(self) -> int: ...
    def add(self, keys: Any) -> Any:
        """Numbers [q] of the keys, new ones included; -1 of -2^63."""

    def keys(self) -> Any: ...

def encode_ids(features: Features, codes: Any, of_requests: bool) -> Any:
    """Ids int64 [q, F] of codes [q, F] of the features with ids, of requests or of rows."""

def read_schema(json: str) -> dict[str, Any]:
    """``json`` as it is written, ``hash``, ``tables`` (each with its empty record, int64), ``outcome_columns``,
    ``key_parts``, and attributes (column, kind, length) of ``user`` and ``item``. `SchemaError` if it contradicts
    itself."""

def check_feature(json: str) -> None:
    """`SchemaError` if a feature contradicts itself."""

def moments(values: Any) -> Any:
    """Count, mean and sum of squares around the mean [3, D] of float32 columns [q, D], without NaN."""

class FeatureCenter:
    """Reads the features of requests from a store, and adds feedback to it.

    Requests come as (request_dense, request_ids, sequences, item_dense, item_ids, cross_dense, defaults).
    """

    def __init__(
        self, features: Features, store: Store, ttl: float | None, cache: int, version: str | None
    ) -> None: ...
    @property
    def counters(self) -> dict[str, int]: ...
    def read(
        self, user_id: int, item_ids: Any, timestamp: int, scenario: str | None, context: dict[str, float | str | None]
    ) -> tuple[Any, ...]: ...
    def update(
        self, user_id: Any, item_id: Any, event_time: Any, scenario: list[str] | None, outcomes: dict[str, Any]
    ) -> int: ...

class Service:
    """A worker of the service without its HTTP, see <pygrade/service.hpp>."""

    def __init__(self, run: str, config: str) -> None:
        """run: what ``pygrade pipeline`` or ``pygrade train`` wrote, or a policy; config: JSON, see docs/SERVICE.md."""

    def handle(
        self,
        method: str,
        path: str,
        body: bytes,
        content_type: str = "",
        request_id: str = "",
        waited: float = 0.0,
        accept: str = "",
    ) -> tuple[int, str, bytes, str]:
        """Status, content type, body and request's id of the answer; waited: seconds since the request arrived.

        From any thread, without the interpreter's lock.
        """

    @staticmethod
    def openapi() -> str:
        """The document of the interface, the answer of /openapi.json."""

    def refresh(self) -> bool:
        """Loads what changed on disk; True if something did."""

    def drain(self) -> None:
        """/readyz answers 503 from now on, and the logs are flushed."""

class Pipeline:
    """The pipeline in front of a user. ``predict`` or a request's predictions stand where ``mtl`` is None."""

    def __init__(
        self,
        version: str,
        features: Features,
        prerank: Prerank,
        mtl: MultiTaskModel | None,
        policy: Policy,
        center: FeatureCenter,
        seed: int | None,
        predict: Callable[..., Any] | None = None,
    ) -> None: ...
    @staticmethod
    def load(
        artifact: str,
        store: Store,
        any_version: bool = False,
        seed: int | None = None,
        predict: Callable[..., Any] | None = None,
    ) -> Pipeline:
        """Open the files of an artifact and a store of the core. ``any_version``: read whatever version is current."""

    @property
    def center(self) -> FeatureCenter: ...
    def rank(
        self,
        user_id: int,
        timestamp: int,
        scenario: str | None,
        context: dict[str, float | str | None],
        k: int,
        candidates: int,
        item_ids: Any = None,
        seen: Any = None,
        eligible: Any = None,
        explore: bool = False,
        values: Any = None,
        deadline: int | None = None,
        item_values: Callable[[Any], Any] | None = None,
        predictions: Any = None,
        item_features: dict[str, Any] = ...,
        history: Callable[[Any], tuple[Any, Any]] | None = None,
        user_data: Any = None,
    ) -> dict[str, Any]:
        """The page, its weights, and what it was made from. ``deadline``: microseconds. ``item_values``: ids [n] →
        prices [n]. ``history``: ids [n] → context [C] and columns [n, I] of the policy's history. Without features of
        items, as with ``predictions``, their arrays have no columns."""

    @property
    def counters(self) -> dict[str, int]: ...
