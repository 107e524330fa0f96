"""A multi-task model that predicts every kind of feedback for a candidate: PLE or MMoE, with an optional funnel (ESMM).

It takes the place of a production ranker's own multi-task model. From rows to predictions for the policy::

    # train | early stop | calibrate | predict, by time
    timeline = count_times(time for *_, time in batches()).split((0.5, 0.1, 0.15))
    model = fit_stream(batches, tasks, timeline, MtlConfig(funnel=(("click", "order"),)))
    p = predict(model, dense, ids)  # of later rows: out of time, calibrated
    save(model, directory)

Why the networks are ours. torch-rechub 0.9 has MMOE, PLE and ESMM. Put into this trainer, its PLE ranks the KuaiRand
excerpt as well as ours (mean AUC of seven tasks at three seeds: 0.769, 0.770, 0.767; ours 0.767, 0.772, 0.771) and its
MMOE about as well (0.757, 0.761, 0.759; ours 0.763, 0.766, 0.762). What they lack here:

- Time. For 500 rows of 147 inputs and 7 tasks on one core its MMOE takes 1.5 ms and its PLE 2.1 ms, without hashing and
  embeddings, because each expert, gate and tower is a separate module. The C++ core takes 0.3 ms for our PLE, with
  hashing, embeddings and calibration, since it computes what depends on the request alone once
  (`bench/results/mtl.json`). Training theirs takes 1.7 times as long.
- The funnel. Its ESMM is two plain towers for two fixed tasks; it drops dense features, wants all embeddings equally
  wide, and returns probabilities: neither the weight of positives nor small products can be recovered exactly from
  them.
- Batch normalization in every layer, which fails on a batch of one row and ties the training of rows to each other.
- Its import takes a second and brings scikit-learn, pandas and SciPy into a serving process.
"""

from pygrade.mtl.artifact import load, save
from pygrade.mtl.columns import Columns
from pygrade.mtl.model import MtlModel, predict
from pygrade.mtl.timeline import TimeCounts, Timeline, count_times
from pygrade.mtl.training import fit_stream

__all__ = [
    "Columns",
    "MtlModel",
    "TimeCounts",
    "Timeline",
    "count_times",
    "fit_stream",
    "load",
    "predict",
    "save",
]
