"""Options of the join and of learning beside the service."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from pygrade.config.option import Options, Place, option, required
from pygrade.config.shared import Output, Unproven
from pygrade.config.training import OnlineConfig


@dataclass(frozen=True)
class JoinConfig(Options):
    """Rules by which exposures and feedback are joined."""

    PYTHON_ONLY: ClassVar = ("max_amount",)  # not on the command line

    feedback_delay_ms: int = option(3_600_000, "ms after a page during which its events count", ge=0)
    max_amount: float = option(1e6, "largest amount of one event; a larger one is malformed", ge=0)


@dataclass(frozen=True)
class ServiceConfig(Options):
    """Times at which the process follows the logs, and what it does with them."""

    interval_seconds: float = option(60.0, "seconds between updates", ge=0.01)
    planned_users: int = option(
        10_000, "users of all arms at which intervals are narrowest; choose it in advance", ge=2
    )
    online: OnlineConfig = option(OnlineConfig())


@dataclass(frozen=True)
class TestConfig(JoinConfig):
    """A test that `serve --test` runs: the table [serve.test] of its --config, with the options of `join`."""

    interval_seconds: float = option(3600.0, "seconds between readings", ge=0.1)
    share: float = option(0.5, "share of users who get the new ranking", gt=0, lt=1)
    control: str = option("control", "ranking of the others; control: that of the verdict")
    holdout: float = option(0.05, "share of users who stay on the control after the decision", gt=0, lt=1)
    planned_requests: int = option(10_000, "where the intervals are narrowest; choose it in advance", ge=1)


@dataclass(frozen=True, kw_only=True)
class ServeOptions(Output, Unproven):
    """Serve what pygrade train or pygrade pipeline wrote over HTTP: POST /v1/rank, /v1/weights, /v1/update and
    /v1/explain, GET /v1/status, /metrics, /livez, /readyz, /console, /docs and, of a test, /test.

    It runs pygraded, the server in C++. Options come from the table [serve] of --config, which also has other runs by
    name, arms, shadow policies, exploration and limits; those given here win. SIGTERM drains, SIGHUP looks for a new
    artifact at once.

    --test runs an A/B test of the run's verdict and shows its decision at /test; [serve.test] has its options. Killed
    and started again it goes on with the same arms, and pygraded serves meanwhile.

    Example: pygrade serve --run runs/demo

    Example: pygrade serve --run runs/mine --test
    """

    ESSENTIAL: ClassVar = (
        *("config", "host", "port", "token_file", "exposures", "exposure_share", "feedback"),
        *("online", "test"),
    )

    run: Place = required("directory of pygrade train, demo or pipeline, or of a policy; a URL is followed")
    config: Path | None = option(None, "a pygrade.toml")
    host: str | None = option(None, "address to listen on; default: 127.0.0.1. Any other needs a token or --public")
    port: int | None = option(None, "port to listen on; default: 8080; 0: any free port")
    public: bool = option(False, "accept requests without a token from everyone who can reach the address")
    token_file: Path | None = option(None, "file with one client token per line; default: the variable PYGRADE_TOKEN")
    tls_cert: Path | None = option(None, "PEM file of the certificate and its chain")
    tls_key: Path | None = option(None, "PEM file of the certificate's private key")
    threads: int | None = option(None, "threads that rank pages; default: one per core, at most 8")
    store: str | None = option(
        None, "address of the store; default: PYGRADE_STORE, else the store that the pipeline filled"
    )
    deadline_ms: float | None = option(
        None, "ms per page, after which it is ranked without user features; default: no limit"
    )
    allow_unproven: bool = option(False, "also serve policies whose log does not prove them; refused by default")
    exposures: Place | None = option(None, "directory for the log of served pages")
    exposure_share: float | None = option(
        None, "share of requests logged with all candidates, for training; default: 0.05"
    )
    feedback: Place | None = option(None, "directory for the log of feedback events")
    refresh_seconds: float | None = option(None, "seconds between checks for a new artifact or policy; default: 1")
    drain_seconds: float | None = option(None, "seconds to drain after SIGTERM, while /readyz returns 503; default: 5")
    log: Literal["all", "errors", "none"] | None = option(None, "JSON lines of requests; not given: all")
    online: bool = option(False, "also learn from exposures and feedback, see pygrade online")
    test: bool = option(False, "test the run's new ranking on half of the users, and decide at /test")
    interval_seconds: float | None = option(None, "seconds between readings of --test; default: 3600")
    print_config: bool = option(False, "print pygraded's options as JSON and exit")


@dataclass(frozen=True, kw_only=True)
class JoinOptions(Output, JoinConfig):
    """Join the exposures of a service and their feedback into the log that pygrade train reads.

    Run it from time to time: it reads new files alone, and a page is written once, when its feedback is complete.

    Example: pygrade join --exposures logs/exposures --feedback logs/feedback --out runs/served
    """

    exposures: Place = required("directory of Parquet files that the service wrote")
    feedback: tuple[Place, ...] = required("directories of JSON lines that the service wrote")
    out: Place = required("directory of the joined log")
    until: int | None = option(
        None, "time (ms since 1970) up to which feedback is complete; default: the newest page's"
    )
    final: bool = option(False, "the logs are complete: do not wait for more feedback")


@dataclass(frozen=True, kw_only=True)
class OnlineOptions(Output, Unproven, ServiceConfig):
    """Learn from the exposures and feedback of a service while it serves: RUN/online/policy is a link to the newest
    policy that was published, which an arm of the service may name; RUN/online/status.json says what was published,
    refused and rolled back, RUN/arms.json has the lifts of the arms with intervals that hold at any time.

    It runs until SIGTERM, and continues where it was. pygrade serve --online starts it, too.

    Example: pygrade online --run runs/kuairand --exposures logs/exposures --feedback logs/feedback
    """

    FLAGS: ClassVar = {
        "online": (
            *("window", "min_requests", "feedback_delay_ms", "max_regression", "confidence", "max_reach"),
            *("single_tasks", "min_effective_samples", "correction", "seed", "guardrails.limits", "step.steps"),
        )
    }

    run: Path = required("directory of pygrade train, demo or pipeline")
    exposures: Path = required("directory of Parquet files that the service writes")
    feedback: tuple[Path, ...] = required("directories of JSON lines that the service writes")
    arms: dict[str, float] = option(
        {}, "planned shares of the service's arms, the control first; default: one arm, main"
    )
    once: bool = option(False, "look once and end")
