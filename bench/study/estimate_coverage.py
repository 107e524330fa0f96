"""Do off-policy estimates tell policies apart, and do their intervals cover the truth?

On each world twelve policies are estimated from logs that none was trained on: other requests of the users of the
regime's log, of which production drew and shuffled a share each. Draws come from three Dirichlets: around production's
weights, around the best static ones, and uniform. The truth is the closed-form value on new requests of these users.

GRADE is estimated by every method. Densities estimate it as it explores, and as it is far from the draws also a small
step from production toward it.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from bench.study.trial import ArmRanking, Array, Options, Trial
from pygrade import ops
from pygrade.config.simulation import SimulateConfig
from pygrade.evaluation.logged_rewards import LoggedRewards
from pygrade.evaluation.offpolicy import METHODS, OffPolicyEstimate
from pygrade.evaluation.policy_estimates import LIFT, by_position, drawn_estimates
from pygrade.logs import Logs
from pygrade.policy import FusionPolicy
from pygrade.policy.spec import fusion_formula
from pygrade.simulation.marketplace import TASK_VALUES, Requests
from pygrade.simulation.simulate import rank_pages, simulate_logs
from pygrade.training.stages import train_stage2
from pygrade.training.static_weights import best_static_weights

_FRESH = 50_000  # seed of the new requests, which no log uses
_CONCENTRATION = 15.0  # of the draws around weights
PRODUCTION, GRADE, STEP = "production", "GRADE", ", small step"
Rankings = Callable[[Array, Array], dict[str, Array]]  # context [n, F], predictions [n, N, T] → pages [n, K] by policy


def estimates(trial: Trial, options: Options) -> ArmRanking:
    """Figures in per cent: of lifts over production by drawn share, their correlation with the true ones over the
    policies, share covered, error and half width; of each method on GRADE the same, with the largest drawn share.
    """
    grade, rankings = _rankings(trial, options)
    fresh = trial.world.requests(options["truth"], _FRESH, "log")
    values = {
        name: float(trial.world.expected(fresh, page).value.mean())
        for name, page in rankings(fresh.context, fresh.p_hat).items()
    }
    true = {name: value / values[PRODUCTION] - 1 for name, value in values.items() if name != PRODUCTION}
    figures = {f"true {name}": 100 * lift for name, lift in true.items()}
    propensity = trial.data.propensity
    curve = propensity.curve(trial.world.config.page_size)
    for share in options["drawn"]:
        logs = _log(trial, share)
        rewards = LoggedRewards.of(logs, curve, fusion_formula(grade.config), propensity.standard_error)
        pages = rankings(logs.context, logs.predictions.reshape(logs.num_requests, -1, len(logs.tasks)))
        targets = {name: _rank(logs, page) for name, page in pages.items()}
        production = targets.pop(PRODUCTION)
        lifts = rewards.lifts(targets, production)
        tag = f", {100 * share:g} % drawn"
        errors = np.array([100 * (lifts[name].value - true[name]) for name in true])
        pairs = [(0.0, 0.0), *((lifts[name].value, true[name]) for name in true)]
        figures |= {f"estimated {name}{tag}": 100 * lift.value for name, lift in lifts.items()}
        figures |= {
            f"correlation{tag}": float(np.corrcoef(np.transpose(pairs))[0, 1]),
            f"lifts covered{tag}": float(np.mean([lifts[name].low <= true[name] <= lifts[name].high for name in true])),
            f"lifts error{tag}": float(errors.mean()),
            f"lifts root mean squared error{tag}": float(np.sqrt(np.square(errors).mean())),
            f"lifts half{tag}": float(np.mean([50 * (lift.high - lift.low) for lift in lifts.values()])),
        }
        if share == max(options["drawn"]):
            methods = by_position(rewards, targets[GRADE]) | _densities(trial, grade, logs)
            truths = dict.fromkeys(methods, values[GRADE]) | {LIFT: true[GRADE]}
            truths |= _explored_truths(trial, grade, fresh, options["draws"])
            for name, estimate in methods.items():
                figures |= _figures(name, estimate, truths[name], 1.0 if name == LIFT else truths[name])
    return trial.serve(grade, figures=figures)


def _densities(trial: Trial, grade: FusionPolicy, logs: Logs) -> dict[str, OffPolicyEstimate]:
    """GRADE as it explores, and a small step toward it, by densities."""
    drawn = logs.select(np.flatnonzero(logs.exploration == "dirichlet"))
    inputs = grade.request_inputs(drawn.context, drawn.predictions, drawn.offsets)
    result: dict[str, OffPolicyEstimate] = {}
    with torch.no_grad():
        for suffix, concentration in (("", grade.concentration(inputs)), (STEP, _step(trial, grade.serve(inputs)))):
            found = drawn_estimates(drawn, concentration.numpy())
            del found["logged"]  # of another policy
            result |= {name + suffix: estimate for name, estimate in found.items()}
    return result


def _explored_truths(trial: Trial, grade: FusionPolicy, fresh: Requests, draws: int) -> dict[str, float]:
    """What `_densities` estimates."""
    inputs = grade.request_inputs(fresh.context, fresh.p_hat)
    with torch.no_grad():
        truth, of_step = (
            _explored(trial, fresh, c, draws) for c in (grade.concentration(inputs), _step(trial, grade.serve(inputs)))
        )
    return dict.fromkeys(METHODS, truth) | {name + STEP: of_step for name in METHODS}


def _figures(name: str, estimate: OffPolicyEstimate, truth: float, scale: float) -> dict[str, float]:
    return {
        f"covered {name}": float(estimate.low <= truth <= estimate.high),
        f"error {name}": 100 * (estimate.value - truth) / scale,
        f"half {name}": 50 * (estimate.high - estimate.low) / scale,
        f"ess {name}": estimate.effective_sample_size,
        f"warned {name}": float(estimate.warning is not None),
    }


def _step(trial: Trial, weights: Tensor) -> Tensor:
    """The Dirichlet around production's weights with its mean moved a quarter of the way to weights [n, T]."""
    production = torch.from_numpy(trial.production).float()
    return (_CONCENTRATION * (0.75 * production + 0.25 * weights)).contiguous()


