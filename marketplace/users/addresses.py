"""E-mail addresses and network addresses, each in the one form in which they are compared."""

import ipaddress
import re
from typing import Annotated

from pydantic import AfterValidator, Field

__all__ = ["EmailText", "network_of", "normalise"]

EMAIL_CHARACTERS_MAX = 254
"""RFC 5321: what fits between the brackets of a path."""
LOCAL_CHARACTERS_MAX = 64
IPV6_PREFIX = 64
"""What one customer of a provider has: the least that is one visitor."""
_LOCAL = re.compile(r"[a-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[a-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_DOMAIN = re.compile(r"([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]{0,61}[a-z0-9]")


def normalise(text: str) -> str:
    """An address as it is stored: without space around it, in lower case. Raises ValueError.

    Only ASCII: two addresses that look alike in other scripts would be two people to us and one
    to whoever reads them; a domain of another script is written in its xn-- form.
    """
    email = text.strip().lower()
    local, _, domain = email.rpartition("@")
    if (
        len(email) > EMAIL_CHARACTERS_MAX
        or len(local) > LOCAL_CHARACTERS_MAX
        or not _LOCAL.fullmatch(local)
        or not _DOMAIN.fullmatch(domain)
    ):
        raise ValueError("is not an e-mail address")
    return email


EmailText = Annotated[str, Field(max_length=EMAIL_CHARACTERS_MAX + 16), AfterValidator(normalise)]
"""An address in a request, normalised; a little longer at first, for space around it."""


def network_of(host: str) -> str:
    """The network that a visitor is counted under: an IPv4 address, or the /64 of an IPv6 one.

    What is no address (a test's client, a Unix socket) is counted as itself.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host[:EMAIL_CHARACTERS_MAX]
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, IPV6_PREFIX), strict=False))
