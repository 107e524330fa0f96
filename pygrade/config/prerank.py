"""Options of prerank."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PrerankConfig:
    """Size and training of the two-tower model, and the kind of its index."""

    width: int = 32  # numbers in a vector; one of them is the item's bias
    hidden: int = 64  # width of the hidden layer of either tower
    field_embedding: int = 8  # width of the embedding of a categorical feature
    max_items: int = 1 << 20  # items with an own embedding, the most frequent ones; others have features only
    max_categories: int = 1 << 20  # largest index that a categorical feature may have
    aging_features: bool = False  # the item tower reads counts, recencies, windows and ages too
    temperature: float = 0.1  # τ, the divisor of the cosine of the towers
    id_dropout: float = 0.1  # share of item ids hidden in training, so that items never trained on have a vector too
    dropout: float = 0.3  # dropout on the hidden layers
    learning_rate: float = 3e-3  # step size of AdamW
    weight_decay: float = 0.1  # decoupled weight decay of AdamW, on every parameter
    frequency_half_life: float = 0.0  # positives after which an item's count weighs half; 0: no decay
    batch_size: int = 512  # positives a step; each is a negative for all others
    shuffle: int = 1 << 15  # positives in the buffer that mixes the stream
    epochs: int = 30  # most passes over the positives
    patience: int = 6  # passes without a better recall on the validation batches after which training stops
    recall_at: int = 100  # length of the lists whose recall decides when to stop
    validation_requests: int = 2000  # requests with a positive, the earliest, that the recall is measured on
    refit: bool = True  # after stopping, train again on the validation batches too, for the best number of passes
    index: str = "auto"  # ``flat`` (exact), ``ivf`` (approximate), or ``auto``: ivf above 200,000 items
    nlist: int = 0  # inverted lists of an ivf index; 0: 4 √items
    nprobe: int = 0  # lists that a search reads; 0: a twelfth of them
    seed: int = 0  # initial parameters, dropout and the order of the positives

    def __post_init__(self) -> None:
        minimum = {
            "width": 2,
            "hidden": 1,
            "field_embedding": 1,
            "max_items": 1,
            "max_categories": 1,
            "batch_size": 2,
            "shuffle": 0,
            "epochs": 1,
            "patience": 1,
            "recall_at": 1,
            "validation_requests": 1,
            "nlist": 0,
            "nprobe": 0,
        }
        for name, low in minimum.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} is {getattr(self, name)}; want at minimum {low}")
        for name in ("id_dropout", "dropout"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} is {getattr(self, name)}; want a number in [0, 1)")
        for name in ("temperature", "learning_rate"):
            if not getattr(self, name) > 0.0:
                raise ValueError(f"{name} is {getattr(self, name)}; want a positive number")
        for name in ("weight_decay", "frequency_half_life"):
            if not getattr(self, name) >= 0.0:
                raise ValueError(f"{name} is {getattr(self, name)}; want a number >= 0")
        if self.index not in ("auto", "flat", "ivf"):
            raise ValueError(f"index is {self.index!r}; want 'auto', 'flat' or 'ivf'")
        if self.nlist and self.nprobe > self.nlist:
            raise ValueError(f"nprobe is {self.nprobe}; want at most nlist, {self.nlist}")