def _explored(trial: Trial, requests: Requests, concentration: Tensor, draws: int) -> float:
    """Expected value of pages ranked by weights drawn from the concentrations [n, T]."""
    weights = ops.dirichlet_sample(concentration, draws, trial.world.seed).weights.numpy()
    return float(np.mean([trial.value(requests, weights[:, g]) for g in range(draws)]))


def _log(trial: Trial, share: float) -> Logs:
    """As many requests as the regime's log has, of which a share is drawn and as many are shuffled."""
    around = trial.production, trial.static.numpy()
    centers = [_CONCENTRATION * weights.astype(float) / weights.sum() for weights in around]
    config = SimulateConfig(
        requests=trial.regime.requests,
        seed=trial.world.seed,
        dirichlet_share=share,
        shuffle_share=share,
        concentrations=tuple(map(tuple, [*centers, np.ones(len(trial.production))])),
        world=trial.regime.marketplace,
    )
    return simulate_logs(config, world=trial.world, number=1)


def _rank(logs: Logs, page: Array) -> Array:
    """[M]: the slot of each candidate on pages [R, K], -1: none."""
    rank = np.full((logs.num_requests, logs.num_rows // logs.num_requests), -1)
    np.put_along_axis(rank, page, np.arange(page.shape[1])[None], 1)
    return rank.ravel()


def _rankings(trial: Trial, options: Options) -> tuple[FusionPolicy, Rankings]:
    """GRADE and how the twelve policies rank: learned and simple ones, random personal weights, and between them."""
    config = trial.config(options)
    grade, stage1 = trial.stage1(config), trial.stage1(config)
    train_stage2(trial.training_data(config), grade, config.stage2, seed=trial.seed, engine=config.engine)
    linear = replace(config, policy=replace(config.policy, transform="zscore"))
    static_linear = best_static_weights(trial.build(linear), config.static, bounds=trial.spec(linear).bounds).numpy()
    strange = [_random_policy(trial, seed) for seed in (1, 2)]
    slots, production = trial.world.config.page_size, trial.production

    def rankings(context: Array, p_hat: Array) -> dict[str, Array]:
        inputs = grade.request_inputs(context, p_hat)
        served = [policy.serve(inputs).numpy() for policy in (stage1, grade, *strange)]
        of_stage1, of_grade, first, second = served
        weights = {
            PRODUCTION: production,
            "equal weights": np.full(len(production), 1 / len(production), np.float32),
            "best static": trial.static.numpy(),
            "stage 1": of_stage1,
            GRADE: of_grade,
            "half of GRADE": 0.5 * (production + of_grade),
            "random": first,
            "random and GRADE": 0.5 * (first + of_grade),
            "random and production": 0.4 * production + 0.6 * second,
            "GRADE and random": 0.7 * of_grade + 0.3 * second,
        }
        pages = {name: rank_pages(p_hat, w.astype(np.float32), slots) for name, w in weights.items()}
        pages["expected value"] = rank_pages(p_hat, np.array(TASK_VALUES, np.float32), slots, "identity")
        return pages | {"best static, linear": rank_pages(p_hat, static_linear, slots, "zscore")}

    return grade, rankings


def _random_policy(trial: Trial, seed: int) -> FusionPolicy:
    """Personal weights that nothing was learned for."""
    policy = trial.policy(trial.config({}))
    rng = torch.Generator().manual_seed(1000 * trial.world.seed + seed)
    with torch.no_grad():
        for name, deviation in (("body.0.weight", 0.3), ("head.weight", 0.4), ("head.bias", 0.5)):
            policy.get_parameter(name).normal_(0.0, deviation, generator=rng)
    return policy
