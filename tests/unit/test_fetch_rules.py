"""Which URLs are read and how, whom an allow-list admits, and which addresses may be connected to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmora.domain.addresses import may_connect, read_network
from modelmora.domain.links import MAX_CHARS, HostRule, Target, admitted, read_url
from modelmora.errors import InputError, LimitExceeded, ModelMoraError, ValidationFailed
from modelmora.settings import Settings, SettingsError

ADMITTED = (
    "images.example.org",
    "*.cdn.example.org",
    "example.org:8443",
    "http://minio:9000",
    "https://[2606:4700::1]",
)
RULES = tuple(map(HostRule.parse, ADMITTED))


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://example.org", Target(scheme="https", host="example.org", port=443, path="/")),
        ("HTTPS://Example.ORG/A.png", Target(scheme="https", host="example.org", port=443, path="/A.png")),
        ("https://example.org./a", Target(scheme="https", host="example.org", port=443, path="/a")),
        ("http://example.org:080/a", Target(scheme="http", host="example.org", port=80, path="/a")),
        ("https://example.org?a=b", Target(scheme="https", host="example.org", port=443, path="/?a=b")),
        ("https://example.org/a#?b@c", Target(scheme="https", host="example.org", port=443, path="/a")),
        ("https://example.org/a?b=c@d", Target(scheme="https", host="example.org", port=443, path="/a?b=c@d")),
        ("https://example.org/ä/%20", Target(scheme="https", host="example.org", port=443, path="/%C3%A4/%20")),
        ("https://xn--bcher-kva.example/", Target(scheme="https", host="xn--bcher-kva.example", port=443, path="/")),
        ("http://my_minio:9000/b/k", Target(scheme="http", host="my_minio", port=9000, path="/b/k")),
        ("https://[2606:4700:0:0::1]:8443/", Target(scheme="https", host="2606:4700::1", port=8443, path="/")),
        ("https://127.0.0.1#@images.example.org/", Target(scheme="https", host="127.0.0.1", port=443, path="/")),
        ("https://93.184.216.34/", Target(scheme="https", host="93.184.216.34", port=443, path="/")),
    ],
)
def test_a_url_is_read_into_its_parts(url: str, target: Target) -> None:
    assert read_url(url) == target


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.org/a.png",
        "//example.org/a.png",
        "ftp://example.org/a.png",
        "file:///etc/passwd",
        "gopher://example.org:6379/_FLUSHALL",
        "https:/example.org",
        "https://",
        "https:///a.png",
        "https://?a",
        "https://.",
        "https://a..b/",
        "https://.example.org/",
        "https://example.org../",
        "https://-a.example/",
        f"https://{'a' * 64}.example/",
        "https://" + ".".join(["a" * 60] * 5) + "/",
        "https://example.org:/",
        "https://example.org:0/",
        "https://example.org:65536/",
        "https://example.org:443:443/",
        "https://example.org:\uff14\uff14\uff13/",
        "https://user@example.org/",
        "https://user:password@example.org/",
        "https://images.example.org@127.0.0.1/",
        "https://images.example.org\\@127.0.0.1/",
        "https://127.0.0.1\\.images.example.org/",
        "https:\\\\images.example.org/",
        " https://example.org/",
        "https://example.org/a b",
        "https://example.org/a\r\nhost: elsewhere",
        "https://exa\tmple.org/",
        "https://example.org\x00.images.example.org/",
        "https://%31%32%37.0.0.1/",
        "https://images%2eexample.org/",
        "https://bücher.example/",
        "https://\uff45xample.org/",
        "https://example\u3002org/",
        "https://①②⑦.⓪.⓪.①/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0x7f.1/",
        "https://0x/",
        "https://017700000001/",
        "https://0177.0.0.1/",
        "https://127.1/",
        "https://127.0.1/",
        "https://127.0.0.1.1/",
        "https://127.0.0.01/",
        "https://256.0.0.1/",
        "https://1.2.3.4.5.example.0x10/",
        "https://[::1/",
        "https://::1/",
        "https://[::1]a/",
        "https://[fe80::1%25eth0]/",
        "https://[::ffff:127.0.0.1.1]/",
        "https://[127.0.0.1]/",
    ],
)
def test_what_readers_of_urls_differ_about_is_no_url(url: str) -> None:
    with pytest.raises(ValidationFailed) as caught:
        read_url(url)
    assert caught.value.field == "input"


def test_a_password_is_never_told_again() -> None:
    with pytest.raises(ValidationFailed) as caught:
        read_url("https://user:hunter2@example.org/")

    assert "hunter2" not in f"{caught.value.detail}{caught.value.found}{caught.value.expected}"


def test_an_endless_url_is_over_a_limit() -> None:
    with pytest.raises(LimitExceeded):
        read_url("https://example.org/" + "a" * MAX_CHARS)


@given(st.text(max_size=60).map("https://".__add__) | st.text(max_size=60))
def test_any_text_is_a_target_that_can_be_sent_or_an_error_of_ours(text: str) -> None:
    try:
        target = read_url(text)
    except InputError:
        return
    assert target.host.isascii()
    assert target.path.startswith("/")
    assert all("!" <= letter <= "~" for letter in target.path)


@pytest.mark.parametrize(
    "url",
    [
        "https://images.example.org/a.png",
        "https://IMAGES.example.org./a.png",
        "https://images.example.org:443/a.png",
        "https://eu.cdn.example.org/a.png",
        "https://a.b.cdn.example.org/a.png",
        "https://example.org:8443/",
        "http://minio:9000/bucket/key?X-Amz-Signature=abc",
        "https://[2606:4700:0::1]/",
    ],
)
def test_a_listed_host_is_admitted(url: str) -> None:
    assert admitted(url, RULES) == read_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://images.example.org/a.png",
        "https://images.example.org:8443/a.png",
        "https://example.org/",
        "https://images.example.org.attacker.test/",
        "https://notimages.example.org/",
        "https://cdn.example.org/",
        "https://evilcdn.example.org/",
        "https://minio:9000/",
        "http://minio/",
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://[2606:4700::2]/",
        "https://localhost/",
    ],
)
def test_any_other_host_scheme_or_port_is_not(url: str) -> None:
    with pytest.raises(ValidationFailed, match="not fetched from") as caught:
        admitted(url, RULES)

    assert "MODELMORA_FETCH_HOSTS" in (caught.value.expected or "")
    assert caught.value.found == read_url(url).origin


def test_without_rules_nobody_is_admitted() -> None:
    with pytest.raises(ValidationFailed):
        admitted("https://images.example.org/", ())


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("93.184.216.34", True),
        ("8.8.8.8", True),
        ("223.255.255.255", True),
        ("2606:4700:4700::1111", True),
        ("2a00:1450:4001:81b::200e", True),
        ("0.0.0.0", False),
        ("0.1.2.3", False),
        ("10.0.0.1", False),
        ("100.64.0.1", False),
        ("100.127.255.255", False),
        ("127.0.0.1", False),
        ("127.255.255.254", False),
        ("168.63.129.16", False),
        ("169.254.169.254", False),
        ("172.16.0.1", False),
        ("172.31.255.255", False),
        ("192.0.0.8", False),
        ("192.0.2.1", False),
        ("192.88.99.1", False),
        ("192.168.1.1", False),
        ("198.18.0.1", False),
        ("198.51.100.1", False),
        ("203.0.113.1", False),
        ("224.0.0.1", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("::127.0.0.1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:8.8.8.8", False),
        ("::ffff:0:127.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::808:808", False),
        ("64:ff9b:1::1", False),
        ("100::1", False),
        ("2001::1", False),
        ("2001:db8::1", False),
        ("2002:7f00:1::", False),
        ("3fff::1", False),
        ("5f00::1", False),
        ("fc00::1", False),
        ("fd00:ec2::254", False),
        ("fe80::1", False),
        ("fe80::1%eth0", False),
        ("2606:4700::1%1", False),
        ("fec0::1", False),
        ("ff02::1", False),
        ("no address", False),
        ("", False),
    ],
)
def test_only_public_addresses_may_be_connected_to(address: str, allowed: bool) -> None:
    assert may_connect(address) is allowed


@pytest.mark.parametrize(
    ("network", "address", "allowed"),
    [
        ("127.0.0.0/8", "127.0.0.1", True),
        ("127.0.0.0/8", "::ffff:127.0.0.1", False),
        ("127.0.0.0/8", "10.0.0.1", False),
        ("10.1.0.0/16", "10.1.2.3", True),
        ("10.1.0.0/16", "10.2.0.1", False),
        ("fd00::/8", "fd12::1", True),
        ("64:ff9b::/96", "64:ff9b::808:808", True),
        ("192.0.2.7", "192.0.2.7", True),
        ("0.0.0.0/0", "10.0.0.1", True),
        ("0.0.0.0/0", "0.0.0.0", False),
        ("0.0.0.0/0", "239.1.1.1", False),
        ("::/0", "::", False),
        ("::/0", "ff02::1", False),
        ("fe80::/10", "fe80::1%eth0", False),
    ],
)
def test_a_network_that_is_listed_is_open_as_well(network: str, address: str, allowed: bool) -> None:
    assert may_connect(address, [read_network(network)]) is allowed


def test_by_default_no_host_is_listed() -> None:
    fetch = Settings.load({}, env_file=None).fetch

    assert (fetch.hosts, fetch.networks, fetch.max_bytes, fetch.timeout_ms) == ((), (), 64 * 2**20, 10_000)


def test_hosts_and_networks_are_lists_with_commas() -> None:
    given = {
        "MODELMORA_FETCH_HOSTS": " images.example.org , *.example.org,http://minio:9000",
        "MODELMORA_FETCH_NETWORKS": "10.0.0.0/8,fd00::/8",
        "MODELMORA_FETCH_MAX_BYTES": "1MiB",
        "MODELMORA_FETCH_TIMEOUT_MS": "500",
    }
    fetch = Settings.load(given, env_file=None).fetch

    assert fetch.hosts == ("images.example.org", "*.example.org", "http://minio:9000")
    assert fetch.networks == ("10.0.0.0/8", "fd00::/8")
    assert (fetch.max_bytes, fetch.timeout_ms) == (2**20, 500)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HOSTS", "*"),
        ("HOSTS", "*."),
        ("HOSTS", "a.*.example.org"),
        ("HOSTS", "https://example.org/path"),
        ("HOSTS", "ftp://example.org"),
        ("HOSTS", "://example.org"),
        ("HOSTS", "user@example.org"),
        ("HOSTS", "example.org:0"),
        ("HOSTS", "example.org,2130706433"),
        ("HOSTS", "*.0.0.1"),
        ("HOSTS", "*.[::1]"),
        ("HOSTS", "*.127.0.0.1"),
        ("HOSTS", "::1"),
        ("HOSTS", "bücher.example"),
        ("NETWORKS", "private"),
        ("NETWORKS", "10.0.0.1/8"),
        ("NETWORKS", "10.0.0.0/33"),
        ("MAX_BYTES", "0"),
        ("TIMEOUT_MS", "0"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_at_start(name: str, value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.load({f"MODELMORA_FETCH_{name}": value}, env_file=None)

    assert [fault.field for fault in caught.value.faults] == [f"MODELMORA_FETCH_{name}"]


@given(st.text(max_size=40))
def test_any_entry_is_a_rule_or_a_value_error(entry: str) -> None:
    try:
        rule = HostRule.parse(entry)
    except ModelMoraError:
        pytest.fail("a rule's own mistake is a ValueError")
    except ValueError:
        return
    assert rule.host.isascii()
    assert 1 <= rule.port <= 65535
