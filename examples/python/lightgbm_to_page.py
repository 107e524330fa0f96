"""python lightgbm_to_page.py [REQUESTS] [PAGE]: impressions → LightGBM's probabilities → a verdict, and its page.

It needs LightGBM. Other classifiers with `predict_proba` fit as well.
"""

import sys

import numpy as np
from lightgbm import LGBMClassifier
from small_market import MODEL_INPUTS, impressions, split

from pygrade import FusionEstimator


def inputs_of(table: dict[str, np.ndarray]) -> np.ndarray:
    return np.stack([table[name] for name in MODEL_INPUTS], 1)


requests, page = (*sys.argv[1:], *("9000", "lightgbm.html")[len(sys.argv) - 1 :])
early, late = split(impressions(int(requests)))
shown = ~np.isnan(early["slot"])
for task, feedback in (("click", "clicked"), ("order", "ordered")):
    model = LGBMClassifier(n_estimators=60, num_leaves=15, min_child_samples=100, verbose=-1)
    model.fit(inputs_of(early)[shown], early[feedback][shown])
    late[f"p_{task}"] = model.predict_proba(inputs_of(late))[:, 1]

ranker = FusionEstimator(k=5, map="exploration=page,click=clicked,order=ordered", values={"order": 10}).fit(late)
print(ranker.verdict_)
print("a page of five:", ranker.rank(ranker.result_.heldout.select([0])).indices[0].tolist())
print("page:", ranker.result_.report(page))
