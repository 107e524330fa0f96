"""The correction of another market: a start for that of a small log."""

from pygrade._util.serialization import ArtifactError
from pygrade.policy import FusionPolicy
from pygrade.policy.correction import Correction
from pygrade.storage import Place


def load_prior(place: Place, tasks: tuple[str, ...]) -> Correction:
    """The correction of the policy at a directory or URL. ValueError that names the prior if there is no policy, if it
    has no correction, or if it shares none of the tasks.
    """
    try:
        correction = FusionPolicy.load(place).correction
    except (FileNotFoundError, ArtifactError) as error:
        raise ValueError(f"correction.prior is {place}; expected the directory of a saved policy: {error}") from error
    if correction is None:
        raise ValueError(f"correction.prior is {place}, a policy without a correction; expected one with it")
    if not set(correction.tasks) & set(tasks):
        named = ", ".join(correction.tasks)
        raise ValueError(f"correction.prior is {place}, which has tasks {named}; expected one of {', '.join(tasks)}")
    return correction
