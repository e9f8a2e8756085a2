"""The trackers, each by its own package, which is imported when a run names it."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from aslfast.errors import UserError


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """What a tracker is told of a run. id: of an earlier part of it at this tracker; empty: there is none."""

    path: Path
    config: Mapping[str, Any]
    id: str
    next_step: int  # the first that is not logged yet

    @property
    def name(self) -> str:
        """The run's name: that of its folder."""
        return self.path.resolve().name


class Tracker(Protocol):
    """Where numbers go. Any of its methods may raise."""

    id: str

    def log(self, scalars: Mapping[str, float], step: int) -> None:
        """Log numbers of one step; steps never fall."""

    def close(self) -> None:
        """Write what is left."""


class TensorBoard:
    """Event files in RUN/tensorboard."""

    def __init__(self, run: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.id = "tensorboard"
        self._writer = SummaryWriter(str(run.path / "tensorboard"), purge_step=run.next_step if run.id else None)

    def log(self, scalars: Mapping[str, float], step: int) -> None:
        """Write the numbers to the disk: a kill may follow."""
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


class Wandb:
    """A run of the project WANDB_PROJECT, or aslfast; WANDB_MODE=offline keeps it in RUN/wandb."""

    def __init__(self, run: TrackedRun) -> None:
        import wandb

        self.id = run.id or secrets.token_hex(4)
        project = os.environ.get("WANDB_PROJECT", "aslfast")
        settings = wandb.Settings(silent=True, console="off")
        self._run = wandb.init(
            project=project, id=self.id, resume="allow", name=run.name, dir=str(run.path), config=dict(run.config),
            settings=settings,
        )  # fmt: skip

    def log(self, scalars: Mapping[str, float], step: int) -> None:
        """Hand the numbers over; W&B sends or writes them in a process of its own."""
        self._run.log(dict(scalars), step=step)

    def close(self) -> None:
        """Wait until all is sent or written."""
        self._run.finish()


class MLflow:
    """A run of the experiment aslfast at MLFLOW_TRACKING_URI; without that in the files of RUN/mlruns."""

    def __init__(self, run: TrackedRun) -> None:
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # newer versions ask for it
        from mlflow.tracking import MlflowClient

        place = os.environ.get("MLFLOW_TRACKING_URI") or (run.path.resolve() / "mlruns").as_uri()
        self._client = MlflowClient(tracking_uri=place)
        self.id = run.id or self._started(run)

    def _started(self, run: TrackedRun) -> str:
        known = self._client.get_experiment_by_name("aslfast")
        experiment = known.experiment_id if known else self._client.create_experiment("aslfast")
        made = self._client.create_run(experiment, run_name=run.name).info.run_id
        for key, value in _flat("", run.config):
            self._client.log_param(made, key, value[:500])
        return made

    def log(self, scalars: Mapping[str, float], step: int) -> None:
        """Log the numbers in one request."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        batch = [Metric(name.replace("@", "-at-"), value, now, step) for name, value in scalars.items()]
        self._client.log_batch(self.id, metrics=batch)

    def close(self) -> None:
        """Mark the run as finished; a resume goes on with it all the same."""
        self._client.set_terminated(self.id)


def _flat(name: str, value: object) -> list[tuple[str, str]]:
    if isinstance(value, Mapping):
        return [pair for key, item in value.items() for pair in _flat(f"{name}.{key}" if name else str(key), item)]
    return [(name, str(value))]


TRACKERS: Mapping[str, tuple[str, Callable[[TrackedRun], Tracker]]] = {  # name -> package and class
    "tensorboard": ("tensorboard", TensorBoard), "wandb": ("wandb", Wandb), "mlflow": ("mlflow", MLflow),
}  # fmt: skip


def check_installed(names: tuple[str, ...]) -> None:
    """Raise UserError for a tracker whose package is not here: before hours of training."""
    for name in names:
        package, _ = TRACKERS[name]
        if find_spec(package) is None:
            raise UserError(f"tracker: {package} is not installed; pip install 'aslfast[trackers]', or leave it out")
