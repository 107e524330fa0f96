from typing import Any

__version__: str

def active_isa() -> str: ...
def available_isas() -> list[str]: ...
def group_advantage(
    rewards: Any,
    component_weights: Any,
    normalize: int,
    leave_one_out: bool,
    clip: float,
    advantage: Any,
    num_threads: int,
) -> None: ...
def lambda_loss(
    scores: Any,
    gains: Any,
    mask: Any,
    discount: Any,
    temperature: float,
    loss: Any,
    gradient: Any,
    num_threads: int,
) -> None: ...
