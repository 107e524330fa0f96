"""A finished run in MLflow: its options, its learning curves and metrics, its files, and a version of a model.

The address is ``mlflow:URI`` or ``mlflow:URI#NAME``: NAME is that of the experiment and of the registered model, whose
newest version has the alias ``newest``: ``mlflow.artifacts.download_artifacts("models:/pygrade@newest")`` is a
directory that `FusionPolicy.load` or `open_artifact` reads.
"""

import contextlib
import logging
import math
import re
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from pygrade._util.optional_imports import require
from pygrade.training.tracking import read_metrics

ALIAS = "newest"
VERSION = "pygrade.version"  # tag: the version of the policy or artifact
_NAME = "pygrade"
_OPTIONS, _METRICS = 100, 1000  # in one call: the server's limits
_TEXT = 500  # characters of an option's value

logger = logging.getLogger("pygrade")


class MlflowRun:
    """The tracker of a run. Made before the run, so that an address that does not work costs no training."""

    def __init__(self, address: str) -> None:
        scheme, _, rest = address.partition(":")
        self.uri, _, name = rest.partition("#")
        self.name = name or _NAME
        if scheme != "mlflow" or not self.uri:
            raise ValueError(f"track is {address!r}; expected mlflow:URI or mlflow:URI#NAME")
        if re.search(r"//[^/@]*:[^/@]*@", self.uri):
            raise ValueError("track has a password, which the run would keep; expected it in MLFLOW_TRACKING_PASSWORD")
        require("mlflow", "mlflow")
        with self._calls():
            from mlflow import MlflowClient

            self._client = MlflowClient(self.uri, self.uri)
            existing = self._client.get_experiment_by_name(self.name)
            self._experiment = self._client.create_experiment(self.name) if existing is None else existing.experiment_id

    def report(
        self,
        title: str,
        options: Mapping[str, Any],
        metrics: Mapping[str, float | None],
        steps: Path,
        files: Sequence[Path],
        model: Path,
        version: str,
    ) -> str:
        """Report a run and register its model; returns the model's version in the registry.

        options: name → value. steps: a ``metrics.jsonl``. files: of the run, beside the model. model: directory of a
        policy or artifact with this version; one that was registered before is left as it is.
        """
        with self._calls():
            if (number := self._registered(version)) is not None:
                logger.info("mlflow: %s has version %s as number %s already", self.name, version, number)
                return number
            run = self._client.create_run(self._experiment, run_name=title, tags={VERSION: version}).info
            try:
                self._log(run.run_id, options, metrics, steps)
                for file in files:
                    self._client.log_artifact(run.run_id, str(file))
                self._client.log_artifacts(run.run_id, str(model), "model")
                number = self._register(f"{run.artifact_uri}/model", run.run_id, version)
            except BaseException:
                self._client.set_terminated(run.run_id, "FAILED")
                raise
            self._client.set_terminated(run.run_id)
        logger.info("mlflow: %s number %s is version %s, alias %s", self.name, number, version, ALIAS)
        return number

    def _log(self, run: str, options: Mapping[str, Any], metrics: Mapping[str, float | None], steps: Path) -> None:
        from mlflow.entities import Metric, Param

        now = int(time.time() * 1000)
        values = [Metric(metric_name(name), value, now, 0) for name, value in metrics.items() if _finite(value)]
        for line in read_metrics(steps):
            figures = {
                f"{line['stage']}/{name}": value for name, value in line.items() if name not in ("stage", "step")
            }
            values += [Metric(metric_name(n), v, now, line["step"]) for n, v in figures.items() if _finite(v)]
        words = [Param(name, str(value)[:_TEXT]) for name, value in options.items()]
        for at in range(0, len(words), _OPTIONS):
            self._client.log_batch(run, params=words[at : at + _OPTIONS])
        for at in range(0, len(values), _METRICS):
            self._client.log_batch(run, metrics=values[at : at + _METRICS])

    def _registered(self, version: str) -> str | None:
        """The number under which a version is in the registry."""
        versions = self._client.search_model_versions(f"name = '{self.name}'")
        return next((str(model.version) for model in versions if model.tags.get(VERSION) == version), None)

    def _register(self, source: str, run: str, version: str) -> str:
        if not self._client.search_registered_models(f"name = '{self.name}'"):
            self._client.create_registered_model(self.name)
        number = str(self._client.create_model_version(self.name, source, run, tags={VERSION: version}).version)
        self._client.set_registered_model_alias(self.name, ALIAS, number)
        return number

    @contextlib.contextmanager
    def _calls(self) -> Iterator[None]:
        """Silence MLflow's own warnings; report its errors as errors of the tracking address."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                yield
            except Exception as error:
                if not type(error).__module__.startswith(("mlflow", "sqlalchemy", "requests")):
                    raise
                raise ValueError(f"track {self.uri}: {' '.join(str(error).split())[:300]}") from error


def metric_name(name: str) -> str:
    """A name that MLflow takes.

    >>> metric_name("value@10, GRADE")
    'value_at_10/GRADE'
    """
    return re.sub(r"[^\w\-. :/]", "_", name.replace("@", "_at_").replace(", ", "/"))


def _finite(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)
