"""A multi-task model that predicts every kind of feedback for a candidate: PLE or MMoE, with an optional funnel (ESMM).

It takes the place of a production ranker's own multi-task model. From rows to predictions for the policy::

    # train | early stop | calibrate | predict, by time
    timeline = count_times(time for *_, time in batches()).split((0.5, 0.1, 0.15))
    model = fit_stream(batches, tasks, timeline, columns, MtlConfig(funnel=(("click", "order"),)))
    p = predict(model, dense, ids)  # of later rows: out of time, calibrated
    save(model, directory)

The networks are ours, as those of torch-rechub 0.9 rank the KuaiRand excerpt no better and lack the funnel of any tasks
(ESMM) and time: the C++ core computes what depends on the request alone once.
"""

from pygrade.mtl.columns import Columns
from pygrade.mtl.model import MtlModel, load, predict, save
from pygrade.mtl.timeline import TimeCounts, TimeSplit, count_times
from pygrade.mtl.training import fit_stream

__all__ = ["Columns", "MtlModel", "TimeCounts", "TimeSplit", "count_times", "fit_stream", "load", "predict", "save"]
