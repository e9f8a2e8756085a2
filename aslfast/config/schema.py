"""The tables of a configuration: frozen dataclasses with their defaults, each key with what it means."""

from __future__ import annotations

from dataclasses import dataclass, field

from aslfast.core import ROLES, SECOND_JUDGE
from aslfast.learner.learner import LearnerConfig
from aslfast.learner.loss import LossConfig
from aslfast.metrics.alarms import MonitorConfig
from aslfast.rewards import GENERATOR_REWARDS, GRM_REWARDS, LABELS, POLICY_REWARDS, REFERENCES

# what the values of a key may be; of a list, each of its entries
CHOICES = {
    "model.device": ("auto", "cpu", "cuda"),
    "model.dtype": ("float32", "bfloat16", "float16"),
    "model.prompts": ("compact", "full"),
    "sampler.kind": ("local", "sglang"),
    "learner.attention": ("auto", "flash", "flex", "sdpa"),
    "learner.share_prefix": ("auto", "always", "never"),
    "learner.checkpointing": ("none", "layers", "selective"),
    "loss.kind": ("ppo", "cispo"),
    "loss.ratio_level": ("token", "sequence"),
    "loss.kl_estimator": ("k3", "k2"),
    "loss.aggregate": ("token_mean", "sequence_mean", "constant"),
    "advantage.baseline": ("mean", "leave_one_out", "none"),
    "advantage.scale": ("group", "batch", "whitened", "none"),
    "phases": ROLES,
    "generator.source": ("topic", "width", "depth"),
    "generator.reference": tuple(REFERENCES),
    "generator.reward": tuple(GENERATOR_REWARDS),
    "grm.label": tuple(LABELS),
    "grm.variant": tuple(GRM_REWARDS),
    "policy.reward": tuple(POLICY_REWARDS),
    "policy.questions": ("pool", "labelled"),
}


@dataclass(frozen=True, slots=True)
class ModelConfig:
    path: str = ""  # model folder; "lab": the tiny base that ships with aslfast
    dtype: str = "float32"
    device: str = "auto"  # "auto": the GPU where there is one, else the CPU
    prompts: str = "full"  # prompt set


@dataclass(frozen=True, slots=True)
class DataConfig:
    """What to learn in and to measure on. With `lab` true both come from the lab and the paths stay empty."""

    lab: bool = False
    index: str = ""  # a folder, or http://host:port of a server (aslfast index serve)
    topics: str = ""  # text file, a topic a line; "general": the 73 that ship with aslfast
    eval_questions: str = ""  # Parquet or JSONL
    eval_index: str = ""  # empty: the same as index
    eval_count: int = 300
    labelled: str = ""  # Parquet or JSONL: real questions with answers to learn from, where a recipe uses any
    labelled_count: int = 300


@dataclass(frozen=True, slots=True)
class ToolConfig:
    top_k: int = 3
    max_passage_chars: int = 2000
    timeout_s: float = 30.0  # of one attempt to reach an index by URL
    retries: int = 5  # attempts after the first
    gone_after_s: float = 60.0  # of nothing but failed calls: the run stops


@dataclass(frozen=True, slots=True)
class SamplerConfig:
    kind: str = "local"
    temperature: float = 1.0  # of sampling; the learner scales its log-probs by it too
    max_rows: int = 128  # requests in one batch
    max_turns: int = 9
    max_new_tokens: int = 2048  # a turn
    max_context: int = 10240  # tokens of a trajectory
    # the rest is of kind "sglang": docs/sglang.md
    engine_timeout_s: float = 120.0  # without progress while requests run: the engine hangs, and is started again
    engine_restarts: int = 3  # in one run; then it ends
    gpu_memory: float = 0.5  # share of the GPU for the engine: base, adapters, keys and values
    radix_cache: bool = True  # reuse the keys and values of common prefixes
    deterministic: bool = False  # SGLang's batch-invariant kernels on a GPU: slower
    share_base: bool = True  # one copy of the base for engine and trainer


@dataclass(frozen=True, slots=True)
class LoraConfig:
    rank: int = 32
    alpha: float = 64.0


@dataclass(frozen=True, slots=True)
class RoleConfig:
    init_adapter: str = ""  # PEFT adapter folder that the role starts from; empty: a fresh adapter, the base itself


