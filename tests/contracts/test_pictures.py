"""The port Pictures: over real connections to servers that behave, and to those that do not."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import math
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import structlog

from adapters.pictures import ClosedPictures, FetchRules, HttpPictures
from adapters.pictures import http as http_module
from adapters.pictures.guarded import resolver
from modelmora.domain.addresses import read_network
from modelmora.domain.inference import Call
from modelmora.domain.links import HostRule
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.ports import Pictures
from tests.fakes import until
from tests.support import required_in_ci

PICTURE = b"\x89PNG\r\n" + bytes(range(256)) * 40
HERE = read_network("127.0.0.0/8")
CALL = Call(request_id="r", deadline=math.inf)

Writer = asyncio.StreamWriter
Behave = Callable[[str, Writer], Awaitable[object]]
"""What a server does about a request; true: the connection stays open for another one."""


@dataclass(slots=True)
class Server:
    """A server on a loopback address; `asked` is what came, `behave` what it does about it."""

    port: int
    asked: list[str] = field(default_factory=list)
    open: int = 0
    most: int = 0

    def url(self, path: str = "/p.png", *, host: str = "pictures.test") -> str:
        return f"http://{host}:{self.port}{path}"


def answered(
    body: bytes = PICTURE,
    *,
    status: str = "200 OK",
    kind: str | None = "image/png",
    length: int | None = None,
    **more: str,
) -> Behave:
    """An ordinary answer, with a stated length that may be a lie."""

    async def behave(_: str, writer: Writer) -> bool:
        lines = [f"HTTP/1.1 {status}", f"content-length: {len(body) if length is None else length}"]
        lines += [f"content-type: {kind}"] if kind is not None else []
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in more.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        await writer.drain()
        return True

    return behave


Start = Callable[..., Awaitable[Server]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts servers that end with the test."""
    async with contextlib.AsyncExitStack() as stack:

        async def begin(behave: Behave, *, tls: ssl.SSLContext | None = None) -> Server:
            server = Server(0)

            async def serve(reader: asyncio.StreamReader, writer: Writer) -> None:
                server.open += 1
                server.most = max(server.most, server.open)
                try:
                    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                        stays: object = True
                        while stays:
                            request = (await reader.readuntil(b"\r\n\r\n")).decode()
                            server.asked.append(request)
                            stays = await behave(request, writer)
                finally:
                    server.open -= 1
                    writer.close()

            listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
            stack.callback(listening.close)
            server.port = listening.sockets[0].getsockname()[1]
            return server

        yield begin


@dataclass(slots=True)
class Names:
    """A name service that says what it is told; each question takes the next answer, the last one stays."""

    answers: list[list[str]] = field(default_factory=lambda: [["127.0.0.1"]])
    trouble: OSError | None = None
    asked: list[tuple[str, int]] = field(default_factory=list)

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append((host, port))
        if self.trouble is not None:
            raise self.trouble
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.fixture
def names() -> Names:
    return Names()


Open = Callable[..., HttpPictures]


@pytest.fixture
async def reach(names: Names) -> AsyncIterator[Open]:
    """Opens the adapter for one server, known as `pictures.test`, with loopback among the listed networks."""
    async with contextlib.AsyncExitStack() as stack:

        def begin(
            server: Server,
            *entries: str,
            resolve: Callable[[str, int], Awaitable[Sequence[str]]] | None = names,
            tls: ssl.SSLContext | None = None,
            **rules: object,
        ) -> HttpPictures:
            hosts = entries or (f"http://pictures.test:{server.port}",)
            chosen = FetchRules(hosts=tuple(map(HostRule.parse, hosts)), networks=(HERE,))
            chosen = replace(chosen, **rules)  # type: ignore[arg-type] # fields of the rules
            pictures = HttpPictures(chosen, resolve=resolve, tls=tls)
            stack.push_async_callback(pictures.close)
            return pictures

        yield begin


async def one(pictures: Pictures, url: str, call: Call = CALL) -> Outcome[bytes]:
    (outcome,) = await pictures.fetch([url], call=call)
    return outcome


