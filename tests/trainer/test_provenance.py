"""What a run's numbers depend on: recorded when it starts, compared when it is resumed."""

import pytest
import torch

from aslfast.checkpoint.commits import Provenance
from aslfast.config import load_recipe
from aslfast.errors import UserError
from aslfast.trainer import provenance


def test_a_fingerprint_depends_on_names_sizes_and_contents(tmp_path):
    def mark(**files):
        folder = tmp_path / "model"
        folder.mkdir(exist_ok=True)
        for name, data in files.items():
            (folder / name).write_bytes(data)
        return provenance.fingerprint(folder)

    big = bytes(5 << 20)
    first = mark(weights=big, config=b"{}")
    assert first == mark(weights=big, config=b"{}")
    others = [mark(weights=b"\1" * len(big)), mark(weights=big[1:]), mark(weights=big, config=b"[]")]
    (tmp_path / "model" / ".cache").mkdir()
    (tmp_path / "model" / ".cache" / "lock").write_text("x")
    assert mark(config=b"{}") == first
    assert len({first, *others, mark(more=b"")}) == 5


def test_another_input_is_refused_and_other_software_is_reported():
    now = provenance.provenance_of(load_recipe("tiny"))
    assert now.software["torch"] == torch.__version__ and set(now.inputs) == {"model.path"}
    assert provenance.compare(now, now) == []
    before = Provenance(now.inputs, {**now.software, "torch": "2.0"})
    (warning,) = provenance.compare(before, now)
    assert warning.startswith(f"torch {torch.__version__} (it was 2.0): the run goes on, but not bit for bit")
    with pytest.raises(UserError, match=r"model\.path: not what it was when the run started"):
        provenance.compare(Provenance({"model.path": "other"}, now.software), now)
