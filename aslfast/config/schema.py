"""The tables of a configuration: frozen dataclasses with their defaults; each key with its meaning and its bounds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from aslfast.config.bounds import fraction, named, number, positive
from aslfast.config.learning import AdvantageConfig, LossConfig
from aslfast.config.roles import PREVIOUS, ROLES, RoleConfig, adapter_of, default_roles, searchers, tools_of
from aslfast.config.schedules.table import ScheduleConfig
from aslfast.limits import (
    MOST_SECONDS,
    MOST_SEED,
    MOST_STEPS,
    MOST_TEMPERATURE,
    MOST_THREADS,
    MOST_TOKENS,
    MOST_TOP_K,
    MOST_TURNS,
)
from aslfast.plugins import name_in
from aslfast.prompts.builder import SECOND_JUDGE
from aslfast.rewards import GENERATOR_REWARDS, LABELS, POLICY_REWARDS, REFERENCES

SFT: Literal["sft"] = "sft"  # the phase
Dtype = Literal["float32", "bfloat16", "float16"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    path: str = ""  # model folder; "lab", "lab2": the tiny base of a world of the lab, which ships with aslfast
    dtype: Dtype = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"  # "auto": the GPU where there is one, else the CPU
    prompts: str = "full"  # prompt set: "compact", "small", "full", or a folder of one's own: prompts/templates.py
    prompt_date: str = ""  # YYYY-MM-DD, for chat templates that show one; empty: the day that the run starts


@dataclass(frozen=True, slots=True)
class DataConfig:
    """What to learn in and to evaluate on. With `lab` true both come from the lab and the paths stay empty; with an
    `environment` of one's own they come from there, and what is searched from `index`, if it is set."""

    lab: bool = False
    world: int = number(1, 1, 2)  # of the lab; 2: answers with several right spellings, one to four hops
    index: str = ""  # a folder, or http://host:port of a server (aslfast index serve)
    topics: str = ""  # text file, a topic a line; "general": the 73 that ship with aslfast
    eval_questions: str = ""  # Parquet or JSONL
    eval_index: str = ""  # empty: the same as index
    eval_count: int = positive(300)  # questions; in the lab the judge and the generator are evaluated in proportion
    labelled: str = ""  # Parquet or JSONL: real questions with answers to learn from, where a recipe uses any
    labelled_count: int = positive(300)
    labelled_hops: tuple[int, ...] = positive((), 4)  # of the lab's labelled questions, in turn; empty: all that it has


@dataclass(frozen=True, slots=True)
class ToolConfig:
    top_k: int = positive(3, MOST_TOP_K)
    max_passage_chars: int = positive(2000, 10_000_000)
    timeout_s: float = positive(30.0, MOST_SECONDS)  # of an attempt to reach an index by URL; of a call of another tool
    retries: int = number(5, 0, 1000)  # attempts after the first
    give_up_after_s: float = positive(60.0, MOST_SECONDS)  # of nothing but failed calls: the run stops
    max_calls: int = positive(1, 100)  # a turn; with more than 1, a turn goes on after a call
    # the rest is of tools besides the search, which timeout_s also bounds
    max_result_chars: int = positive(8000, 10_000_000)  # of what a call returns; the rest is cut
    max_concurrent: int = positive(32, 10_000)  # calls of one tool


@dataclass(frozen=True, slots=True)
class SamplerConfig:
    kind: Literal["local", "sglang"] = "local"
    temperature: float = number(1.0, 0.0, MOST_TEMPERATURE)  # of sampling; the learner scales its log-probs by it too
    max_running_requests: int = positive(128, 65_536)  # in one batch
    max_turns: int = positive(9, MOST_TURNS)
    max_new_tokens: int = positive(2048, MOST_TOKENS)  # a turn
    max_context: int = positive(10240, MOST_TOKENS)  # tokens of a trajectory
    # the rest is of kind "sglang": docs/scale/sglang.md
    engine_timeout_s: float = positive(120.0, MOST_SECONDS)  # without progress: the engine hangs, and is restarted
    engine_restarts: int = number(3, 0, 1000)  # in one run; then it ends
    gpu_memory_fraction: float = number(0.5, 0.0, 1.0, open_low=True, open_high=True)  # for weights and the KV pool
    radix_cache: bool = True  # reuse the keys and values of common prefixes
    deterministic: bool = False  # SGLang's batch-invariant kernels on a GPU: slower
    share_base: bool = True  # one copy of the base for engine and trainer