async def refusal(pictures: Pictures, url: str, call: Call = CALL) -> str:
    """The code and the words of a URL that must fail."""
    outcome = await one(pictures, url, call)
    assert isinstance(outcome, Failed), outcome
    return f"{outcome.error.code}: {outcome.error.detail} {outcome.error.found or ''}"


# What every adapter keeps


@pytest.mark.parametrize("adapter", ["closed", "http"])
async def test_every_url_has_one_outcome_in_its_place_and_none_raises(adapter: str, start: Start, reach: Open) -> None:
    server = await start(answered())
    pictures: Pictures = reach(server) if adapter == "http" else ClosedPictures()

    outcomes = await pictures.fetch([server.url("/1"), "nonsense", server.url("/2"), server.url("/1")], call=CALL)

    assert len(outcomes) == 4
    assert isinstance(outcomes[1], Failed)
    if adapter == "http":
        assert [isinstance(o, Ok) for o in outcomes] == [True, False, True, True]


@pytest.mark.parametrize("adapter", ["closed", "http"])
async def test_nothing_asked_is_nothing_answered(adapter: str, start: Start, reach: Open) -> None:
    pictures: Pictures = reach(await start(answered())) if adapter == "http" else ClosedPictures()

    assert await pictures.fetch([], call=CALL) == []


async def test_the_closed_one_names_the_setting_that_opens_it() -> None:
    assert "MODELMORA_FETCH_HOSTS" in await refusal(ClosedPictures(), "https://images.example.org/a.png")


# What is asked of a server


async def test_a_picture_arrives_as_it_lies_there(start: Start, reach: Open) -> None:
    server = await start(answered())

    assert await one(reach(server), server.url("/a%20b.png?x=1&y=ä#part")) == Ok(PICTURE)
    line, *headers = server.asked[0].strip().split("\r\n")
    assert line == "GET /a%20b.png?x=1&y=%C3%A4 HTTP/1.1"
    named = dict(header.lower().split(": ", 1) for header in headers)
    assert named["host"] == f"pictures.test:{server.port}"
    assert named["accept-encoding"] == "identity"
    assert not {"authorization", "cookie", "referer", "proxy-authorization"} & named.keys()


async def test_a_url_that_stands_there_twice_is_fetched_once(start: Start, reach: Open) -> None:
    server = await start(answered())

    outcomes = await reach(server).fetch([server.url()] * 3, call=CALL)

    assert outcomes == [Ok(PICTURE)] * 3
    assert len(server.asked) == 1


async def test_the_environments_proxy_and_passwords_are_not_used(
    start: Start, reach: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    proxy, server = await start(answered(b"of the proxy")), await start(answered())
    netrc = tmp_path / "netrc"
    netrc.write_text("machine pictures.test login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")

    assert await one(reach(server), server.url()) == Ok(PICTURE)
    assert proxy.asked == []
    assert "authorization" not in server.asked[0].lower()


async def test_a_cookie_of_one_caller_is_not_shown_for_the_next(start: Start, reach: Open) -> None:
    server = await start(answered(set_cookie="session=1"))
    pictures = reach(server)

    await one(pictures, server.url("/1"))
    await one(pictures, server.url("/2"))

    assert "cookie" not in server.asked[1].lower()


@pytest.mark.parametrize("kind", ["image/jpeg", "IMAGE/PNG; a=b", "application/octet-stream", "binary/octet-stream"])
async def test_what_may_be_a_picture_is_taken(kind: str, start: Start, reach: Open) -> None:
    server = await start(answered(kind=kind))

    assert await one(reach(server), server.url()) == Ok(PICTURE)


@pytest.mark.parametrize(
    "kind", ["text/html", "application/json", "imagery/png", "application/octet-streams", "", None]
)
async def test_what_says_that_it_is_none_is_not(kind: str | None, start: Start, reach: Open) -> None:
    server = await start(answered(kind=kind))

    assert "unsupported_media" in await refusal(reach(server), server.url())


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("404 Not Found", "validation"),
        ("401 Unauthorized", "validation"),
        ("206 Partial Content", "validation"),
        ("204 No Content", "validation"),
        ("429 Too Many Requests", "dependency_unavailable"),
        ("503 Service Unavailable", "dependency_unavailable"),
    ],
)
async def test_any_other_status_is_told(status: str, code: str, start: Start, reach: Open) -> None:
    server = await start(answered(b"", status=status))

    said = await refusal(reach(server), server.url("/secret?token=1"))

    assert said.startswith(code)
    assert status[:3] in said
    assert "secret" not in said


