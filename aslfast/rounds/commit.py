"""What of a run is committed, and when: its start, every step, every phase, every round; and the way back."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from aslfast.checkpoint.base_run_dir import BaseRunDir
from aslfast.checkpoint.commits import PendingCommit, Provenance
from aslfast.checkpoint.recovery import METRICS, ROUNDS, SFT_LINES, STEPS
from aslfast.checkpoint.state import TrainState
from aslfast.clock import CLOCK
from aslfast.core import Group
from aslfast.data.trajectories import Record, join_trajectories, write_trajectories
from aslfast.errors import UserError
from aslfast.learner.learner import Learner
from aslfast.learner.optimizer_state import load_learner, save_learner
from aslfast.models import lora
from aslfast.rounds.records import RoundRecord, StepRecord

_SFT_FILE = "sft-v"  # how the name of the file starts that holds the learner of the phase "sft"


class Checkpointer:
    """Commits a run's state and its learner's; rank 0 alone writes, the others hold the same state."""

    def __init__(self, run: BaseRunDir, state: TrainState, learner: Learner) -> None:
        self.run, self.state, self.learner = run, state, learner
        self._writes = learner.ranks.is_rank_zero
        self._since = time.perf_counter()  # when state.seconds was last brought up to date

    def start_clock(self) -> None:
        """Count the seconds of a round from now on."""
        self._since = time.perf_counter()

    def update_clock(self) -> None:
        """Bring the state's seconds up to date."""
        now = time.perf_counter()
        self.state.seconds, self._since = self.state.seconds + now - self._since, now

    def run_started(self, provenance: Provenance, initialised: Sequence[str] = ()) -> None:
        """Commit the adapters as they start: a resume takes them from here, not from a seed or another folder.

        initialised: adapters whose version 0 is an adapter of another run; the others start as the base itself.
        """
        with self.run.writing():
            made = [save_learner(self.learner, name, self._learner_file(name)) for name in self.learner.version]
            made += [lora.save_adapter(self.learner.model, name, self._adapters(name), 0) for name in initialised]
        self.run.commit(self.state, PendingCommit("run_started", made, provenance=provenance))

    def resume(self) -> None:
        """Restore state and learner as they were at the last commit. Raise UserError where they went with the run's
        end."""
        self.run.restore(self.state)
        for adapter in self.learner.version:
            names = self._learner_files(adapter)
            if not names:
                what = "all rounds that it was started for are done, and the learner's state went with the last one"
                raise UserError(f"{self.run.path}: {what}; start a new run from its adapters (roles.*.init_adapter)")
            for name in names:
                load_learner(self.learner, adapter, self.run.path / name)

    @CLOCK.timed("commit")
    def step(self, phase: str, groups: Sequence[Group], record: StepRecord) -> None:
        """Commit a step: its trajectories, its record and the learner's state of those adapters that moved."""
        if not self._writes:
            return
        part = self._part(phase, self.state.phase_step)
        with self.run.writing():
            part.parent.mkdir(exist_ok=True)
            write_trajectories(part, _records(groups, self.state))
            made, dropped = self._moved_learner_files()
        self.update_clock()
        self.run.commit(self.state, PendingCommit("step", [part, *made], dropped, {METRICS: record.as_json()}))

    @CLOCK.timed("commit")
    def phase(self, phase: str, steps: int, learned: Sequence[str]) -> None:
        """Commit a phase: one file of its trajectories in place of one a step, and the adapters that it ends with."""
        if not self._writes:
            return
        numbered = [self._part(phase, number) for number in range(1, steps + 1)]
        parts = [part for part in numbered if self._name(part) in self.run.files]  # a skipped step has none
        whole = self.run.path / "trajectories" / f"round-{self.state.round:03d}-{phase}.parquet"
        with self.run.writing():
            whole.parent.mkdir(exist_ok=True)
            join_trajectories(whole, parts)
            made, dropped = self._moved_learner_files()
            for adapter in learned if parts else ():
                version = self.learner.version[adapter]
                made.append(lora.save_adapter(self.learner.model, adapter, self._adapters(adapter), version))
        self.update_clock()
        gone = [*dropped, *(self._name(part) for part in parts)]
        self.run.commit(self.state, PendingCommit("phase", [whole, *made], gone))

    def _moved_learner_files(self) -> tuple[list[Path], list[str]]:
        """Save the learner's state of the adapters that moved since the last commit; return (saved, to be dropped)."""
        made: list[Path] = []
        dropped: list[str] = []
        for adapter in self.learner.version:
            learner_file = self._learner_file(adapter)
            if self._name(learner_file) not in self.run.files:
                dropped += self._learner_files(adapter)
                made.append(save_learner(self.learner, adapter, learner_file))
        return made, dropped

    @CLOCK.timed("commit")
    def sft_step(self, learner: Learner, adapter: str, line: Mapping[str, object]) -> None:
        """Commit a step of the phase "sft": its line, and the state of the learner that took it."""
        if not self._writes:
            return
        file = self.run.path / STEPS / f"{_SFT_FILE}{learner.version[adapter]:05d}.safetensors"
        dropped = self._sft_files()
        with self.run.writing():
            made = [save_learner(learner, adapter, file)]
        self.update_clock()
        self.run.commit(self.state, PendingCommit("step", made, dropped, {SFT_LINES: dict(line)}))

    def restore_sft(self, learner: Learner, adapter: str) -> None:
        """Restore that learner as it was at the last commit; leave it as it is before the first."""
        for name in self._sft_files():
            load_learner(learner, adapter, self.run.path / name)

    @CLOCK.timed("commit")
    def sft_phase(self, adapter: str) -> None:
        """Commit what the phase "sft" ends with: the adapter, and the run's learner, which goes on from it."""
        if not self._writes:
            return
        dropped, version = [*self._sft_files(), *self._learner_files(adapter)], self.learner.version[adapter]
        with self.run.writing():
            made = [save_learner(self.learner, adapter, self._learner_file(adapter))]
            made.append(lora.save_adapter(self.learner.model, adapter, self._adapters(adapter), version))
        self.update_clock()
        self.run.commit(self.state, PendingCommit("phase", made, dropped))

    @CLOCK.timed("commit")
    def round(self, record: RoundRecord, last: bool) -> None:
        """Commit a round's record. After the `last` round no step follows: the learner's state goes."""
        if not self._writes:
            return
        dropped = [name for adapter in self.learner.version for name in self._learner_files(adapter)] if last else []
        self.run.commit(self.state, PendingCommit("round", (), dropped, {ROUNDS: record.as_json()}))

    def _adapters(self, adapter: str) -> Path:
        return self.run.path / "adapters" / adapter

    def _part(self, phase: str, number: int) -> Path:
        return self.run.path / STEPS / f"round-{self.state.round:03d}-{phase}-{number:05d}.parquet"

    def _learner_file(self, adapter: str) -> Path:
        return self.run.path / STEPS / f"{adapter}-v{self.learner.version[adapter]:05d}.safetensors"

    def _learner_files(self, adapter: str) -> list[str]:
        """Return the committed file of the adapter; none after the last round."""
        return [name for name in self.run.files if name.startswith(f"{STEPS}/{adapter}-v")]

    def _sft_files(self) -> list[str]:
        return [name for name in self.run.files if name.startswith(f"{STEPS}/{_SFT_FILE}")]

    def _name(self, path: Path) -> str:
        return path.relative_to(self.run.path).as_posix()


def _records(groups: Sequence[Group], state: TrainState) -> list[Record]:
    """Return the step's trajectories with their rewards; failed ones have none."""
    rewarded = [pair for group in groups for pair in zip(group.trajectories, group.rewards, strict=True)]
    failed = [(trajectory, None) for group in groups for trajectory in group.failed]
    return [Record(trajectory, reward, state.round, state.phase_step) for trajectory, reward in rewarded + failed]