@dataclass(frozen=True, slots=True)
class LoraConfig:
    rank: int = positive(32, 4096)
    alpha: float = positive(64.0, 1e6)


@dataclass(frozen=True, slots=True)
class LearnerConfig:
    learning_rate: float = positive(1e-6, 10.0)
    weight_decay: float = number(0.0, 0.0, 10.0)
    grad_clip: float = positive(1.0, 1e9)  # of the adapter's gradient norm
    micro_batch_tokens: int = positive(16384, MOST_TOKENS)  # of one forward pass; a shared prefix counts once
    attention: Literal["auto", "flash", "flex", "sdpa"] = "auto"  # back end: see aslfast/learner/attention.py
    share_prefix: Literal["auto", "always", "never"] = "auto"  # compute common prefixes once; "auto": where it pays
    activation_checkpointing: Literal["none", "layers", "selective"] = "none"
    kl_every: int = number(5, 0, MOST_STEPS)  # steps between two measurements of a KL that the loss lacks; 0: never
    max_skipped_steps: int = positive(3, MOST_STEPS)  # in a row, without a finite gradient; then the run ends


@dataclass(frozen=True, slots=True)
class GeneratorConfig:
    steps: int = number(10, 0, MOST_STEPS)  # optimizer steps a round
    prompts_per_step: int = positive(8, 100_000)
    group_size: int = positive(4, 10_000)  # questions a prompt
    rollouts_per_question: int = positive(10, 10_000)  # of the policy, each judged
    self_checks: int = number(5, 0, 10_000)  # judgements of the generator's own answer
    min_acceptance: float = fraction(0.8)  # of the self checks that must accept
    hops: tuple[int, ...] = positive((1, 2, 3), 100)  # asked for in turn; a harder or easier variant stays within them
    # by round, the last entry for all that follow: a topic, or a question that the policy has trained on, varied
    source: tuple[Literal["topic", "width", "depth"], ...] = ("topic",)
    target_questions: tuple[int, ...] = number((0,))  # by round: new questions that end the phase; 0: all steps
    pass_rate_range: tuple[float, ...] = fraction((0.0, 1.0))  # lowest and highest share of rewarded attempts
    reference: str = named("own", REFERENCES)  # the question's answer from here on: rewards/labels.py
    reward: str = named("entropy_bits", GENERATOR_REWARDS)  # rewards/generator.py
    accept: str = named("", ("",))  # a filter of one's own, on top of min_acceptance and pass_rate_range; empty: none
    learn: bool = True


@dataclass(frozen=True, slots=True)
class GrmConfig:
    steps: int = number(10, 0, MOST_STEPS)
    prompts_per_step: int = positive(16, 100_000)
    group_size: int = positive(8, 10_000)
    label: str = named("consensus", LABELS)  # where labels come from: rewards/labels.py
    variant: Literal["tool", "thinking", "reference", "uncertain", "ranking"] = "tool"  # prompt: rewards/judge.py
    reward: str = named("variant", ("variant",))  # "variant": the one that goes with the variant
    share_verdicts: bool = False  # equal answers to a question share their verdicts: rollout/judge.py
    folds: int = number(1, 1, 2)  # 2: two judges, each trained on half of the source documents, judging the other half
    gold_label_fraction: float = fraction(0.0)  # of the verification tasks that are made from data.labelled
    gold_label_from_round: int = positive(1, MOST_STEPS)  # the first round with them
    plateau_window: int = number(0, 0, MOST_STEPS)  # steps over which a reward that stopped rising ends the phase
    learn: bool = True


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    steps: int = number(20, 0, MOST_STEPS)
    prompts_per_step: int = positive(16, 100_000)
    group_size: int = positive(8, 10_000)
    verdicts_per_answer: int = number(1, 0, 10_000)  # with 0 the rule that rewards it judges
    question_source: Literal["pool", "labelled"] = "pool"  # generated ones, or data.labelled (environment's)
    max_questions: int = number(0)  # a round; 0: all
    plateau_window: int = number(0, 0, MOST_STEPS)  # as grm.plateau_window
    reward: str = named("majority", POLICY_REWARDS)  # of the verdicts; or a rule's: rewards/policy.py
    learn: bool = True


