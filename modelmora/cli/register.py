"""`modelmora register`: a model that lies here becomes a version of a model that the server serves."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import click

from modelmora.cli.current import make_current, show_current
from modelmora.cli.moving import shown
from modelmora.cli.pairs import metrics, values
from modelmora.cli.screen import print_json, progress, size, waiting
from modelmora.cli.server import Server, json_option, talks_to_server
from modelmora.client import Retry, VersionInfo
from modelmora.client.registry_sync import RegisterOptions
from modelmora.domain.models import MODEL_TYPES, ModelType

PATIENT = Retry(retries=8)
"""Files that are on their way outlast a server that restarts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """What is registered, as what."""

    path: str
    name: str
    version: str
    current: bool


@click.command()
@click.argument("path")
@click.option("--name", required=True, help="The model's name; its entry is made if there is none.")
@click.option("--version", required=True, help="A semantic version, such as 1.4.0.")
@click.option("--type", "type_", type=click.Choice(MODEL_TYPES), help="What it is for.  [default: as its files tell]")
@click.option("--provider", help="Who runs it: open_clip, dinov2, classifier, sam, onnx, tensorflow.")
@click.option("--config", multiple=True, metavar="KEY=VALUE", help="What its provider is told; JSON or a text.")
@click.option("--set", "how", multiple=True, metavar="KEY=VALUE", help="group, device, precision, engine, pin, ...")
@click.option("--dataset", help="What it was trained on.")
@click.option("--dataset-sha256", help="The digest of that data.")
@click.option("--revision", help="Of the code that trained it.")
@click.option("--parent", metavar="NAME@VERSION", help="The version it was made from.")
@click.option("--param", multiple=True, metavar="KEY=VALUE", help="Of its training, such as lr=0.001.")
@click.option("--metric", multiple=True, metavar="NAME=NUMBER:DATASET", help="How well it does, as recall@1=0.97:coco.")
@click.option("--description", default="", help="Of the model, where its entry is made.")
@click.option("--tag", multiple=True, help="Of the model, where its entry is made; may be repeated.")
@click.option("--current", is_flag=True, help="NAME stands for it from then on: loaded, warmed, then switched.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until it is validated.")
@json_option
@talks_to_server
def register(server: Server, as_json: bool, **given: Any) -> None:
    """Bring the model at PATH to the server as a version of a model.

    PATH is a folder as open_clip, transformers or TensorFlow store a model or with an ONNX file, an .onnx file,
    MLflow's model directory, or bentoml:NAME:TAG from the BentoML model store. Nothing in it is run here. Files that
    the server has are not sent again: a run that was cut off goes on where it was.
    """
    named = Named(path=given["path"], name=given["name"], version=given["version"], current=given["current"])
    if named.current and not given["wait"]:
        raise click.UsageError("--current waits until the version is validated: leave --no-wait out")
    found = asyncio.run(_register(server, named, _options(given), as_json))
    if as_json:
        print_json(found)
    else:
        click.echo(_told(found))
    if named.current:
        with waiting(f"make {found.key} current", quiet=as_json):
            model = asyncio.run(make_current(server, named.name, named.version))
        show_current(model, as_json)


def _options(given: Mapping[str, Any]) -> RegisterOptions:
    training = {
        "dataset": given["dataset"],
        "dataset_sha256": given["dataset_sha256"],
        "revision": given["revision"],
        "parent": given["parent"],
        "parameters": values("--param", given["param"]),
    }
    return RegisterOptions(
        type=cast("ModelType | None", given["type_"]),
        provider=given["provider"],
        config=values("--config", given["config"]),
        running=values("--set", given["how"]),
        training={name: value for name, value in training.items() if value},
        metrics=metrics("--metric", given["metric"]),
        description=given["description"],
        tags=given["tag"],
        wait=given["wait"],
    )


async def _register(server: Server, named: Named, options: RegisterOptions, quiet: bool) -> VersionInfo:
    if server.timeout is not None:
        options["timeout"] = server.timeout
    with progress(f"register {named.name}@{named.version}", total=None, quiet=quiet, in_bytes=True) as bar:
        options["on_progress"] = shown(bar, quiet=quiet)
        async with server.client(retry=PATIENT) as client:
            return await client.register(named.path, name=named.name, version=named.version, **options)


def _told(found: VersionInfo) -> str:
    held = size(found.artifact.bytes) if found.artifact else "-"
    lone = found.baseline.get("p50_ms")
    speed = [f"{lone:.1f} ms an item"] if isinstance(lone, int | float) else []
    return "  ".join([found.key, found.state, found.type, str(found.running.get("provider")), held, *speed])
