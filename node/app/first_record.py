"""What a machine says of itself before it knows the model."""

import ipaddress
import time
from importlib.metadata import version

from node.app.cluster_weights import model_label
from node.config import UpConfig
from node.engine.backends import available_backends
from protocol.identity import PeerId
from protocol.machine import MachineRecord, MachineState

__all__ = ["first_record", "is_loopback"]


def first_record(config: UpConfig, peer_id: PeerId) -> MachineRecord:
    """The gossip sets times and addresses."""
    now_s = time.time()
    return MachineRecord(
        peer_id=peer_id,
        sequence=0,
        joined_at_ms=int(now_s * 1000),
        name=config.machine_name,
        version=version("piecework"),
        addresses=(),
        api_port=0 if is_loopback(config.api_host) else config.api_port,
        memory_bytes=config.memory_bytes,
        backends=available_backends(),
        model=model_label(config.model),
        state=MachineState.WAITING,
        done_percent=0,
        token_layers_per_s=0,
        rows_per_s=0,
        spread=config.spread,
        issued_at_s=int(now_s),
        expires_at_s=int(now_s) + 1,
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
