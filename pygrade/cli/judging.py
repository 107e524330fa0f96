"""What `train`, `evaluate` and `pipeline` share: replay of a policy beside static weights, and its tables."""

from collections.abc import Mapping
from typing import Any

from pygrade.cli import console
from pygrade.evaluation.arms import EQUAL, GRADE, PRODUCTION, STATIC
from pygrade.evaluation.replay import equal_metrics, evaluate, judged_by
from pygrade.logs import Logs
from pygrade.policy import FusionPolicy
from pygrade.training.propensity import slot_propensity
from pygrade.training.reward import RewardConfig
from pygrade.training.static_weights import equal_weights, production_weights

IN_SAMPLE = "in-sample, not evidence: "


def replay(
    logs: Logs, explored: Logs, policy: FusionPolicy, rankers: dict[str, Any], reward: RewardConfig, k: int
) -> dict[str, Any]:
    """`Evaluation.to_dict` of the rankers beside static ones, and ``propensity_source``: propensities come from the
    shuffled pages of ``explored``.
    """
    arms: dict[str, Any] = {EQUAL: equal_weights(len(logs.tasks)).numpy(), STATIC: policy.static_weights.numpy()}
    production = production_weights(logs)
    if production is not None:
        arms[PRODUCTION] = production.numpy()
    arms |= rankers
    propensity = slot_propensity(explored, reward)
    evaluation = evaluate(
        logs,
        arms,
        STATIC,
        k=k,
        transform=dict.fromkeys(arms, policy.config.formula),
        propensity=propensity.known(k),
        propensity_floor=reward.propensity_floor,
    )
    return evaluation.to_dict() | {"propensity_source": propensity.origin}


def print_evaluation(record: Mapping[str, Any], heading: str = "") -> None:
    """The tables of a `replay`; ``heading`` before their titles."""
    tasks = [
        [
            task,
            f"{int(entry['events']):,}",
            f"{entry['rate']:.2%}",
            f"{entry['mean_prediction']:.2%}",
            *(console.interval(entry[name]) for name in ("auc", "gauc")),
        ]
        for task, entry in record["predictions"].items()
    ]
    size = f"{record['num_requests']:,} requests of {record['num_users']:,} users"
    console.table(f"Predictions, {size}", ["task", "events", "rate", "predicted", "AUC", "GAUC"], tasks)
    names = {"ndcg": f"NDCG@{record['k']}", "value": f"value@{record['k']}"}
    lifted = {name: record["lifts"].get(name, {}) for name in record["rankers"]}
    rows = [
        [name, *(console.interval(entry[m]) for m in names), *(console.lift(lifted[name].get(m)) for m in names)]
        for name, entry in record["rankers"].items()
    ]
    head = ["", *names.values(), *(f"{label} lift" for label in names.values())]
    title = f"{heading}Replay of the shown items; lift over {record['baseline']}, ± 95 %"
    console.table(title, head, rows, GRADE, judged_by(record))
    for sentence in equal_metrics(record):
        console.text(sentence)
