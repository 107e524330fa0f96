"""Options of the multi-task model."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class MtlConfig:
    """Size and training of the multi-task model."""

    network: Literal["ple", "mmoe"] = "ple"  # ple: shared experts and experts of each task; mmoe: shared ones only
    levels: int = 1  # layers of experts (PLE)
    task_experts: int = 1  # experts per task in a layer (PLE)
    shared_experts: int = 1  # experts for all tasks in a layer (PLE)
    experts: int = 4  # experts for all tasks (MMoE)
    expert_hidden: int = 64  # width of an expert's hidden layer
    expert_output: int = 32  # width of an expert's output, which the towers read
    tower_hidden: int = 16  # width of a task tower's hidden layer
    embedding: int = 4  # width of the embedding of each id column
    buckets: int = 1 << 15  # hash buckets of an id column without a vocabulary; ids that collide share an embedding
    funnel: tuple[tuple[str, str], ...] = ()  # ("click", "order"): p(order) = p(click) · p(order | click), as in ESMM
    dropout: float = 0.4  # on the embeddings and on the experts' hidden layer
    positive_weight_power: float = (
        0.5  # positives weigh (negatives / positives) ** power in the loss, not in predictions
    )
    max_positive_weight: float = 30.0  # upper bound of that weight
    learning_rate: float = 1e-3  # step size of AdamW
    weight_decay: float = 0.3  # decoupled weight decay of AdamW, on every parameter
    batch_size: int = 512  # rows per step
    epochs: int = 20  # maximum number of passes over the training rows
    patience: int = 3  # passes without improvement on the early-stopping rows, after which training stops
    stop_on: Literal["auc", "loss"] = "auc"  # what early stopping watches: weighted mean AUC, or mean log-loss
    calibration: Literal["beta", "isotonic"] = "beta"  # three numbers per task, or a monotone curve (many positives)
    refit: bool = True  # train again with the early-stopping rows included, for the best number of passes
    memory_rows: int = 1 << 17  # rows held at a time; a part with more rows is streamed through a shuffle buffer
    seed: int = 0  # of initial parameters, dropout and the order of rows

    def __post_init__(self) -> None:
        sizes = "levels task_experts shared_experts experts expert_hidden expert_output tower_hidden embedding buckets"
        for name in (*sizes.split(), "batch_size", "epochs", "patience", "memory_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; want at least 1")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout is {self.dropout}; want a number in [0, 1)")
        choices = {"network": ("ple", "mmoe"), "stop_on": ("auc", "loss"), "calibration": ("beta", "isotonic")}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; want {' or '.join(map(repr, known))}")
