"""The adapters that an engine serves: their weights as they were pushed, under a name for each version."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from peft import PeftModel
from safetensors.torch import save

from aslfast.errors import UserError
from aslfast.models.lora import adapter_tensors, parameters_of
from aslfast.sampler.sglang.engine_client import Engine, RequestRefused

CONFIG_KEYS = ("peft_type", "r", "lora_alpha", "target_modules", "lora_dropout", "bias", "use_rslora", "use_dora")

AdapterConfig = dict[str, Any]  # as PEFT writes it


@dataclass(frozen=True)
class ServedAdapter:
    """An adapter as the engine has it: what a restart pushes again."""

    name: str  # role@version: the engine's name for exactly these weights
    version: int
    config: AdapterConfig
    weights: bytes  # safetensors


class ServedAdapters:
    """The version of each role that requests use from now on."""

    def __init__(self) -> None:
        self._of_role: dict[str, ServedAdapter] = {}
        self._seen: dict[str, list[tuple[int, int]]] = {}  # each weight and how often it was written, when last marked

    def __getitem__(self, role: str) -> ServedAdapter:
        return self._of_role[role]

    def changed(self, model: PeftModel) -> list[str]:
        """Return the model's roles whose weights have been written since `mark`."""
        return [role for role in model.peft_config if _writes(model, role) != self._seen.get(role)]

    def mark(self, model: PeftModel, role: str) -> None:
        """Remember that the role is served with the weights that it has now."""
        self._seen[role] = _writes(model, role)

    def put(self, role: str, weights: bytes, config: AdapterConfig) -> ServedAdapter | None:
        """Make these weights the role's next version; return the version before."""
        old = self._of_role.get(role)
        version = old.version + 1 if old else 0
        self._of_role[role] = ServedAdapter(f"{role}@{version}", version, config, weights)
        return old

    def restore(self, role: str, old: ServedAdapter | None) -> None:
        """Take back the last `put`, which returned `old`."""
        if old:
            self._of_role[role] = old
        else:
            del self._of_role[role]

    def name(self, role: str | None, place: str) -> str | None:
        """Return the engine's name of the role's present version; None for the base. Raise UserError, at `place`."""
        if role is None:
            return None
        if role not in self._of_role:
            known = ", ".join(self._of_role) or "none"
            raise UserError(f"{place}: no adapter {role!r} (loaded: {known}); load it into the model first")
        return self._of_role[role].name

    def push_all(self, engine: Engine) -> None:
        """Push every role's present version to a new engine. Raise UserError or EngineDied."""
        for served in self._of_role.values():
            push(engine, served)


def _writes(model: PeftModel, role: str) -> list[tuple[int, int]]:
    return [(id(weight), weight._version) for weight in parameters_of(model, role)]


def push(engine: Engine, served: ServedAdapter) -> None:
    """Load an adapter into the engine. Raise UserError where the engine refuses it."""
    try:
        engine.call("push_adapter", served.weights, name=served.name, config=served.config)
    except RequestRefused as refused:
        raise UserError(f"adapter {served.name}: SGLang cannot load it ({refused}); use plain LoRA") from None


def adapter_state(model: PeftModel, role: str) -> tuple[bytes, AdapterConfig]:
    """Return a role's weights as safetensors and its configuration, as PEFT would write both."""
    config = {key: sorted(v) if isinstance(v, set) else v for key, v in model.peft_config[role].to_dict().items()}
    return save(adapter_tensors(model, role)), {key: config[key] for key in CONFIG_KEYS}
