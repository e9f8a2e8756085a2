"""The engine server: a process of its own that owns `sglang.Engine` and answers the trainer's wire messages.

    trainer -- socket pair --> server (this file, SGLang's tokenizer manager) --> scheduler (model, adapters, KV)

Of its own because SGLang kills the process that made an engine when a part of it fails, takes time of the interpreter,
and can hang. Started by engine_client.py with a socket as its only connection; it ends with the trainer, and everything
it started ends with it.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import socket
import sys
import traceback
from collections.abc import Coroutine
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from aslfast.sampler.sglang import scheduler_patches, wire
from aslfast.sampler.sglang.server_args import EXPORT, EngineArgs, sglang_arguments

if TYPE_CHECKING:  # only after scheduler_patches.prepare
    from sglang.srt.entrypoints.engine import Engine

HEARTBEAT_S = 0.25  # how often progress is reported
STREAM_INTERVAL = 10  # a request's tokens between two signs of life from the scheduler


def main() -> None:
    """Serve the connection of the first argument for the parent process of the second, until either ends."""
    scheduler_patches.die_with_parent()
    connection = socket.socket(fileno=int(sys.argv[1]))
    if os.getppid() != int(sys.argv[2]):
        return  # the trainer ended before the kernel was asked to signal it
    header, _ = wire.read(partial(wire.receive, connection))
    try:
        engine = start(msgspec.convert(header, EngineArgs))
        engine.loop.run_until_complete(EngineServer(engine, connection).serve())
    except BaseException:
        traceback.print_exc()  # the trainer's errors quote the end of the log
    finally:
        sys.stderr.flush()
        os.killpg(0, signal.SIGKILL)


def start(args: EngineArgs) -> Engine:
    """Return the running engine, its processes with our parts in them."""
    arguments = sglang_arguments(args)  # errors in them need not wait for the imports
    os.environ["SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN"] = "1"  # SPARE_TOKENS may pass the model's positions
    os.environ["SGLANG_FORCE_STREAM_INTERVAL"] = str(STREAM_INTERVAL)
    scheduler_patches.prepare(args.device, args.tensor_parallel)
    from sglang.srt.entrypoints.engine import Engine

    class HostedEngine(Engine):
        run_scheduler_process_func = staticmethod(scheduler_patches.run_scheduler)
        run_detokenizer_process_func = staticmethod(scheduler_patches.run_detokenizer)

        @classmethod
        def _launch_scheduler_processes(cls, *launch_args: Any, **options: Any) -> Any:
            if args.device == "cpu":  # no driver whose state a fork would break: spares importing all again
                multiprocessing.set_start_method("fork", force=True)
            return super()._launch_scheduler_processes(*launch_args, **options)

    return HostedEngine(**arguments)


class EngineServer:
    """The server of one engine: {"op", "id", ...} is answered by {"id", ...} or {"id", "error"}, many at a time."""

    def __init__(self, engine: Engine, connection: socket.socket) -> None:
        manager: Any = engine.tokenizer_manager
        self.engine, self.manager = engine, manager
        self._connection = connection
        self._tasks: set[asyncio.Task[None]] = set()  # a task without a reference may be collected
        self._running: set[str] = set()  # ids of the running requests

    async def serve(self) -> None:
        """Answer until the connection closes or a process of the engine ends."""
        reader, self._writer = await asyncio.open_connection(sock=self._connection)
        self._send({"op": "ready", "pids": self.engine.get_all_child_pids()})
        self._watch_children()
        self._spawn(self._send_heartbeats())
        with suppress(asyncio.IncompleteReadError, ConnectionError):  # the trainer has closed it, or is gone
            while True:
                header, payload = await wire.read_async(reader)
                self._spawn(self._answer(header, payload))

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _send(self, header: wire.Header) -> None:
        self._writer.write(wire.pack(header))

    def _watch_children(self) -> None:
        """End this process with any of the engine's."""
        for pid in self.engine.get_all_child_pids():
            handle = os.pidfd_open(pid)
            asyncio.get_running_loop().add_reader(handle, self._child_ended, pid)

    def _child_ended(self, pid: int) -> None:
        print(f"engine server: process {pid} of the engine has ended", file=sys.stderr, flush=True)
        os.killpg(0, signal.SIGKILL)  # the trainer sees the connection close

    async def _send_heartbeats(self) -> None:
        """Send the trainer a heartbeat whenever the scheduler has given a sign of life."""
        seen = 0.0
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            if self.manager.last_receive_tstamp != seen:
                seen = self.manager.last_receive_tstamp
                self._send({"op": "heartbeat"})

    async def _answer(self, header: wire.Header, payload: bytes) -> None:
        """Run the method that the header names, and send its answer or its error."""
        try:
            answer = await getattr(self, f"op_{header['op']}")(header, payload)
        except Exception as error:  # of one request: the engine goes on
            answer = {"error": " ".join(str(error).split())[:500] or type(error).__name__}
        self._send({"id": header["id"], **answer})

    async def op_generate(self, header: wire.Header, _: bytes) -> wire.Header:
        """Sample one turn: tokens, their log-probs, why it ended, context tokens from the cache."""
        result = await self._generate(header, header["sampling"], -1)
        found = result["meta_info"]
        return {
            "token_ids": list(result["output_ids"]),
            "logprobs": [part[0] for part in found.get("output_token_logprobs") or ()],
            "finish": found["finish_reason"],
            "cached_tokens": found.get("cached_tokens", 0),  # none where it was aborted before it began
        }

    async def op_score(self, header: wire.Header, _: bytes) -> wire.Header:
        """Return the log-probs at temperature 1 of all given tokens but the first."""
        result = await self._generate(header, {"max_new_tokens": 1, "temperature": 0.0}, 0)
        return {"logprobs": [part[0] for part in result["meta_info"]["input_token_logprobs"][1:]]}

    async def _generate(self, header: wire.Header, sampling: dict[str, object], logprobs_from: int) -> wire.Header:
        from sglang.srt.managers.io_struct import GenerateReqInput

        request = GenerateReqInput(
            rid=header["rid"], input_ids=header["token_ids"], lora_path=header["adapter"], sampling_params=sampling,
            return_logprob=True, logprob_start_len=logprobs_from,
        )  # fmt: skip
        self._running.add(header["rid"])
        try:
            return await self.manager.generate_request(request, None).__anext__()
        finally:
            self._running.discard(header["rid"])

    async def op_abort(self, header: wire.Header, _: bytes) -> wire.Header:
        """Abort a request once the manager knows it: it ignores an abort that comes before."""
        while header["rid"] in self._running and header["rid"] not in self.manager.rid_to_state:
            await asyncio.sleep(0.001)
        self.manager.abort_request(rid=header["rid"])
        return {}

    async def op_push_adapter(self, header: wire.Header, payload: bytes) -> wire.Header:
        """Load header["name"] from the payload's safetensors, with header["config"] as PEFT writes it."""
        from safetensors.torch import load
        from sglang.srt.managers.io_struct import LoadLoRAAdapterFromTensorsReqInput

        tensors = self.engine._serialize_tensors_per_rank(load(payload), None)
        request = LoadLoRAAdapterFromTensorsReqInput(
            lora_name=header["name"], config_dict=header["config"], serialized_named_tensors=tensors
        )
        return _checked(await self.manager.load_lora_adapter_from_tensors(request, None))

    async def op_drop_adapter(self, header: wire.Header, _: bytes) -> wire.Header:
        """Unload header["name"]; answer once the requests that use it have ended."""
        from sglang.srt.managers.io_struct import UnloadLoRAAdapterReqInput

        request = UnloadLoRAAdapterReqInput(lora_name=header["name"])
        return _checked(await self.manager.unload_lora_adapter(request, None))

    async def op_flush_cache(self, _: wire.Header, __: bytes) -> wire.Header:
        """Drop all keys and values. success is false while requests run."""
        return {"success": bool((await self.manager.flush_cache()).success)}

    async def op_export_base(self, header: wire.Header, payload: bytes) -> wire.Header:
        """Run weight_export.export_handles over the model in the scheduler; it gets header["name"]."""
        import torch
        from sglang.srt.managers.io_struct import (
            BeginWeightUpdateReqInput,
            EndWeightUpdateReqInput,
            UpdateWeightsFromTensorReqInput,
        )

        named = [(header["name"], torch.frombuffer(bytearray(payload or b"\0"), dtype=torch.uint8))]
        update = UpdateWeightsFromTensorReqInput(
            serialized_named_tensors=self.engine._serialize_tensors_per_rank(named, None), load_format=EXPORT,
            flush_cache=False,
        )  # fmt: skip
        for step, request in (
            (self.manager.begin_weight_update, BeginWeightUpdateReqInput()),
            (self.manager.update_weights_from_tensor, update),
            (self.manager.end_weight_update, EndWeightUpdateReqInput()),
        ):
            success, message = (await step(request, None))[:2]
            if not success:
                raise RuntimeError(message)
        return {}

    async def op_stats(self, _: wire.Header, __: bytes) -> wire.Header:
        """Return the state of SGLang's scheduler: memory, requests, cache."""
        return {"state": _plain((await self.manager.get_internal_state())[0])}


def _checked(result: Any) -> wire.Header:
    """Return an empty answer. Raise RuntimeError where SGLang reports a failure."""
    if not result.success:
        raise RuntimeError(result.error_message)
    return {}


def _plain(value: object) -> object:
    """Return a value as JSON data; what JSON does not know becomes text."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


if __name__ == "__main__":
    main()
