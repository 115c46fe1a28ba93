"""One GET to a host that a caller named, to an address that was looked at before.

The usual ways around an allow-list meet this:

- The name is resolved here, every address it has is checked, and the connection goes to one of these addresses. A
  second answer of the name server (rebinding) is never asked for; TLS and `Host` still speak of the name.
- It is httpx's transport without its client: that one follows redirects, keeps cookies, reads proxies and passwords
  from the environment, and undoes content encodings. None of it exists at this level.
- A connection serves one request. A pool would know it by its address alone, and hand one that was made, and its
  certificate checked, for one name to a request for another name at the same address.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

import httpx
import structlog

from modelmora import __version__
from modelmora.domain.addresses import Network, may_connect
from modelmora.domain.links import FIELD, Target
from modelmora.errors import DependencyUnavailable, InvalidInput, ModelMoraError, ValidationFailed

log = structlog.get_logger(__name__)

Resolve: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]
"""The addresses of a host, in the order in which they are to be tried; raises OSError (`socket.gaierror`)."""

TRIED = 4
"""Addresses of a name that are tried, at most; all are checked."""


@contextlib.contextmanager
def resolver(threads: int) -> Iterator[Resolve]:
    """The system's name service, in threads of its own: a slow one must not hold up others' work."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="resolve")

    def ask(host: str, port: int) -> list[str]:
        # As bytes, since a text would go through Python's old IDNA codec first.
        answers = socket.getaddrinfo(host.encode("ascii"), port, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(str(address[0]) for *_, address in answers))

    async def resolve(host: str, port: int) -> list[str]:
        return await asyncio.get_running_loop().run_in_executor(pool, ask, host, port)

    try:
        yield resolve
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


class GuardedTransport:
    """Connects to public addresses and those in `networks`. `tls` checks certificates (None: as httpx does)."""

    def __init__(
        self, resolve: Resolve, *, networks: Sequence[Network] = (), tls: ssl.SSLContext | None = None
    ) -> None:
        self._resolve = resolve
        self._networks = tuple(networks)
        self._transport = httpx.AsyncHTTPTransport(
            # The environment may name certificates (SSL_CERT_FILE): that is the operator's. A proxy it may not.
            verify=tls or httpx.create_ssl_context(),
            trust_env=False,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
        )

    @contextlib.asynccontextmanager
    async def get(self, target: Target, *, timeout_s: float) -> AsyncIterator[httpx.Response]:
        """The answer, its body unread. Raises ValidationFailed (no such host, an address that is not allowed),
        DependencyUnavailable, InvalidInput (what came is not HTTP)."""
        try:
            response = await self._first(target, await self._addresses(target), timeout_s)
            async with contextlib.aclosing(response):
                yield response
        except (httpx.TransportError, OSError) as cause:
            raise _translated(cause, target) from cause

    async def aclose(self) -> None:
        """Drops open connections."""
        await self._transport.aclose()

    async def _addresses(self, target: Target) -> list[str]:
        """Every address the name has, all of them allowed."""
        try:
            addresses = list(await self._resolve(target.host, target.port))
        except socket.gaierror as cause:
            if cause.errno not in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)):
                raise
            raise ValidationFailed(f"there is no host {target.host}", field=FIELD, found=target.host) from cause
        refused = [address for address in addresses if not may_connect(address, self._networks)]
        if refused or not addresses:
            # Which address it is stays in the log: the answer must not be a way to look names up behind a firewall.
            log.warning("address_refused", host=target.host, addresses=refused)
            raise ValidationFailed(
                f"{target.host} is not at a public address; an operator opens networks in MODELMORA_FETCH_NETWORKS",
                field=FIELD,
                found=target.host,
                expected="a host with public addresses alone",
            )
        return addresses[:TRIED]

    async def _first(self, target: Target, addresses: Sequence[str], timeout_s: float) -> httpx.Response:
        """The answer of the first address that can be connected to."""
        for address in addresses[:-1]:
            try:
                return await self._ask(target, address, timeout_s / len(addresses))
            except (httpx.ConnectError, httpx.ConnectTimeout) as cause:
                log.debug("address_unreachable", host=target.host, address=address, why=str(cause))
        return await self._ask(target, addresses[-1], timeout_s / len(addresses))

    async def _ask(self, target: Target, address: str, connect_s: float) -> httpx.Response:
        url = httpx.URL(scheme=target.scheme, host=address, port=target.port, raw_path=target.path.encode("ascii"))
        headers = {
            "host": target.authority,
            "user-agent": f"modelmora/{__version__}",
            "accept": "image/*",
            "accept-encoding": "identity",
            "connection": "close",
        }
        extensions = {"sni_hostname": target.host, "timeout": {"connect": connect_s}}
        return await self._transport.handle_async_request(
            httpx.Request("GET", url, headers=headers, extensions=extensions)
        )


def _translated(cause: Exception, target: Target) -> ModelMoraError:
    """What went wrong on the way, told of the host alone."""
    log.info("fetch_failed", origin=target.origin, why=repr(cause))
    match cause:
        case httpx.RemoteProtocolError():
            return InvalidInput(f"{target.origin} did not answer in HTTP, or broke off", field=FIELD)
        case httpx.ConnectError() if _is_tls(cause):
            return DependencyUnavailable(f"no trusted TLS connection to {target.origin}", field=FIELD)
        case httpx.ConnectError() | httpx.ConnectTimeout():
            return DependencyUnavailable(f"cannot connect to {target.origin}", field=FIELD)
        case socket.gaierror():
            return DependencyUnavailable(f"the name {target.host} cannot be resolved now", field=FIELD)
    return DependencyUnavailable(f"the connection to {target.origin} broke off", field=FIELD)


def _is_tls(error: BaseException) -> bool:
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLError):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
