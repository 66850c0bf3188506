"""A home's router, or a carrier's: hosts inside, the rest outside, a NAT or firewall between."""

from typing import TYPE_CHECKING, Any, Final

from tests.netlab import faults
from tests.netlab.namespace import LabError
from tests.netlab.nat import NatKind, draw_ports, nat_rules
from tests.netlab.switch import Switch

if TYPE_CHECKING:
    from tests.netlab.lab import Lab

__all__ = ["Router"]

UNANSWERED_TIMEOUT_S: Final = 30  # of a mapping that no answer came by: Linux's own value


class Router(Switch):
    """Call `start` once it is attached."""

    def __init__(
        self, lab: "Lab", name: str, nat: NatKind, mapping_timeout_s: int, *inside: Any
    ) -> None:
        super().__init__(lab, name, *inside)
        self.nat, self.mapping_timeout_s = nat, mapping_timeout_s
        self.ports: tuple[int, int] | None = None
        self.namespace.set_kernel(
            netfilter__nf_conntrack_udp_timeout=min(UNANSWERED_TIMEOUT_S, mapping_timeout_s),
            netfilter__nf_conntrack_udp_timeout_stream=mapping_timeout_s,
        )

    def start(self) -> None:
        """Load the rules, with a newly drawn range of ports; mappings are forgotten."""
        self.ports = draw_ports(self.nat)
        self.namespace.nft(
            nat_rules(
                self.nat,
                self.ip,
                ports=self.ports,
                mapping_timeout_s=self.mapping_timeout_s,
                ipv6=self.inside_ipv6 is not None,
            )
        )
        self.namespace.forget_connections()

    def set_nat(self, nat: NatKind | str) -> None:
        """Another kind of NAT from now on; not between routed and translated."""
        nat = NatKind(nat)
        if nat is NatKind.CGNAT or nat.is_routed != self.nat.is_routed:
            raise LabError(f"{self.name} cannot become {nat}: make another home.")
        self.nat = nat
        self.start()

    def flush(self) -> None:
        """See faults.flush."""
        faults.flush(self)

    def reboot(self, downtime_s: float = 0.0, *, new_address: bool = False) -> None:
        """See faults.reboot."""
        faults.reboot(self, downtime_s, new_address=new_address)
