"""What an offline run of W&B keeps: a log of protobuf records in LevelDB's format, behind a header of 7 bytes."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

HEADER, BLOCK, RECORD_HEADER = 7, 32768, 7
WHOLE, LAST = 1, 4  # kinds of a record: in one piece, and the last of several


def records(data: bytes) -> Iterator[bytes]:
    """Yield the records of a file."""
    place, whole = HEADER, b""
    while place + RECORD_HEADER <= len(data):
        if BLOCK - place % BLOCK < RECORD_HEADER:
            place += BLOCK - place % BLOCK
            continue
        length, kind = struct.unpack("<HB", data[place + 4 : place + RECORD_HEADER])
        whole += data[place + RECORD_HEADER : place + RECORD_HEADER + length]
        place += RECORD_HEADER + length
        if kind in (WHOLE, LAST):
            yield whole
            whole = b""


def history(folder: Path) -> tuple[set[str], dict[tuple[int, str], float]]:
    """Return the run's ids in a folder of offline runs, and its figures by step and name."""
    from wandb.proto import wandb_internal_pb2

    ids, found = set(), {}
    for file in sorted(folder.glob("offline-run-*/*.wandb")):
        for data in records(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            ids |= {record.run.run_id} - {""}
            for item in record.history.item:
                name = item.key or "/".join(item.nested_key)
                if not name.startswith("_"):
                    found[record.history.step.num, name] = json.loads(item.value_json)
    return ids, found
