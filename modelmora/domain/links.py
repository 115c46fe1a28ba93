"""Pictures that lie elsewhere: what a URL must look like, and which hosts an operator lets be asked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from urllib.parse import quote

from modelmora.errors import LimitExceeded, ValidationFailed

FIELD = "input"
MAX_CHARS = 8_192
"""Of a URL: several times what a signed one of an object store takes."""

_PORTS = {"https": 443, "http": 80}
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^#]*)(?:#.*)?")
_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NEVER = re.compile(r"[\x00-\x20\x7f\\]")
# Left as they are in a path and a query; everything else, other scripts above all, is percent-encoded.
_KEPT = "%/?:@!$&'()*+,;=-._~[]"


@dataclass(frozen=True, slots=True)
class Link:
    """A picture's URL, as it came."""

    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A URL taken apart; `host` is lower case, an address in its one usual spelling, and `path` carries the query."""

    scheme: str
    host: str
    port: int
    path: str = "/"

    @property
    def authority(self) -> str:
        """The host as a URL and the header `Host` spell it, with the port where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        """Scheme, host and port: as much of a URL as may be logged, since a query may hold a signature."""
        return f"{self.scheme}://{self.authority}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRule:
    """One entry of an allow-list: `*.host` stands for the hosts below it, at any depth, and not for itself."""

    scheme: str
    host: str
    port: int

    @classmethod
    def parse(cls, entry: str) -> HostRule:
        """`[http://](host | *.host)[:port]`; https and its port unless told otherwise. Raises ValueError."""
        scheme, there, rest = entry.lower().rpartition("://")
        scheme = scheme if there else "https"
        below = "*." if rest.startswith("*.") else ""
        if scheme not in _PORTS:
            raise ValueError(f"{entry}: the scheme is neither https nor http")
        host, port = _authority(rest.removeprefix(below), _PORTS[scheme])
        if below and _is_address(host):
            raise ValueError(f"{entry}: there are no hosts below an address")
        return cls(scheme=scheme, host=below + host, port=port)

    def admits(self, target: Target) -> bool:
        """Whether the target is of this scheme, host and port."""
        ours = self.host == target.host
        if self.host.startswith("*."):
            ours = target.host.endswith(self.host[1:]) and not _is_address(target.host)
        return ours and (self.scheme, self.port) == (target.scheme, target.port)


def read_url(url: str) -> Target:
    """The parts of an http or https URL, read narrowly.

    The connection is made from these parts and never from the text, so there is no second reader who could understand
    it differently. What readers are known to differ about is refused: blanks, control characters, backslashes,
    credentials, percent signs in a host, hosts of other scripts than ASCII's, and addresses spelt in decimal, octal or
    hexadecimal. Raises ValidationFailed, LimitExceeded.
    """
    if len(url) > MAX_CHARS:
        raise LimitExceeded("the URL is too long", field=FIELD, found=f"{len(url)} characters", expected="at most 8192")
    parts = _URL.fullmatch(url)
    if parts is None or _NEVER.search(url):
        raise _unusable("no URL, or one with blanks, control characters or backslashes", url)
    scheme, authority, rest = parts[1].lower(), parts[2], parts[3]
    if scheme not in _PORTS:
        raise _unusable("not an https or http URL", url)
    if "@" in authority:
        raise ValidationFailed("a URL must carry no credentials", field=FIELD, expected="https://host/path")
    try:
        host, port = _authority(authority, _PORTS[scheme])
    except ValueError as cause:
        raise _unusable(str(cause), url) from None
    path = quote(rest if rest.startswith("/") else f"/{rest}", safe=_KEPT)
    return Target(scheme=scheme, host=host, port=port, path=path)


def admitted(url: str, rules: Sequence[HostRule]) -> Target:
    """The URL's parts where one of the rules admits it; raises ValidationFailed, LimitExceeded."""
    target = read_url(url)
    if any(rule.admits(target) for rule in rules):
        return target
    raise ValidationFailed(
        f"pictures are not fetched from {target.origin}",
        field=FIELD,
        found=target.origin,
        expected="a host in MODELMORA_FETCH_HOSTS, or the picture itself as a data URI",
    )


def _authority(text: str, usual_port: int) -> tuple[str, int]:
    """Host and port; raises ValueError."""
    parts = _AUTHORITY.fullmatch(text)
    if parts is None:
        raise ValueError("the host is neither a name in ASCII (another script's in its xn-- form) nor an address")
    port = usual_port if parts[2] is None else int(parts[2])
    if not 1 <= port <= 65535:
        raise ValueError("the port is not from 1 to 65535")
    return _host(parts[1].lower()), port


def _host(text: str) -> str:
    if text.startswith("["):
        try:
            return str(IPv6Address(text[1:-1]))
        except AddressValueError as cause:
            raise ValueError("what stands in brackets is no IPv6 address") from cause
    name = text.removesuffix(".")
    labels = name.split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError("the host is no name: labels of 1 to 63 letters, digits and hyphens between dots")
    if re.fullmatch(r"[0-9]+|0x[0-9a-f]*", labels[-1]):
        return _canonical(name)
    return name


def _canonical(name: str) -> str:
    """A host that ends in a number is an address, and resolvers take spellings of it that hide which one."""
    try:
        return str(IPv4Address(name))
    except AddressValueError as cause:
        raise ValueError("an IPv4 address is four decimal numbers from 0 to 255 without leading zeros") from cause


def _is_address(host: str) -> bool:
    return ":" in host or host.rpartition(".")[2].isdigit()


def _unusable(why: str, url: str) -> ValidationFailed:
    return ValidationFailed(why, field=FIELD, found=repr(url[:40]), expected="https://host/path")
