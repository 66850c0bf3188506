"""The engine's branch of the error tree.

EngineError
├─ ModelNotFound        no directory of that name or path
├─ ModelUnsupported     the family or its settings cannot be served exactly
├─ ShardMismatch        weights missing, or the span does not fit the model
├─ WeightsCorrupt       a tensor's hash differs from the manifest
├─ OutOfKV              the KV budget cannot hold the sequence; nothing was opened
├─ OutOfMemory          the machine has none left for this batch; the engine goes on without it
├─ StepInvalid          one item of a batch was refused; the others ran
├─ StepCancelled        the sequence was closed or truncated before the step ran
├─ QueueFull            more work waits than may; another hop may have room
├─ BackendMissing       the backend's extra is not installed
└─ EngineDied           the worker process is gone; every open sequence is lost
"""

from protocol.errors import EngineError

__all__ = [
    "BackendMissing",
    "EngineDied",
    "EngineError",
    "ModelNotFound",
    "ModelUnsupported",
    "OutOfKV",
    "OutOfMemory",
    "QueueFull",
    "ShardMismatch",
    "StepCancelled",
    "StepInvalid",
    "WeightsCorrupt",
]


class ModelNotFound(EngineError):
    """No model of that name or path is on this machine."""


class ModelUnsupported(EngineError):
    """The family, or a setting of it, cannot be served exactly; the message says which."""


class ShardMismatch(EngineError):
    """Weights are missing, or the span does not fit the model."""


class WeightsCorrupt(EngineError):
    """A file's bytes are not those the manifest names."""


class OutOfKV(EngineError):
    """The KV budget cannot hold the sequence; nothing was opened."""


class OutOfMemory(EngineError):
    """Memory ran out in a call; its rows are undone, and the engine goes on. On the wire:
    NO_CAPACITY, as the same step may fit elsewhere."""


class StepInvalid(EngineError):
    """One item of a batch was refused (position, shape, token id); the others ran."""


class StepCancelled(EngineError):
    """The step never ran: its sequence was closed or truncated first. On the wire: CANCELLED."""


class QueueFull(EngineError):
    """More steps wait than the scheduler may hold. On the wire: NO_CAPACITY."""


class BackendMissing(EngineError):
    """No such backend, or its packages are not installed; the hint names the extra."""


class EngineDied(EngineError):
    """The worker process is gone and every open sequence with it; sessions may be repaired."""
