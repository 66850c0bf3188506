"""Why a machine is not, or not any more, of this cluster.

PieceworkError
└─ ClusterError
   ├─ ClusterRefused        the other machine is of another cluster, or one of us has a wrong key
   └─ MemberSilent          nothing was heard from a member for too long
"""

from protocol.errors import PieceworkError

__all__ = ["ClusterError", "ClusterRefused", "MemberSilent"]


class ClusterError(PieceworkError):
    """A machine cannot be, or stay, a member."""


class ClusterRefused(ClusterError):
    """One end could not prove that it knows the cluster's name and key."""


class MemberSilent(ClusterError):
    """A member's stream is there, but nothing comes on it."""
