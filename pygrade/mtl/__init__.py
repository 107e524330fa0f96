"""A multi-task model that predicts every kind of feedback for a candidate: MMoE or PLE, with a funnel (ESMM) if wanted.

It stands where a production ranker has its own multi-task model. From rows to predictions for the policy::

    timeline = split_times(batches)  # train | early stop | calibrate | predict, by time
    model = fit_stream(batches, tasks, timeline, MtlConfig(funnel=(("click", "order"),)))
    p = predict(model, dense, ids, offsets)  # of later rows: out of time, calibrated
    save(model, directory)

Why the networks are ours. torch-rechub 0.9 has MMOE, PLE and ESMM, and its MMOE and PLE rank the KuaiRand excerpt as
well as these do: mean AUC of seven tasks 0.764 and 0.755 (MMOE, two seeds), 0.765 and 0.759 (PLE) in this trainer,
against 0.762 and 0.764 of our MMoE. What they lack for this place:

- Time. 500 rows of 100 inputs for 6 tasks take its MMOE 1.2 ms and its PLE 1.7 ms (one level) or 3.1 ms (two) on one
  core, without hashing and embeddings, because each expert, gate and tower is a module of its own; the trainer took 2
  to 4 times as long with them.
- The funnel. Its ESMM is two plain towers for two fixed tasks; it drops dense features, wants all embeddings equally
  wide, and returns probabilities, from which neither the weight of positives nor small products can be taken out
  exactly.
- Batch normalisation in every layer, which fails on a batch of one row and makes a row's training depend on the others.
- Its import takes a second and brings scikit-learn, pandas and SciPy into a serving process.
"""

from pygrade.mtl.artefact import load, save
from pygrade.mtl.calibration import Calibration
from pygrade.mtl.config import Columns, MtlConfig
from pygrade.mtl.metrics import TaskMetrics, ece, judge, metrics
from pygrade.mtl.model import MtlModel, predict
from pygrade.mtl.network import hash_ids
from pygrade.mtl.timeline import Timeline, split_times
from pygrade.mtl.training import fit, fit_stream

__all__ = [
    "Calibration", "Columns", "MtlConfig", "MtlModel", "TaskMetrics", "Timeline", "ece", "fit", "fit_stream",
    "hash_ids", "judge", "load", "metrics", "predict", "save", "split_times",
]  # fmt: skip
