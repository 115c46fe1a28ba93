"""Which server a command talks to: the options every such command has."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from modelmora.client import Client, Retry
from modelmora.client.address import DEFAULT_URL
from modelmora.client.sync import ClientOptions

QUICK = Retry(retries=3)
"""For a person who waits: a server that is not there is told within a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """The options as given; `timeout` in seconds, None: the client's own default of the call."""

    url: str
    control_url: str | None
    timeout: float | None = None

    def client(self, *, retry: Retry = QUICK) -> Client:
        options = ClientOptions(
            control_url=self.control_url, retry=retry, token=os.environ.get("MODELMORA_TOKEN") or None
        )
        if self.timeout is not None:
            options["timeout"] = self.timeout
        return Client(self.url, **options)


def talks_to_server(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --url, --control-url and --timeout; the command gets them as its argument `server`.

    The token comes from MODELMORA_TOKEN only: a command line is seen by every user of a machine.
    """

    @click.option(
        "--url", envvar="MODELMORA_URL", default=DEFAULT_URL, show_default=True, show_envvar=True,
        help="Where the server is: grpc[s]:// or http[s]://.",
    )  # fmt: skip
    @click.option(
        "--control-url", envvar="MODELMORA_CONTROL_URL", show_envvar=True,
        help="Where the control plane is.  [default: the same host, HTTP port 3000]",
    )  # fmt: skip
    @click.option("--timeout", type=click.FloatRange(min=0, min_open=True), help="Seconds for each call.")
    @functools.wraps(command)
    def wrapper(*, url: str, control_url: str | None, timeout: float | None, **rest: Any) -> Any:
        return command(server=Server(url=url, control_url=control_url or None, timeout=timeout), **rest)

    return wrapper


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON to the standard output, nothing else.")
