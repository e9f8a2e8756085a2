"""A sampler that plays given texts: the stand-in for a model where the rollout is tested, not the model."""

from collections.abc import Mapping, Sequence

from aslfast.sampler import Sample, SampleRequest


class ScriptedSampler:
    """Plays texts in order, or, with a mapping, those of the first key that stands in the prompt.

    A text may come with its finish: ("text", "length"); by default it is "eos" for a text that ends with the
    end-of-turn token, else "stop". The k-th token of the n-th turn has the log-prob -(n + k / 1000).
    """

    def __init__(self, tokenizer, script: Sequence | Mapping[str, Sequence]) -> None:
        self.tokenizer, self.script = tokenizer, script
        self.requests: list[SampleRequest] = []
        self.released: list[str] = []
        self._played: dict[str, int] = {}

    async def generate(self, request: SampleRequest) -> Sample:
        self.requests.append(request)
        turn = self._played.get(request.session, 0)
        self._played[request.session] = turn + 1
        text = self._texts(request)[turn]
        text, finish = text if isinstance(text, tuple) else (text, None)
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        finish = finish or ("eos" if ids and ids[-1] == self.tokenizer.eos_token_id else "stop")
        return Sample(tuple(ids), tuple(-(turn + 1 + k / 1000) for k in range(len(ids))), finish, 0)

    def _texts(self, request: SampleRequest) -> Sequence:
        if not isinstance(self.script, Mapping):
            return self.script
        prompt = self.tokenizer.decode(request.token_ids)
        return next(texts for key, texts in self.script.items() if key in prompt)

    def release(self, session: str) -> None:
        self.released.append(session)

    def abort(self, session: str) -> None:
        pass