@dataclass(frozen=True, slots=True)
class OwnPhaseConfig:
    """Of a phase of one's own, the table [own_phase.NAME]: see docs/recipes/phases.md."""

    steps: int = number(8, 0, MOST_STEPS)  # optimizer steps a round
    tasks_per_step: int = positive(8, 100_000)
    group_size: int = positive(4, 10_000)  # plays of a task
    learn: bool = True
    options: Mapping[str, object] = field(default_factory=dict)  # what the phase asks for: numbers, texts, booleans


@dataclass(frozen=True, slots=True)
class SftPhaseConfig:
    """Of the phase "sft", with which a run may begin: one role learns from demonstrations. See docs/sft.md."""

    data: str = ""  # trajectories.parquet or chat.jsonl; empty: made from the labelled questions and the index
    role: str = "policy"
    learning_rate: float = positive(2e-4, 10.0)  # falls to 0 over the phase
    epochs: int = number(1, 1, 10_000)
    batch_size: int = positive(16, 100_000)  # rows an optimizer step


@dataclass(frozen=True, slots=True)
class MonitorConfig:
    """A metric beyond its threshold is an alarm. A least of 0 or a most of 1 never is; fractions are from 0 to 1."""

    judge_probe: int = number(100)  # held-out answers of the policy that the judge judges each round; 0: none
    stop: bool = False  # end the run after a round with an alarm; false: only say it
    max_gap: float = fraction(0.1)  # probed answers that the judge passes less those that are right: all its interval
    max_true_gap: float = fraction(0.15)  # the policy's mean reward less the share that was right, in training
    min_agreement: float = fraction(0.6)  # of the judge with the ground truth, balanced; a coin flip has 0.5
    max_bias: float = fraction(0.25)  # "correct" verdicts on as many right as wrong answers, from 0.5 either way
    max_drop: float = fraction(0.1)  # of the policy's accuracy below its best round
    min_diversity: float = fraction(0.6)  # of a step's questions: 1 - mean similarity of a pair
    min_new: float = fraction(0.1)  # questions new in the pool, of those that were asked for
    min_solvable: float = fraction(0.3)  # held-out questions that are solvable with the right reference
    min_entropy: float = number(0.003, 0.0, 100.0)  # nats a token, of each role
    max_length_ratio: float = number(2.5, 1.0, 1e6)  # sampled tokens a trajectory against the first round's
    min_finished: float = fraction(0.7)  # of each role's trajectories
    max_repeated: float = fraction(0.25)  # of each role's queries, those that the same trajectory had sent before


@dataclass(frozen=True, slots=True)
class DistributedConfig:
    """Of a run that torchrun starts: docs/scale/cluster.md."""

    timeout_s: float = positive(60.0, MOST_SECONDS)  # without a heartbeat of a rank, then the others end
    model_parallel_size: int = positive(1, 1024)  # ranks that hold one base between them, in training and sampling


