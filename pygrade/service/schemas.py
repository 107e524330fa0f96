"""Requests and answers as OpenAPI shows them. The core checks requests; these models describe them."""

from pydantic import BaseModel, ConfigDict, Field

Id = int | str


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class RankRequest(_Request):
    """A page for a user. Unknown keys are errors."""

    user: Id = Field(description="whom the page is for: a number, or the name if users have names in the run's data")
    k: int = Field(10, description="items a page")
    candidates: int = Field(500, description="that prerank finds among all items, or the eligible ones")
    items: list[Id] | None = Field(None, description="the candidates, without a search")
    item_values: list[float] | None = Field(None, description="prices of the items, in their order")
    seen: list[Id] | None = Field(None, description="items that the search leaves out")
    eligible: list[Id] | None = Field(None, description="the only items to search")
    context: dict[str, float | str | None] | None = Field(None, description="c_ columns of the feature schema")
    scenario: str | None = Field(None, description="chooses fallback weights, exploration and multipliers")
    timestamp: int | None = Field(None, description="ms since 1970; none: now")
    explore: bool | None = Field(None, description="serve a draw; none: as the arm's share says")
    values: dict[str, float] | None = Field(None, description="multipliers of the tasks' values")
    deadline_ms: float | None = Field(None, description="after which the page is made without the user's features")
    arm: str | None = Field(None, description="forces an arm; none: by a hash of the user")
    request_id: str | None = Field(None, description="feedback is joined by it; none: a new one")


class Degraded(BaseModel):
    """What an answer says beside its page."""

    request_id: str
    arm: str
    artifact: str = Field(description="version of the models and the store")
    policy: str = Field(description="version of the policy")
    trust: float = Field(description="share of the policy in the scores, the rest is the baseline's")
    degraded: str | None = Field(description="store or deadline: why the page has no features of the user")
    fallback: str | None = Field(description="scenario or global: whose static weights were served")
    explored: bool = Field(description="the weights are a draw")
    seed: int = Field(description="of the draw")
    seconds: dict[str, float] = Field(description="by step")


class RankResponse(Degraded):
    """The page: items, best first, and the weights that ranked them."""

    items: list[int]
    names: list[str | None] | None = Field(None, description="of the items, if the run's data has names")
    scores: list[float | None]
    weights: dict[str, float] = Field(description="by task")


class ExplainResponse(RankResponse):
    """The page of /v1/rank and why it is as it is."""

    model_config = ConfigDict(extra="allow")


class Event(_Request):
    """Feedback on an item."""

    user: Id
    item: Id
    task: str | None = Field(None, description="of the run's log; none: the item was shown, and that is all")
    timestamp: int = Field(description="ms since 1970")
    amount: float = Field(1.0, description="of the task, 0 or more")
    request_id: str | None = Field(None, description="of the page that showed the item; joins the event to it")
    scenario: str | None = Field(None, description="of the page")
    measures: dict[str, float] | None = Field(None, description="of the event, such as seconds watched")
    event_id: str | None = Field(None, description="the same each time that the event is sent: it counts once")


class UpdateRequest(_Request):
    """Feedback: features of later pages and the feedback log have it."""

    events: list[Event]


class UpdateResponse(BaseModel):
    """How many events were taken."""

    model_config = ConfigDict(extra="allow")


class Reason(BaseModel):
    """What is wrong with which argument."""

    argument: str | None
    message: str


class ErrorResponse(BaseModel):
    """An error."""

    error: Reason


class State(BaseModel):
    """State of the service, see the glossary of the guide."""

    model_config = ConfigDict(extra="allow")