@dataclass(frozen=True, slots=True)
class RolesConfig:
    generator: RoleConfig = field(default_factory=RoleConfig)
    grm: RoleConfig = field(default_factory=RoleConfig)
    policy: RoleConfig = field(default_factory=RoleConfig)


@dataclass(frozen=True, slots=True)
class AdvantageConfig:
    """The formulas are in aslfast_kernels.group_advantage; "whitened" in aslfast.learner.advantage."""

    baseline: str = "mean"
    scale: str = "group"
    drop_flat: bool = True  # leave out groups of one reward (DAPO); False: they count in the loss's mean


@dataclass(frozen=True, slots=True)
class GeneratorConfig:
    steps: int = 10  # optimizer steps a round
    tasks: int = 8  # tasks a step
    samples: int = 4  # questions a task: the group
    attempts: int = 10  # of the policy at a question, each judged
    self_checks: int = 5  # judgements of the generator's own answer
    accept_share: float = 0.8  # of the self checks that must accept
    hops: tuple[int, ...] = (1, 2, 3)  # asked for in turn; a harder or easier variant stays within them
    # by round, the last entry for all that follow: a topic, or a question that the policy has trained on, varied
    source: tuple[str, ...] = ("topic",)
    questions: tuple[int, ...] = (0,)  # by round: the phase ends when that many new ones are in the pool; 0: all steps
    keep: tuple[float, ...] = (0.0, 1.0)  # lowest and highest share of passing attempts for the pool
    reference: str = "own"  # the question's answer from here on: see rewards/references.py
    reward: str = "entropy_bits"  # a name of rewards/generator.py
    learn: bool = True


@dataclass(frozen=True, slots=True)
class GrmConfig:
    steps: int = 10
    tasks: int = 16
    samples: int = 8
    label: str = "consensus"  # where labels come from: see rewards/labels.py
    variant: str = "tool"  # of the judge's prompt and reward: see rewards/grm.py
    share_verdicts: bool = False  # equal answers to a question share their verdicts: see judging
    folds: int = 1  # 2: two judges, each trained on half of the source documents, judging the other half
    real_share: float = 0.0  # of the verification tasks that are made from data.labelled
    real_from: int = 1  # the first round with them
    plateau: int = 0  # steps: the phase ends when the reward over so many has stopped to rise; 0: all steps
    learn: bool = True


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    steps: int = 20
    tasks: int = 16
    samples: int = 8
    verdicts: int = 1  # judgements of an answer; with 0 the rule that rewards it judges, the generator's attempts too
    questions: str = "pool"  # generated ones; or "labelled": those of data.labelled
    pool: int = 0  # at most that many questions a round; 0: all
    plateau: int = 0  # as grm.plateau
    reward: str = "majority"  # of the verdicts; or a rule's: see rewards/policy.py
    learn: bool = True


@dataclass(frozen=True, slots=True)
class RanksConfig:
    """Of a run that torchrun starts: docs/cluster.md."""

    timeout_s: float = 60.0  # of silence of a rank, then the others end; a rank that dies is noticed at once
    shard: int = 1  # ranks that hold one base between them, in training and sampling: where it is too large for a card


@dataclass(frozen=True, slots=True)
class RunConfig:
    """The whole resolved configuration of a run."""

    recipe: str = ""
    algorithm: str = ""  # its settings stand in `loss` and `advantage`: see aslfast.config.algorithms
    seed: int = 0
    rounds: int = 3
    phases: tuple[str, ...] = ROLES  # of a round, in this order
    threads: int = 0  # of torch on the CPU; 0: as torch chooses
    deterministic: bool = True  # the same bits again, where torch can; false: on a GPU faster, last bits are left open
    format_weight: float = 1.0  # of the format reward of every role
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    tool: ToolConfig = field(default_factory=ToolConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    roles: RolesConfig = field(default_factory=RolesConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    advantage: AdvantageConfig = field(default_factory=AdvantageConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    grm: GrmConfig = field(default_factory=GrmConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    ranks: RanksConfig = field(default_factory=RanksConfig)

    @property
    def adapters(self) -> tuple[str, ...]:
        """Their names: one a role, two for the judge where each half of the source documents has its own."""
        return (*ROLES, SECOND_JUDGE) if self.grm.folds > 1 else ROLES
