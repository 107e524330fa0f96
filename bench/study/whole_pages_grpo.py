"""python -m bench.study.whole_pages_grpo OUT.json: GRPO over whole pages, beside greedy with the learned terms.

A network of the request gives a Dirichlet over the tasks' value multipliers and a log-normal diversity, a factor of the
page terms. Drawn pages are greedy under them, rewarded by what the terms as learned say of them, and compared within
their request. See the protocol. OUT keeps what it has.
"""

import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Dirichlet, Normal, kl_divergence

import pygrade
from bench.study.stats import Record
from bench.study.whole_pages import MODERATE, STRONG, TESTS, VALUES, Part, Search, beam_pages, learned_world
from pygrade._typing import Array, Floats
from pygrade.policy.spec import PolicySpec
from pygrade.simulation.marketplace import FEATURES, TASKS

WORLDS = (9851, 9852, 9853)
PARTS = (Part("strong", WORLDS, 20_000, STRONG), Part("moderate", WORLDS, 20_000, MODERATE))
STARTS = (1.0, 0.3)  # of the diversity, relative to the learned one
REQUESTS = 5_000  # of training: of the log's users, without feedback
STEPS, LONG = 600, 2_400  # LONG: on the first world of the first part
_CONCENTRATION, _SPREAD = 20.0, 0.5  # of the draws
_KL = 0.01
_BLOCK = 500


class PagePolicy(nn.Module):
    """Inputs [n, F] → the distributions of multipliers [n, T], of sum 1, and of log diversity [n]."""

    def __init__(self, inputs: Tensor, start: float) -> None:
        super().__init__()
        self.mean, self.std = inputs.mean(0), inputs.std(0) + 1e-6
        self.start = float(np.log(start))
        width, last = 64, nn.Linear(64, len(VALUES) + 1)
        self.net = nn.Sequential(nn.Linear(inputs.shape[1], width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), last)
        with torch.no_grad():
            last.weight.mul_(0.05)
            last.bias.zero_()

    def forward(self, inputs: Tensor) -> tuple[Dirichlet, Normal]:
        out = self.net((inputs - self.mean) / self.std)
        multipliers = _CONCENTRATION * torch.softmax(out[:, :-1], 1) + 0.05
        return Dirichlet(multipliers), Normal(self.start + out[:, -1], _SPREAD)


@dataclass(frozen=True)
class Problem:
    """Requests, and what the policy reads of them."""

    search: Search
    inputs: Tensor

    @classmethod
    def of(cls, search: Search) -> "Problem":
        spec = PolicySpec(tasks=TASKS, features=FEATURES)
        return cls(search, spec.request_inputs(search.requests.context, search.corrected))

    def pages(self, rows: Array, weights: Floats, diversity: Floats) -> tuple[Array, Floats]:
        """The greedy pages [n, G, K] under weights [n, G, T] and diversities [n, G], and what the terms say of them."""
        search, likeness = self.search, self.search.learned(rows)
        n, size = likeness.shape[:2]
        score = np.einsum("nct,ngt->ngc", search.corrected[rows], weights * len(VALUES) * VALUES)
        scaled = (likeness[:, None] * diversity.astype(np.float32)[..., None, None]).reshape(-1, size, size)
        pages = beam_pages(score.reshape(-1, size), scaled, search.attention, search.examined, 1)
        pages = pages.reshape(n, diversity.shape[1], -1)
        return pages, search.worth(search.value[rows], likeness, pages)


def train(problem: Problem, start: float, steps: int, seed: int, batch: int = 64, group: int = 16) -> PagePolicy:
    """GRPO with one update per draw, so that no ratio is clipped."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    policy, anchor = PagePolicy(problem.inputs, start), PagePolicy(problem.inputs, start)
    anchor.load_state_dict(policy.state_dict())
    optimizer = torch.optim.Adam(policy.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, steps)
    for _ in range(steps):
        rows = rng.integers(0, len(problem.inputs), batch)
        weights, log_diversity = policy(problem.inputs[rows])
        u, d = weights.sample((group,)).clamp(min=1e-5), log_diversity.sample((group,))
        _, worth = problem.pages(rows, u.transpose(0, 1).numpy(), d.T.exp().numpy())
        reward = torch.from_numpy(worth.astype(np.float32))
        advantage = pygrade.group_advantage(reward[..., None])
        likelihood = weights.log_prob(u / u.sum(-1, keepdim=True)) + log_diversity.log_prob(d)
        with torch.no_grad():
            first = anchor(problem.inputs[rows])
        apart = kl_divergence(weights, first[0]) + kl_divergence(log_diversity, first[1])
        loss = -(advantage.T * likelihood).mean() + _KL * apart.mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return policy


def served(policy: PagePolicy, problem: Problem) -> tuple[Array, Floats, Floats]:
    """Pages [n, K] under the means, the multipliers [n, T] (1: as valued) and the diversities [n]."""
    with torch.no_grad():
        weights, log_diversity = policy(problem.inputs)
    u, d = weights.mean.numpy(), log_diversity.mean.exp().numpy()
    blocks = [np.arange(len(u))[start : start + _BLOCK] for start in range(0, len(u), _BLOCK)]
    pages = [problem.pages(rows, u[rows, None], d[rows, None])[0][:, 0] for rows in blocks]
    return np.concatenate(pages), u * u.shape[1], d


def measure(part: Part, seed: int) -> Iterator[Record]:
    """Each training on one world; values over corrected expected value, sorted, in per cent."""
    world, found = learned_world(part, seed)
    if found.pages is None or not found.pages.gain.passes:
        yield {"part": part.name, "world": seed, "served": False}
        return
    problem = Problem.of(Search(world, world.requests(REQUESTS, seed + 1, "log"), found))
    test = Problem.of(Search(world, world.requests(TESTS, seed, "test"), found))
    search, greedy = test.search, test.search.search(1)
    over = float(search.page_value(search.sorted()).mean())
    for steps in (STEPS, LONG) if (part, seed) == (PARTS[0], PARTS[0].worlds[0]) else (STEPS,):
        for start in STARTS:
            pages, multipliers, diversity = served(train(problem, start, steps, seed), test)
            record: dict[str, Any] = {"part": part.name, "world": seed, "served": True, "start": start, "steps": steps}
            for name, page in (("greedy", greedy), ("grpo", pages)):
                record[name] = 100 * (float(search.page_value(page).mean()) / over - 1)
            record["claim"] = 100 * (search.claimed(pages) / search.claimed(greedy) - 1)
            record["diversity"] = float(np.median(diversity))
            yield record | {"multipliers": multipliers.mean(0).round(4).tolist()}


def run(out: Path) -> None:
    """Adds the worlds that OUT lacks."""
    logging.getLogger("pygrade").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    found = json.loads(out.read_text(encoding="utf-8")) if out.exists() else []
    for seed, part in ((seed, part) for seed in WORLDS for part in PARTS):
        if not any(entry["part"] == part.name and entry["world"] == seed for entry in found):
            found.extend(measure(part, seed))
            out.write_text("[\n" + ",\n".join(map(json.dumps, found)) + "\n]\n", encoding="utf-8")
            print(json.dumps(found[-1]), flush=True)


if __name__ == "__main__":
    run(Path(sys.argv[1]))