@dataclass(frozen=True, slots=True)
class RunConfig:
    """The whole resolved configuration of a run."""

    recipe: str = ""
    algorithm: str = ""  # its settings stand in `loss` and `advantage`: see aslfast/config/algorithms.py
    seed: int = number(0, 0, MOST_SEED)
    rounds: int = number(3, 0, MOST_STEPS)
    # of a round, in this order: shipped ones, or module:Name of your own (docs/recipes/phases.md); "sft", if it is
    # there, comes first and is in round 1 alone
    phases: tuple[str, ...] = named(ROLES, ("sft", *ROLES))
    threads: int = number(0, 0, MOST_THREADS)  # of torch on the CPU; 0: as torch chooses
    deterministic: bool = True  # the same bits again, where torch can; false: on a GPU faster, last bits are left open
    format_weight: float = number(1.0, 0.0, 1e6)  # of the format reward of every role
    # one of your own, module:name (aslfast/environment.py); empty: the lab where data.lab is true, else the files
    environment: str = named("", ("",))
    # or module:function of one's own, mcp:COMMAND, mcp:URL, model:ROLE, which answers searches: docs/extend.md
    tools: tuple[str, ...] = ("search",)
    # who follows the run besides its own files, each by its own package: docs/see.md
    tracker: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ()
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    tool: ToolConfig = field(default_factory=ToolConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    roles: Mapping[str, RoleConfig] = field(default_factory=default_roles)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    advantage: AdvantageConfig = field(default_factory=AdvantageConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    grm: GrmConfig = field(default_factory=GrmConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    sft: SftPhaseConfig = field(default_factory=SftPhaseConfig)
    own_phase: Mapping[str, OwnPhaseConfig] = field(default_factory=dict)  # by the Name of module:Name
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    schedule: Mapping[str, ScheduleConfig] = field(default_factory=dict)  # by key: docs/recipes/schedules.md

    @property
    def round_phases(self) -> tuple[str, ...]:
        """The phases of every round: all but "sft"."""
        return tuple(phase for phase in self.phases if phase != SFT)

    def own_phase_of(self, path: str) -> OwnPhaseConfig:
        """Return the table [own_phase.NAME] of the phase module:NAME."""
        return self.own_phase.get(name_in(path), OwnPhaseConfig())

    @property
    def all_roles(self) -> dict[str, RoleConfig]:
        """The roles by name: with two judges, the second is as the first."""
        second = {SECOND_JUDGE: self.roles["grm"]} if self.grm.folds > 1 and "grm" in self.roles else {}
        return {**self.roles, **second}

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the adapters: of the roles that have one of their own, then of their earlier versions."""
        roles = self.all_roles
        copies = dict.fromkeys(role.adapter for role in roles.values() if role.adapter.endswith(PREVIOUS))
        return (*(name for name, role in roles.items() if not role.adapter), *copies)

    @property
    def learning_adapters(self) -> tuple[str, ...]:
        """Names of the adapters that phases may train."""
        return tuple(name for name, role in self.all_roles.items() if not (role.adapter or role.frozen))

    def adapter_of(self, role: str) -> str | None:
        """Return the adapter that plays a role; None: the base alone."""
        return adapter_of(self.all_roles, role)

    def adapters_of(self, roles: Iterable[str]) -> tuple[str, ...]:
        """Return the adapters that play these roles and learn, each once, in their order."""
        played = dict.fromkeys(self.adapter_of(role) for role in roles)
        return tuple(adapter for adapter in played if adapter in self.learning_adapters)

    def tools_of(self, role: str) -> tuple[str, ...]:
        """Return the entries of `tools` that a role has."""
        return tools_of(self.all_roles, role, self.tools)

    @property
    def searchers(self) -> tuple[str, ...]:
        """Names of the roles that answer searches."""
        return searchers(self.roles, self.tools)

    def loss_of(self, role: str) -> LossConfig:
        """Return the settings of a role's loss."""
        return replace(self.loss, **self.all_roles[role].loss)

    def advantage_of(self, role: str) -> AdvantageConfig:
        """Return the settings of a role's advantages."""
        return replace(self.advantage, **self.all_roles[role].advantage)

    def temperature_of(self, role: str) -> float:
        """Return the temperature that a role is sampled at."""
        return self.all_roles[role].temperature or self.sampler.temperature
