"""The worker's own process: loads one shard, then answers one request after another.

Started by process.py with two inherited descriptors: the socket and the shared memory. Everything
runs in the main thread (MLX binds its streams to one); the only other thread waits for the
parent's end of the socket to close, so that no orphan keeps a model in memory.
"""

import gc
import logging
import os
import select
import signal
import socket
import sys
import threading
from typing import Any

from node.engine.backends import load_engine
from node.engine.base import Engine
from node.engine.channel import Channel
from node.engine.memory import as_out_of_memory, offer_to_be_killed_first
from node.engine.message import (
    LENGTH,
    MESSAGE_BYTES_MAX,
    Operation,
    decode_drawn,
    decode_items,
    decode_message,
    decode_spec,
    encode_error,
    encode_message,
    encode_statistics,
    result_arrays,
)
from protocol.errors import EngineError, LocalProtocolError
from protocol.record import decode_fields, encode_fields
from protocol.route import Span
from protocol.sampling import SamplingParameters

__all__ = ["main"]

ORPHANED_STATUS = 75
"""Exit status when the parent went first."""

logger = logging.getLogger(__name__)


def main(socket_descriptor: int, memory_descriptor: int) -> None:
    """Serve until STOP or until the parent is gone; never returns."""
    # Ctrl-C and a service manager's SIGTERM reach the whole group. The parent decides what to
    # do about them, and may want to finish its sessions first.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for descriptor in (socket_descriptor, memory_descriptor):
        os.set_inheritable(descriptor, False)  # a grandchild must not keep them open
    offer_to_be_killed_first()
    connection = socket.socket(fileno=socket_descriptor)
    threading.Thread(target=_exit_with_parent, args=(socket_descriptor,), daemon=True).start()
    status = 0
    try:
        _Worker(connection, Channel(memory_descriptor)).serve()
    except (EOFError, ConnectionError):
        status = ORPHANED_STATUS
    except Exception:
        logger.exception("The engine's worker failed.")
        status = 1
    logging.shutdown()
    sys.stderr.flush()
    os._exit(status)  # compute libraries tear down slowly, and there is nothing left to save


class _Worker:
    """Reads requests, calls the engine, writes replies."""

    def __init__(self, connection: socket.socket, channel: Channel) -> None:
        self._connection = connection
        self._channel = channel

    def serve(self) -> None:
        request_id, _, payload = self._receive()
        _start_logging(payload["log_level"])
        try:
            engine = load_engine(decode_spec(payload["spec"]), payload["backend"])
        except Exception as error:
            _log(error)
            self._send(request_id, encode_error(as_out_of_memory(error) or error), None)
            return
        self._channel.allocate(engine.info.hidden_size)
        gc.collect()
        gc.freeze()  # what loading left behind is never garbage; do not walk it in a step
        self._send(request_id, None, encode_fields(engine.info))
        while True:
            request_id, operation, payload = self._receive()
            if operation == Operation.STOP:
                return
            try:
                reply = self._answer(engine, Operation(operation), payload)
            except Exception as error:
                _log(error)
                self._send(request_id, encode_error(as_out_of_memory(error) or error), None)
            else:
                self._send(request_id, None, reply)

    def _answer(self, engine: Engine, operation: Operation, payload: Any) -> object:
        match operation:
            case Operation.STEP:
                return self._step(engine, payload)
            case Operation.OPEN:
                sequence_id, capacity_tokens, fields, layers, prefix, drawn_at, drawn = payload
                sampling = None if fields is None else decode_fields(SamplingParameters, fields)
                span = None if layers is None else Span(*layers)
                return engine.open(
                    sequence_id,
                    capacity_tokens=capacity_tokens,
                    sampling=sampling,
                    span=span,
                    prefix=prefix,
                    drawn=decode_drawn(drawn),
                    drawn_at=drawn_at,
                )
            case Operation.TRUNCATE:
                engine.truncate(*payload)
            case Operation.CLOSE:
                sequence_id, keep = payload
                engine.close(sequence_id, keep=keep)
            case Operation.STATISTICS:
                return encode_statistics(engine.statistics())
            case Operation.LOAD | Operation.STOP:
                raise LocalProtocolError(f"{operation.name} has no place here.")
        return None

    def _step(self, engine: Engine, payload: Any) -> list[list[str] | None]:
        """One entry an item: None for one that ran (its array is in the output area)."""
        hidden_size = engine.info.hidden_size
        batch = decode_items(payload, hidden_size, self._channel.input)
        results = engine.step(batch)
        self._channel.output.write(result_arrays(batch, results, hidden_size))
        return [encode_error(r) if isinstance(r, EngineError) else None for r in results]

    def _receive(self) -> tuple[int, Any, Any]:
        (length,) = LENGTH.unpack(self._receive_exactly(LENGTH.size))
        if length > MESSAGE_BYTES_MAX:
            raise LocalProtocolError(f"A control message of {length} bytes is too long.")
        return decode_message(self._receive_exactly(length))

    def _receive_exactly(self, size_bytes: int) -> bytes:
        data = bytearray()
        while len(data) < size_bytes:
            chunk = self._connection.recv(size_bytes - len(data))
            if not chunk:
                raise EOFError
            data += chunk
        return bytes(data)

    def _send(self, request_id: int, error: list[str] | None, payload: object) -> None:
        self._connection.sendall(encode_message(request_id, error, payload))


def _log(error: Exception) -> None:
    """Refusals are the caller's story; anything else is a bug of the engine's."""
    if isinstance(error, EngineError):
        logger.debug("The engine refused.", exc_info=error)
    else:
        logger.error("The engine failed.", exc_info=error)


def _start_logging(level: int) -> None:
    logging.basicConfig(
        stream=sys.stderr,
        level=level,
        format=f"%(asctime)s %(levelname)s engine[{os.getpid()}] %(name)s: %(message)s",
    )


def _exit_with_parent(socket_descriptor: int) -> None:
    """Wait for the parent's end to close, then leave, even from the middle of a step."""
    poller = select.poll()
    poller.register(socket_descriptor, 0)  # hang-up is reported whether or not it is asked for
    poller.poll()
    os._exit(ORPHANED_STATUS)
