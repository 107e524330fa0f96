"""Training of a policy: reward, static weights, both stages, checkpoints, online learning.

A log goes one way, whatever its size::

    log (Logs, or Parquet files)
     │ Dataset.open                 in memory, or mapped from a file a column
     │ evidence.clean               robots, heavy users, huge amounts
     ▼
    Dataset ──▶ sample              a uniform sample judges; all requests are learned from
     │ evidence                     slot propensities, production, folds, the accepted correction
     ▼
    fit.learn                       TrainingData → static weights → stage 1 → stage 2 → simple baselines
     ▼
    folds, cross_fit                the same of `dataset.without(fold)`, as jobs of workers; chooses what is served
"""
