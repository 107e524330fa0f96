"""Options of prerank."""

from dataclasses import dataclass
from typing import ClassVar

from pygrade.config.option import Options, option


@dataclass(frozen=True)
class PrerankConfig(Options):
    """Size and training of the two-tower model."""

    # not on the command line
    PYTHON_ONLY: ClassVar = ("field_embedding", "temperature", "id_dropout", "shuffle", "recall_at", "seed")

    width: int = option(32, "numbers in a vector; one of them is the item's bias", ge=2)
    hidden: int = option(64, "width of the hidden layer of either tower", ge=1)
    field_embedding: int = option(8, "width of the embedding of a categorical feature", ge=1)
    max_items: int = option(1 << 20, "items with an own embedding, the most frequent; others have features only", ge=1)
    temperature: float = option(0.1, "τ, the divisor of the cosine of the towers", gt=0)
    id_dropout: float = option(
        0.1, "share of item ids hidden in training, so that items never trained on have a vector too", ge=0, lt=1
    )
    dropout: float = option(0.3, "dropout on the hidden layers", ge=0, lt=1)
    learning_rate: float = option(3e-3, "step size of AdamW", gt=0)
    weight_decay: float = option(0.1, "decoupled weight decay of AdamW, on every parameter", ge=0)
    batch_size: int = option(512, "positives a step; each is a negative for all others", ge=2)
    shuffle: int = option(1 << 15, "positives in the buffer that mixes the stream", ge=0)
    epochs: int = option(30, "most passes over the positives", ge=1)
    patience: int = option(6, "passes without a better recall on the validation batches that end the training", ge=1)
    recall_at: int = option(100, "length of the lists whose recall decides when to stop", ge=1)
    refit: bool = option(True, "train again with the validation batches after stopping, for as many passes")
    seed: int = option(0, "initial parameters, dropout and the order of the positives")