# Ways around the allow-list


@pytest.mark.parametrize(
    "status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent", "300 Many"]
)
async def test_a_redirect_is_not_followed(status: str, start: Start, reach: Open) -> None:
    secret = await start(answered(b"secret"))
    server = await start(answered(b"", status=status, location=secret.url(), refresh=f"0; url={secret.url()}"))

    said = await refusal(
        reach(server, f"http://pictures.test:{server.port}", f"http://pictures.test:{secret.port}"), server.url()
    )

    assert "redirect" in said
    assert (len(server.asked), secret.asked) == (1, [])


async def test_a_host_that_is_not_listed_is_not_even_looked_up(start: Start, reach: Open, names: Names) -> None:
    server = await start(answered())
    pictures = reach(server)

    for host in ("other.test", "127.0.0.1", "pictures.test.attacker.test", "localhost"):
        assert "not fetched from" in await refusal(pictures, server.url(host=host))
    for url in (f"http://pictures.test@127.0.0.1:{server.port}/", f"http://2130706433:{server.port}/"):
        assert "validation" in await refusal(pictures, url)
    assert (names.asked, server.asked) == ([], [])


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["169.254.169.254"],
        ["::1"],
        ["::ffff:127.0.0.1"],
        ["64:ff9b::7f00:1"],
        ["10.0.0.1"],
        ["0.0.0.0"],
        ["93.184.216.34", "127.0.0.1"],
        ["127.0.0.1", "93.184.216.34"],
        ["93.184.216.34"] * 4 + ["127.0.0.1"],
        [],
    ],
)
async def test_a_listed_host_at_an_address_that_is_not_public_is_refused(
    addresses: list[str], start: Start, reach: Open, names: Names
) -> None:
    server = await start(answered())
    names.answers = [addresses]

    said = await refusal(reach(server, networks=()), server.url())

    assert "not at a public address" in said
    assert not any(address in said for address in addresses)
    assert server.asked == []


async def test_a_listed_network_opens_its_own_addresses_alone(start: Start, reach: Open, names: Names) -> None:
    server = await start(answered())
    names.answers = [["10.0.0.1"], ["127.0.0.1", "10.0.0.1"], ["127.0.0.1"]]
    pictures = reach(server)

    assert "not at a public address" in await refusal(pictures, server.url())
    assert "not at a public address" in await refusal(pictures, server.url())
    assert await one(pictures, server.url()) == Ok(PICTURE)


async def test_a_name_that_changes_after_it_was_checked_changes_nothing(
    start: Start, reach: Open, names: Names
) -> None:
    """Rebinding: whoever asks for the name a second time, to connect, would be sent elsewhere."""
    server = await start(answered())
    names.answers = [["127.0.0.1"], ["169.254.169.254"]]

    assert await one(reach(server), server.url()) == Ok(PICTURE)
    assert len(names.asked) == 1


async def test_the_systems_resolver_is_asked_for_names_and_spellings_of_addresses() -> None:
    with resolver(2) as ask:
        assert "127.0.0.1" in await ask("localhost", 80)
        # What a reader of URLs must refuse, since this one takes it.
        assert await ask("2130706433", 80) == ["127.0.0.1"]
        with pytest.raises(socket.gaierror):
            await ask("no-such-host.invalid", 80)


async def test_a_loopback_server_is_out_of_reach_by_the_systems_resolver_too(start: Start, reach: Open) -> None:
    server = await start(answered())
    pictures = reach(
        server, f"http://localhost:{server.port}", f"http://127.0.0.1:{server.port}", networks=(), resolve=None
    )

    assert "not at a public address" in await refusal(pictures, server.url(host="localhost"))
    assert "not at a public address" in await refusal(pictures, server.url(host="LOCALHOST."))
    assert "not at a public address" in await refusal(pictures, server.url(host="127.0.0.1"))
    assert server.asked == []


