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
