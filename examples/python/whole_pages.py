"""python whole_pages.py [REQUESTS] [DIR]: a market whose alike items satiate → a policy with page terms → a page.

`pygrade simulate` and `pygrade train` do the same on the command line.
"""

import sys
from pathlib import Path

from pygrade import train
from pygrade.config.marketplace import MarketplaceConfig, PageEffects
from pygrade.config.simulation import SimulateConfig
from pygrade.simulation.simulate import simulate_logs


def main(requests: int, directory: Path) -> None:
    world = MarketplaceConfig(pages=PageEffects(strength=1.5))
    logs = simulate_logs(SimulateConfig(requests=requests, seed=1, likeness=True, world=world))
    print(f"{logs.num_requests} requests, items of {len(set(logs.category))} categories, one page in ten shuffled")

    result = train(logs, out_dir=directory)
    print(result.verdict)
    correction = result.policy.correction
    if correction is None or correction.page_terms is None:
        print("no page terms: this log does not prove that what stands above an item counts")
        return
    terms = correction.page_terms
    for name, row in zip(terms.categories, terms.pairs, strict=True):
        print(f"  {name:12}", *(f"{number:+.2f}" for number in row))
    print(f"  cosine {terms.cosine:+.2f}, {'greedy' if terms.beam == 1 else f'beam {terms.beam}'}")

    late = result.heldout.select([0])
    page, by_score = result.rank(late, k=10), result.rank(late, k=10, page_terms=False)
    print("page:")
    for slot, (place, other) in enumerate(zip(page.indices[0], by_score.indices[0], strict=True)):
        names = late.category[place], late.category[other]
        print(f"  {slot} {names[0]:12} by score: {names[1]:12} {page.explain_move(0, slot)}")


if __name__ == "__main__":
    requests, directory = (*sys.argv[1:], *("5000", "runs/whole-pages")[len(sys.argv) - 1 :])
    main(int(requests), Path(directory))
