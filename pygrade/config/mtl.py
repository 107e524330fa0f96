"""Options of the multi-task model."""

from dataclasses import dataclass
from typing import ClassVar

from pygrade.config.option import Options, option


@dataclass(frozen=True)
class MtlConfig(Options):
    """Size and training of the multi-task model."""

    PYTHON_ONLY: ClassVar = (  # not on the command line
        *("task_experts", "shared_experts", "expert_output", "tower_hidden", "positive_weight_power"),
        *("max_positive_weight", "memory_rows", "seed"),
    )

    task_experts: int = option(1, "experts of each task (PLE); 0: shared ones alone (MMoE)", ge=0)
    shared_experts: int = option(1, "experts for all tasks", ge=1)
    expert_hidden: int = option(64, "width of an expert's hidden layer", ge=1)
    expert_output: int = option(32, "width of an expert's output, which the towers read", ge=1)
    tower_hidden: int = option(16, "width of a task tower's hidden layer", ge=1)
    embedding: int = option(4, "width of the embedding of each id column", ge=1)
    funnel: tuple[tuple[str, str], ...] = option(
        (), '("click", "order"): p(order) = p(click) · p(order | click), as in ESMM'
    )
    dropout: float = option(0.4, "on the embeddings and on the experts' hidden layer", ge=0, lt=1)
    positive_weight_power: float = option(0.5, "positives weigh (negatives / positives) ** power in the loss alone")
    max_positive_weight: float = option(30.0, "upper bound of that weight")
    learning_rate: float = option(1e-3, "step size of AdamW")
    weight_decay: float = option(0.3, "decoupled weight decay of AdamW, on every parameter")
    batch_size: int = option(512, "rows per step", ge=1)
    epochs: int = option(20, "maximum number of passes over the training rows", ge=1)
    patience: int = option(3, "passes without improvement on the early-stopping rows, after which training stops", ge=1)
    refit: bool = option(True, "train again with the early-stopping rows included, for the best number of passes")
    memory_rows: int = option(1 << 17, "rows held at a time; larger parts are streamed through a shuffle buffer", ge=1)
    seed: int = option(0, "seed of initial parameters, dropout and the order of rows")
