"""Training on the cluster: one rank is a job like others; several are Ray Train's `TorchTrainer`, over gloo, and NCCL
where the ranks have GPUs."""

import logging
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import ray.train
import torch
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

from pygrade._util.text import one_line
from pygrade.cluster.errors import ClusterError
from pygrade.workers import error_context
from pygrade.workers.group import FileCheckpoints, Group
from pygrade.workers.ranks import CHECKPOINT, RESTARTS

logger = logging.getLogger("pygrade")

Job = TypeVar("Job")
Result = TypeVar("Result")


class _Failed(NamedTuple):
    """A result that is an error that every rank raised, and would raise again."""

    error: Exception


@dataclass(frozen=True)
class Alone:
    """A training of one rank, as the work of a job."""

    loop: Callable[[Group, Any], Any]
    directory: Path
    gpu: bool

    def __call__(self, job: Any) -> Any:
        """Runs in a worker. If it is lost, the next one goes on from the last checkpoint."""
        checkpoints = FileCheckpoints(self.directory / CHECKPOINT)
        return self.loop(Group(checkpoints, "cuda" if self.gpu else "cpu"), job)


class RayCheckpoints:
    """Ray Train's storage: a directory or bucket that every node sees."""

    def write(self, content: bytes | None) -> None:
        """See `Checkpoints`."""
        if content is None:
            ray.train.report({})
            return
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / CHECKPOINT).write_bytes(content)
            ray.train.report({}, checkpoint=Checkpoint.from_directory(folder))

    def read(self) -> bytes | None:
        """See `Checkpoints`."""
        last = ray.train.get_checkpoint()
        if last is None:
            return None
        with last.as_directory() as folder:
            return (Path(folder) / CHECKPOINT).read_bytes()


def train_on_cluster(
    loop: Callable[[Group, Job], Result], job: Job, ranks: int, directory: Path, name: str, cpus: int, gpus: int
) -> Result:
    """loop(group, job) of rank 0 of ``ranks`` workers, from 2 on; see `Workers.train`.

    cpus, gpus: of the cluster. Ranks get a GPU each if there are enough, else a CPU, or share the CPUs. A lost worker
    or node ends the others, and all start again from the last checkpoint, at most `RESTARTS` times; so does the next
    run with the same directory, if the driver is lost.
    """
    use_gpu = gpus >= ranks
    resources = {"GPU": 1.0} if use_gpu else {"CPU": min(1.0, cpus / ranks)}
    trainer = partial(
        TorchTrainer,
        _loop,
        train_loop_config={
            "loop": loop,
            "job": job,
            "folder": os.getcwd(),
            "level": logging.getLogger("pygrade").getEffectiveLevel(),
        },
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if use_gpu else "gloo"),
        scaling_config=ScalingConfig(num_workers=ranks, use_gpu=use_gpu, resources_per_worker=resources),
        run_config=RunConfig(
            name="ray",
            storage_path=str(directory.absolute()),
            failure_config=FailureConfig(max_failures=RESTARTS),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
        ),
    )
    with error_context(name, job):
        try:
            result = _fit(trainer)
        except ray.train.WorkerGroupError as error:
            raise _own_error(error) from error
        except ray.train.TrainingFailedError as error:
            raise ClusterError(f"training failed: {one_line(error, 500)}") from error
        if isinstance(result, _Failed):
            raise result.error
    trained: Result = result
    return trained


def _fit(trainer: Callable[[], TorchTrainer]) -> Any:
    """The result of rank 0. The process that directs the ranks may be lost as well: another goes on from the last
    checkpoint."""
    for left in reversed(range(RESTARTS + 1)):
        try:
            return trainer().fit().return_value
        except ray.exceptions.RayActorError as error:
            if not left:
                raise ClusterError(f"training lost its controller {RESTARTS + 1} times: {one_line(error)}") from error
            logger.warning("training: its controller was lost; %d more restarts", left)
            _release()


def _release() -> None:
    """Gives back what the ranks of a lost controller hold. Ray Train's own cleaner asks Ray's dashboard whether the
    controller lives, so without a dashboard it would never do it, and the next ranks would wait for processors."""
    own, id_of = ray.get_runtime_context().get_job_id(), type(PlacementGroup.empty().id)
    for name, group in placement_group_table().items():
        if name.endswith(own) and group["state"] != "REMOVED":
            remove_placement_group(PlacementGroup(id_of.from_hex(name)))


def _loop(config: dict[str, Any]) -> Any:
    """Runs in a worker."""
    logging.getLogger("pygrade").setLevel(config["level"])
    if os.path.isdir(config["folder"]):
        os.chdir(config["folder"])
    rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    group = Group(RayCheckpoints(), str(get_device()), rank, size)
    if group.device.type == "cuda":
        torch.cuda.set_device(group.device)
    try:
        return config["loop"](group, config["job"])
    except Exception as error:
        if error is group.agreed:
            return _Failed(error)
        raise


def _own_error(error: Any) -> Exception:
    """Select the error of a rank that is not about another rank's death."""
    failures = [getattr(failure, "_base_exc", failure) for failure in error.worker_failures.values()]
    stated = [failure for failure in failures if not isinstance(failure, (RuntimeError, ray.exceptions.RayError))]
    if stated:
        own: Exception = stated[0]
        return own
    text = " ".join(str(error).split())[-500:]
    return ClusterError(f"training lost a worker {RESTARTS + 1} times, or its memory did not suffice: {text}")
