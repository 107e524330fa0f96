"""Training of a policy: reward, static weights, both stages, checkpoints, online learning.

A log becomes `TrainingData` once and goes to the end of stage 2 as such::

    log (Logs, or Parquet files)
     │ data.open_log                read if it is short
     │ prepare.prepare_data         reward.CompositeReward makes RequestTensors of its requests
     ▼
    TrainingData                    S shards: one in memory, or several in files; a sample of the requests
     │ static_weights               best static weights, of requests that the data gives
     │ data.fit_normalization       of the policy's inputs
     ▼
    stages: stage 1 ──▶ stage 2     a step: the batch is split by shard (StepRequest); a ShardLearner for each shard
     │                              adds its StepGradient; the sum, in the order of the shards, moves the policy
     ▼
    folds, cross_fit                the same without the users of each fold; chooses what is served
"""
