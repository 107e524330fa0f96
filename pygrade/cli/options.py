"""The options of the subcommands: the config dataclasses, and what only the command line asks."""

from dataclasses import dataclass, field
from pathlib import Path

from pygrade.data.ebnerd import EbNerdConfig
from pygrade.data.events import parse_spec
from pygrade.data.kuairand_events import KuaiRandEventConfig
from pygrade.data.logs_events import LogsEventConfig
from pygrade.data.recflow import RecFlowConfig
from pygrade.evaluation.arms import PRODUCTION
from pygrade.logs import Logs, read_logs
from pygrade.pipeline.check import CheckConfig
from pygrade.pipeline.config import PipelineConfig
from pygrade.simulation.marketplace_config import MarketplaceConfig
from pygrade.simulation.simulate import SimulateConfig
from pygrade.study import StudyConfig
from pygrade.training.train import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Output:
    """Options of every command."""

    json: bool = False  # print one JSON object on standard output instead of tables
    quiet: bool = False  # no progress on standard error
    traceback: bool = False  # show the Python traceback of an error


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where requests come from."""

    data: str  # logs:DIR, e.g. logs:runs/demo/logs

    def load(self) -> Logs:
        """The logs in DIR."""
        return read_logs(parse_spec(self.data, ["logs"])[1])


@dataclass(frozen=True, kw_only=True)
class Demo(Output):
    """The main job on a simulated marketplace: log, stage 1, stage 2, A/B test, report, ranked pages.

    A demo that was interrupted goes on where it stopped; a finished one is made anew.

    Example: pygrade demo --out runs/demo
    """

    out: Path = Path("runs/demo")  # directory to write
    requests: int = 20_000  # logged requests to learn from
    test_requests: int = 12_000  # requests of the A/B test, by users that are not in the log
    pages: int = 3  # ranked pages to print
    seed: int = 0  # of the world, the training and the test
    resume: bool = True  # go on with an interrupted demo of the same options


@dataclass(frozen=True, kw_only=True)
class Simulate(Output, SimulateConfig):
    """Write the production log of a simulated marketplace, in the Parquet layout that train and evaluate read.

    Example: pygrade simulate --out runs/logs --num-requests 5000
    """

    out: Path  # directory to write; an earlier log there is replaced


@dataclass(frozen=True, kw_only=True)
class Train(Source, Output, TrainConfig):
    """Train a fusion policy on logged requests and judge it on the latest of them.

    The directory gets policy/, stage1/, metrics.jsonl, checkpoints/, evaluation.json and report.html. A training that
    was interrupted goes on from its last checkpoint when the data and the options are the same.

    Example: pygrade train --data logs:runs/demo/logs --out runs/mine
    """

    out: Path  # directory to write
    holdout: float = 0.2  # share of the latest requests that is kept out of training, for the evaluation; 0: none
    resume: bool = True  # go on from the checkpoints in --out; --no-resume removes them


@dataclass(frozen=True, kw_only=True)
class Evaluate(Output, Source):
    """Replay metrics of a policy, its static weights and the log's own weights, with 95 % intervals over users; and
    off-policy estimates of the policy: IPS, SNIPS, clipped, doubly robust where weights were drawn, by position else.

    A replay re-orders what was shown. Feedback is divided by the slot's propensity, estimated from shuffled pages.

    Example: pygrade evaluate --data logs:runs/demo/logs --policy runs/demo/policy
    """

    policy: Path  # directory of a saved policy, e.g. runs/demo/policy
    last: float = 1.0  # evaluate only this share of the requests, the latest
    k: int = 10  # ranks that count
    propensity: float | None = None  # exponent of the slots' propensity; none: estimate it where pages were shuffled


@dataclass(frozen=True, kw_only=True)
class Abtest(Output):
    """Paired A/B test in the simulated marketplace: each arm ranks the same requests of users that are in no log.

    Example: pygrade abtest --policy runs/demo/policy
    """

    policy: tuple[Path, ...]  # directories of saved policies, an arm each
    requests: int = 12_000  # of the test
    seed: int = 0  # of the world, as in the log that the policies learned from
    baseline: str = PRODUCTION  # arm that lifts refer to: production, equal weights or best static
    effect: float = 0.01  # relative lift that a test of your own should find; plans how many users it needs
    power: float = 0.8  # chance to find it
    counts: tuple[int, ...] = ()  # users that each arm of your own test got: checks them for a sample-ratio mismatch
    world: MarketplaceConfig = field(default_factory=MarketplaceConfig)


@dataclass(frozen=True, kw_only=True)
class Pipeline(Output, PipelineConfig):
    """The whole system from raw events: features, prerank, multi-task model, fusion policy, judgment, store, report.

    Each stage is done once: the same command again does nothing, another option redoes the stages that it decides, and
    one that was interrupted goes on. The directory gets a directory a stage, artifact/, summary.json and report.html.

    Example: pygrade pipeline --data kuairand:KuaiRand-1K --out runs/kuairand
    """

    data: str  # SCHEME:PATH of raw events, e.g. kuairand:KuaiRand-1K or logs:runs/demo/logs
    out: Path  # directory to write
    store: str | None = None  # address of the store to fill: lmdb:DIR or redis://HOST:PORT/DB; none: lmdb in --out
    kuairand: KuaiRandEventConfig = field(default_factory=KuaiRandEventConfig)  # for kuairand: data only
    recflow: RecFlowConfig = field(default_factory=RecFlowConfig)  # for recflow: data only
    ebnerd: EbNerdConfig = field(default_factory=EbNerdConfig)  # for ebnerd: data only
    logs: LogsEventConfig = field(default_factory=LogsEventConfig)  # for logs: data only


@dataclass(frozen=True, kw_only=True)
class ServeCheck(Output, CheckConfig):
    """Replay requests of a pipeline from materialized features and from a store with real-time updates: every page
    must be equal bit for bit, else the exit code is not 0. Prints the skew of the features and the latencies.

    Example: pygrade serve-check --run runs/kuairand
    """

    run: Path  # directory of pygrade pipeline
    store: str | None = None  # address of an empty store for the test, e.g. redis://HOST:PORT/DB; none: lmdb


@dataclass(frozen=True, kw_only=True)
class Rank(Output, Source):
    """Rank, and print each page with its weights and the contributions per task: logged requests with a saved policy
    (--policy, --data, --requests), or a page for a user with the whole system of pygrade pipeline (--run, --user).

    Example: pygrade rank --policy runs/demo/policy --data logs:runs/demo/logs --requests 0 7
    Example: pygrade rank --run runs/kuairand --user 7
    """

    data: str = ""  # logs:DIR, e.g. logs:runs/demo/logs
    policy: Path | None = None  # directory of a saved policy
    requests: tuple[int, ...] = (0,)  # which requests of the data, from 0
    run: Path | None = None  # directory of pygrade pipeline
    user: str | None = None  # id or name of the user, as in the data
    store: str | None = None  # address of the store; none: the one that the pipeline filled
    candidates: int = 500  # that prerank finds for the user
    scenario: str | None = None  # of the user's request
    context: dict[str, str] = field(default_factory=dict)  # c_ columns of the user's request
    timestamp: int | None = None  # of the user's request, ms since 1970; none: now
    repeat: int = 20  # times that the user's page is made, to say how long it takes
    k: int = 10  # items a page
    explore: bool = False  # serve weights drawn from the policy's Dirichlet instead of its mean
    seed: int | None = None  # of the draws; none: from the operating system
    impute: bool = False  # send requests that miss some features through the policy, instead of static weights
    log: Path | None = None  # also write the pages as log rows (weights, concentration, seed, policy version)


@dataclass(frozen=True, kw_only=True)
class Reproduce(StudyConfig):
    """The study: every arm and finding on held-out worlds, with tables, pictures and verdicts (see docs/PROTOCOL.md).

    Each result is kept in --out as soon as it is there; a study that was interrupted goes on with what is missing.

    Example: pygrade reproduce --quick
    Example: pygrade reproduce --full --jobs 2 --docs docs --json out.json
    Example: pygrade reproduce --arms static,stage1,grade --world-seed 7 8 --world-set session=0.5
    """

    out: Path = Path("runs/study")  # directory to write: results.json, RESULTS.md, pictures, and each result
    docs: Path | None = None  # also write RESULTS.md and pictures here, from every frozen result in --out
    json: Path | None = None  # also write the results to this file as one JSON object; -: to standard output
    quiet: bool = False  # no progress on standard error
    traceback: bool = False  # show the Python traceback of an error


@dataclass(frozen=True, kw_only=True)
class Aot(Output):
    """Compile the Triton kernels for GPUs that need not be here: cubin and PTX, or HSACO, and manifest.json.

    A program without Python launches them through the driver: csrc/examples/launch_aot.c, docs/GPU.md.

    Example: pygrade aot --arch sm_90,gfx942 --out build/aot
    """

    out: Path  # directory to write; an earlier one there is replaced
    arch: str = "sm_80,sm_90,sm_100,gfx942"  # architectures, separated by commas
    only: str = ""  # only variants whose name contains this, e.g. rollout


@dataclass(frozen=True, kw_only=True)
class Info(Output):
    """Versions, device, instruction set, and which backends work here."""
