"""A sampler that returns given texts: it replaces a model where the rollout is tested, not the model."""

from collections.abc import Callable, Sequence

from aslfast.sampler.protocol import Sample, SampleRequest


class ScriptedSampler:
    """Returns texts in order, or, with a function, those that it gives for a session's prompt and first seed.

    A text may come with its finish: ("text", "length"); by default it is "eos" for a text that ends with the
    end-of-turn token, else "stop". The k-th token of the n-th turn has the log-prob -(n + k / 1000).
    """

    def __init__(self, tokenizer, script: Sequence | Callable[[str, int], Sequence]) -> None:
        self.tokenizer, self.script = tokenizer, script
        self.requests: list[SampleRequest] = []
        self.released: list[str] = []
        self._left: dict[str, list] = {}
        self._turns: dict[str, int] = {}

    async def generate(self, request: SampleRequest) -> Sample:
        self.requests.append(request)
        text = self._next(request)
        text, finish = text if isinstance(text, tuple) else (text, None)
        turn = self._turns[request.session] = self._turns.get(request.session, 0) + 1
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        finish = finish or ("eos" if ids and ids[-1] == self.tokenizer.eos_token_id else "stop")
        return Sample(tuple(ids), tuple(-(turn + k / 1000) for k in range(len(ids))), finish, 0)

    def _next(self, request: SampleRequest):
        if request.session not in self._left:
            prompt = self.tokenizer.decode(request.token_ids)
            script = self.script(prompt, request.seed) if callable(self.script) else self.script
            self._left[request.session] = list(script)
        return self._left[request.session].pop(0)

    def start(self) -> None: ...

    def release(self, session: str) -> None:
        self.released.append(session)

    def abort(self, session: str) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...
