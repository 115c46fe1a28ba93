"""Which addresses may be connected to on behalf of a caller: public ones, and networks that an operator names."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

# What IANA's registries of special-purpose addresses say is not public, whatever the interpreter's own list knows by
# its age: private, shared (100.64/10), loopback, link-local, for documentation and benchmarks, 6to4 relays, multicast
# and reserved.
_SPECIAL_4 = tuple(
    IPv4Network(each)
    for each in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's platform channel: public by number, inside of every virtual machine there
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",
    )
)
# Public IPv6 is 2000::/3; what carries an IPv4 address outside of it (mapped, NAT64) is refused with the rest.
_GLOBAL_6 = IPv6Network("2000::/3")
_SPECIAL_6 = tuple(IPv6Network(each) for each in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"))


def may_connect(text: str, networks: Sequence[Network] = ()) -> bool:
    """Whether the address, as a resolver gave it, is public or in one of `networks`.

    Multicast and unspecified addresses never are: the latter mean this machine. Nothing is unwrapped: an IPv4 address
    inside of an IPv6 one (mapped, NAT64, 6to4) is judged by the outer form. A zone (`%eth0`) makes an address local.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if getattr(address, "scope_id", None) or address.is_multicast or address.is_unspecified:
        return False
    return _is_public(address) or any(address in network for network in networks)


def read_network(text: str) -> Network:
    """A network in CIDR notation, or a single address; raises ValueError."""
    return ipaddress.ip_network(text)


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv4Address):
        return address.is_global and not any(address in network for network in _SPECIAL_4)
    return address.is_global and address in _GLOBAL_6 and not any(address in network for network in _SPECIAL_6)