async def test_the_next_address_is_tried_where_one_does_not_answer(start: Start, reach: Open, names: Names) -> None:
    server = await start(answered())
    names.answers = [["127.0.0.3", "127.0.0.1"]]

    assert await one(reach(server), server.url()) == Ok(PICTURE)


@pytest.mark.parametrize(
    ("trouble", "code"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "validation: there is no host pictures.test"),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure"), "dependency_unavailable: the name pictures.test"),
        (OSError(24, "Too many open files"), "dependency_unavailable"),
    ],
)
async def test_a_name_that_is_not_found_is_told(
    trouble: OSError, code: str, start: Start, reach: Open, names: Names
) -> None:
    server = await start(answered())
    names.trouble = trouble

    assert (await refusal(reach(server), server.url())).startswith(code)


# TLS speaks of the name


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of `pictures.test` alone, with its key."""
    folder = tmp_path_factory.mktemp("tls")
    made = folder / "made.pem"
    if shutil.which("openssl") is None:
        required_in_ci("there is no openssl to make a certificate with")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=pictures.test", "-addext", "subjectAltName=DNS:pictures.test",
         "-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")],
        check=True, capture_output=True,
    )  # fmt: skip
    made.write_bytes((folder / "key.pem").read_bytes() + (folder / "certificate.pem").read_bytes())
    return made


async def test_https_is_checked_against_the_name_and_not_the_address(
    start: Start, reach: Open, certificate: Path
) -> None:
    ours, trusting, asked = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context(), []
    ours.load_cert_chain(certificate)
    ours.sni_callback = lambda _, name, __: asked.append(name)
    trusting.load_verify_locations(certificate)
    server = await start(answered(), tls=ours)
    pictures = reach(server, f"pictures.test:{server.port}", f"other.test:{server.port}", tls=trusting)

    assert await one(pictures, f"https://pictures.test:{server.port}/") == Ok(PICTURE)
    said = await refusal(pictures, f"https://other.test:{server.port}/")
    assert said.startswith("dependency_unavailable: no trusted TLS connection")
    assert await one(pictures, f"https://pictures.test:{server.port}/") == Ok(PICTURE)
    assert (asked, len(server.asked)) == (["pictures.test", "other.test", "pictures.test"], 2)


async def test_a_certificate_that_nobody_vouches_for_is_refused(start: Start, reach: Open, certificate: Path) -> None:
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.load_cert_chain(certificate)
    server = await start(answered(), tls=ours)
    pictures = reach(server, f"pictures.test:{server.port}")

    assert "no trusted TLS" in await refusal(pictures, f"https://pictures.test:{server.port}/")
    assert server.asked == []


# Bounds


async def test_a_picture_has_a_largest_size_stated_or_not(start: Start, reach: Open) -> None:
    stated = await start(answered(b"x" * 1001))
    exact = await start(answered(b"x" * 1000))

    async def unstated(_: str, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\n\r\n" + b"x" * 1001)

    async def chunked(_: str, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\ntransfer-encoding: chunked\r\n\r\n")
        writer.write((b"64\r\n" + b"x" * 100 + b"\r\n") * 11 + b"0\r\n\r\n")

    assert await one(reach(exact, picture_bytes=1000), exact.url()) == Ok(b"x" * 1000)
    for server in (stated, await start(unstated), await start(chunked)):
        assert "limit_exceeded" in await refusal(reach(server, picture_bytes=1000), server.url())


async def test_an_endless_body_ends_at_the_limit(start: Start, reach: Open) -> None:
    sent = 0

    async def endless(_: str, writer: Writer) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()
            sent += 65536

    server = await start(endless)

    assert "limit_exceeded" in await refusal(reach(server, picture_bytes=2**20), server.url())
    await until(lambda: server.open == 0)
    assert sent < 64 * 2**20


async def test_the_pictures_of_one_request_have_a_size_together(start: Start, reach: Open) -> None:
    server = await start(answered(b"x" * 1000))
    pictures = reach(server, request_bytes=2500)

    outcomes = await pictures.fetch([server.url(f"/{n}") for n in range(4)], call=CALL)

    assert sum(isinstance(o, Ok) for o in outcomes) == 2
    assert {o.error.code for o in outcomes if isinstance(o, Failed)} == {"limit_exceeded"}
    assert isinstance(await one(pictures, server.url()), Ok)


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate, gzip"])
async def test_an_encoded_body_is_not_decoded(encoding: str, start: Start, reach: Open) -> None:
    bomb = gzip.compress(bytes(50 * 2**20))
    server = await start(answered(bomb, content_encoding=encoding))

    assert "unsupported_media" in await refusal(reach(server), server.url())


async def test_a_body_that_says_identity_is_taken(start: Start, reach: Open) -> None:
    server = await start(answered(content_encoding="identity"))

    assert await one(reach(server), server.url()) == Ok(PICTURE)


@pytest.mark.parametrize("stage", ["connect", "headers", "informational", "body"])
async def test_a_server_that_drips_is_left_in_time(stage: str, start: Start, reach: Open) -> None:
    async def drip(_: str, writer: Writer) -> None:
        if stage == "body":
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\ncontent-length: 100000\r\n\r\n")
        if stage == "headers":
            writer.write(b"HTTP/1.1 200 OK\r\nx-drip: ")
        while True:
            writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n" if stage == "informational" else b"x")
            await writer.drain()
            await asyncio.sleep(0.01)

    if stage == "connect":  # a listener that accepts nobody: its queue of one is full
        with socket.socket() as deaf, contextlib.ExitStack() as clients:
            deaf.bind(("127.0.0.1", 0))
            deaf.listen(0)
            server = Server(deaf.getsockname()[1])
            for _ in range(3):
                client = clients.enter_context(socket.socket())
                client.setblocking(False)
                client.connect_ex(deaf.getsockname())
            assert "dependency_unavailable" in await refusal(reach(server, timeout_s=0.3), server.url())
        return
    server = await start(drip)

    assert "dependency_unavailable" in await refusal(reach(server, timeout_s=0.3), server.url())
    await until(lambda: server.open == 0)


async def test_the_callers_deadline_ends_a_fetch(start: Start, reach: Open) -> None:
    async def silent(_: str, __: Writer) -> None:
        await asyncio.Event().wait()

    server = await start(silent)
    pictures = reach(server)

    assert "deadline_exceeded" in await refusal(pictures, server.url(), replace(CALL, deadline=time.monotonic() + 0.2))
    assert "deadline_exceeded" in await refusal(pictures, server.url(), replace(CALL, deadline=time.monotonic() - 1))


async def test_a_deadline_that_has_passed_asks_nobody(start: Start, reach: Open, names: Names) -> None:
    server = await start(answered())

    assert "deadline_exceeded" in await refusal(reach(server), server.url(), replace(CALL, deadline=time.monotonic()))
    assert (names.asked, server.asked) == ([], [])


async def test_a_caller_who_leaves_closes_the_connections(start: Start, reach: Open) -> None:
    async def silent(_: str, __: Writer) -> None:
        await asyncio.Event().wait()

    server = await start(answered())
    waiting = await start(silent)
    pictures = reach(server, *(f"http://pictures.test:{s.port}" for s in (server, waiting)))
    task = asyncio.create_task(pictures.fetch([waiting.url(f"/{n}") for n in range(20)], call=CALL))
    await until(lambda: len(waiting.asked) == http_module.AT_ONCE_OF_A_REQUEST)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert await one(pictures, server.url()) == Ok(PICTURE)
    assert len(waiting.asked) == http_module.AT_ONCE_OF_A_REQUEST


async def test_one_request_of_many_leaves_room_for_another(start: Start, reach: Open) -> None:
    go = asyncio.Event()

    async def held(request: str, writer: Writer) -> None:
        if " /held" in request:
            await go.wait()
        await answered()(request, writer)

    server = await start(held)
    pictures = reach(server)
    many = asyncio.create_task(pictures.fetch([server.url(f"/held/{n}") for n in range(40)], call=CALL))
    await until(lambda: server.open == http_module.AT_ONCE_OF_A_REQUEST)

    assert await one(pictures, server.url("/quick")) == Ok(PICTURE)
    go.set()
    assert await many == [Ok(PICTURE)] * 40
    assert server.most == http_module.AT_ONCE_OF_A_REQUEST + 1


async def test_too_many_open_are_refused_at_once_and_room_comes_back(
    start: Start, reach: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_module, "MOST_OPEN", 3)
    asked, go = asyncio.Event(), asyncio.Event()
    usual = answered()

    async def behave(path: str, writer: Writer) -> object:
        asked.set()
        await go.wait()
        return await usual(path, writer)

    server = await start(behave)
    pictures = reach(server)
    first = asyncio.create_task(pictures.fetch([server.url(f"/{n}") for n in range(2)], call=CALL))
    await asked.wait()

    outcomes = await pictures.fetch([server.url(f"/{n}") for n in range(2, 4)], call=CALL)

    assert [o.error.code for o in outcomes if isinstance(o, Failed)] == ["overloaded"] * 2
    go.set()
    assert await first == [Ok(PICTURE)] * 2
    assert await pictures.fetch([server.url(f"/{n}") for n in range(3)], call=CALL) == [Ok(PICTURE)] * 3


async def test_a_request_of_more_urls_than_can_ever_be_open_is_not_told_to_come_back(
    start: Start, reach: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_module, "MOST_OPEN", 3)
    server = await start(answered())

    outcomes = await reach(server).fetch([server.url(f"/{n}") for n in range(4)], call=CALL)

    assert [o.error.code for o in outcomes if isinstance(o, Failed)] == ["limit_exceeded"] * 4


async def test_requests_wait_for_those_whose_pictures_are_being_fetched(
    start: Start, reach: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_module, "REQUESTS", 1)
    asked, go = list[str](), asyncio.Event()
    usual = answered()

    async def behave(path: str, writer: Writer) -> object:
        asked.append(path)
        await go.wait()
        return await usual(path, writer)

    server = await start(behave)
    pictures = reach(server)
    first = asyncio.create_task(one(pictures, server.url("/first")))
    await until(lambda: bool(asked))
    late = Call(request_id="r", deadline=time.monotonic() + 0.2)

    assert (await refusal(pictures, server.url("/second"), late)).startswith("deadline_exceeded:")
    assert len(asked) == 1
    go.set()
    assert await first == Ok(PICTURE)


# Servers that speak no HTTP, or half of it


def raw(data: bytes) -> Behave:
    async def behave(_: str, writer: Writer) -> None:
        writer.write(data)

    return behave


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"220 smtp ready\r\n",
        b"\x00" * 100,
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\ncontent-length: 100\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"a" * 300_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"x-%d: a\r\n" % n for n in range(50_000)) + b"\r\n",
    ],
    ids=["nothing", "smtp", "zeros", "half", "short", "negative", "two lengths", "chunks", "long header", "headers"],
)
async def test_what_is_no_http_fails_alone(data: bytes, start: Start, reach: Open) -> None:
    bad, good = await start(raw(data)), await start(answered())
    pictures = reach(bad, f"http://pictures.test:{bad.port}", f"http://pictures.test:{good.port}")

    failed, fine = await pictures.fetch([bad.url(), good.url()], call=CALL)

    assert isinstance(failed, Failed)
    assert failed.error.code == "invalid_input"
    assert fine == Ok(PICTURE)


async def test_nobody_at_the_port_may_pass(start: Start, reach: Open) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        server = Server(closed.getsockname()[1])

        assert "dependency_unavailable: cannot connect" in await refusal(reach(server), server.url())


async def test_the_log_names_the_request_and_never_the_query(start: Start, reach: Open) -> None:
    server = await start(answered(b"", status="404 Not Found"))

    with structlog.testing.capture_logs() as lines:
        await one(reach(server), server.url("/path?signature=abc"))

    assert {line["request_id"] for line in lines if line["event"] == "picture_not_fetched"} == {"r"}
    assert "signature" not in str(lines)


async def test_a_defect_of_ours_fails_its_item_alone(start: Start, reach: Open) -> None:
    server = await start(answered())

    async def broken(host: str, port: int) -> Sequence[str]:
        raise RuntimeError("a bug")

    assert (await refusal(reach(server, resolve=broken), server.url())).startswith("internal")
