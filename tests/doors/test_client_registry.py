"""The client's half of the registry over REST: registering, and what is told of what is registered."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import pytest

from modelmora.client import (
    AuditVerdict,
    Client,
    Conflict,
    DependencyUnavailable,
    FieldDifference,
    Metric,
    ModelNotFound,
    PreconditionFailed,
    Retry,
    SyncClient,
    Transfer,
    WrongState,
)
from modelmora.domain.registry.lineage import Node
from modelmora.errors import (
    DeadlineExceeded,
    InternalError,
    InvalidInput,
    Overloaded,
    ValidationFailed,
    VersionNotFound,
)
from tests.doors.client_registry_app import AT, Cut, Registrar, registry_server

GRAPH, WEIGHTS = b"a graph of ONNX", b"w" * 3_000_000


@pytest.fixture
def registrar() -> Registrar:
    return Registrar()


@pytest.fixture
async def client(registrar: Registrar) -> AsyncIterator[Client]:
    with registry_server(registrar) as url:
        async with Client(url, retry=Retry(initial_s=0.001, max_s=0.01), timeout=10) as client:
            yield client


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An ONNX model, as far as anybody can tell without reading the graph; two of its files have the same content."""
    path = tmp_path / "model"
    (path / "parts").mkdir(parents=True)
    (path / "model.onnx").write_bytes(GRAPH)
    (path / "parts" / "a.data").write_bytes(WEIGHTS)
    (path / "parts" / "b.data").write_bytes(WEIGHTS)
    return path


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def test_a_folder_becomes_a_version_with_all_that_is_told_of_it(
    client: Client, registrar: Registrar, folder: Path
) -> None:
    found = await client.register(
        folder,
        name="iris",
        version="1.0.0",
        config={"file": "model.onnx"},
        running={"precision": "fp32", "batching": {"max_batch": 4}},
        training={"dataset": "iris", "parameters": {"lr": 0.1}},
        metrics=[Metric(name="accuracy", value=0.97, dataset="iris-test")],
        description="flowers",
        tags=["small"],
    )
    assert (found.key, found.state, found.type, found.running["provider"]) == (
        "iris@1.0.0",
        "approved",
        "tensor",
        "onnx",
    )
    assert found.artifact is not None
    assert [file.path for file in found.artifact.files] == ["model.onnx", "parts/a.data", "parts/b.data"]
    assert registrar.objects == {sha256(GRAPH): GRAPH, sha256(WEIGHTS): WEIGHTS}
    model, version = registrar.bodies
    assert model == {"name": "iris", "type": "tensor", "description": "flowers", "tags": ["small"]}
    assert {name: value for name, value in version.items() if name != "files"} == {
        "version": "1.0.0",
        "provider": "onnx",
        "config": {"file": "model.onnx"},
        "precision": "fp32",
        "batching": {"max_batch": 4},
        "training": {"dataset": "iris", "parameters": {"lr": 0.1}},
        "baseline": {"metrics": [{"name": "accuracy", "value": 0.97, "dataset": "iris-test"}]},
    }


async def test_it_tells_how_far_it_is(client: Client, folder: Path) -> None:
    (folder / ".git").mkdir()
    steps: list[Transfer] = []
    await client.register(folder, name="iris", version="1.0.0", on_progress=steps.append)
    assert steps[0] == Transfer(stage="left_out", file=".git")
    assert list(dict.fromkeys(step.stage for step in steps)) == [
        "left_out", "hashing", "uploading", "registering", "validating"
    ]  # fmt: skip
    for stage, whole in (("hashing", len(GRAPH) + 2 * len(WEIGHTS)), ("uploading", len(GRAPH) + len(WEIGHTS))):
        done = [step.done_bytes for step in steps if step.stage == stage]
        assert done == sorted(done)
        assert done[-1] == whole == next(step.total_bytes for step in steps if step.stage == stage)


async def test_what_the_server_has_is_not_sent_again(client: Client, registrar: Registrar, folder: Path) -> None:
    registrar.objects[sha256(WEIGHTS)] = WEIGHTS
    await client.register(folder, name="iris", version="1.0.0")
    assert registrar.sent("PUT") == [f"/api/v1/artifacts/{sha256(GRAPH)}"]

    registrar.requests.clear()
    again = await client.register(folder, name="iris", version="1.0.0")
    assert again.key == "iris@1.0.0"
    assert {method for method, _ in registrar.requests} == {"GET"}


async def test_a_number_that_is_taken_is_refused_before_anything_is_sent(
    client: Client, registrar: Registrar, folder: Path
) -> None:
    registrar.add_version("iris", "1.0.0", {"model.onnx": b"another"})
    with pytest.raises(Conflict, match=r"iris@1\.0\.0 is registered with other files; .*take another number"):
        await client.register(folder, name="iris", version="1.0.0")
    assert {method for method, _ in registrar.requests} == {"GET"}


async def test_other_settings_under_the_same_number_are_not_taken_for_the_same(client: Client, folder: Path) -> None:
    await client.register(folder, name="iris", version="1.0.0")
    with pytest.raises(Conflict, match="with another config"):
        await client.register(folder, name="iris", version="1.0.0", config={"file": "model.onnx"})


async def test_a_model_of_another_type_is_refused_before_anything_is_sent(
    client: Client, registrar: Registrar, folder: Path
) -> None:
    registrar.add_version("birds", "1.0.0", {"x": b"x"}, type="classification")
    with pytest.raises(ValidationFailed, match=r"birds is a model of the type classification, and model\.onnx tells"):
        await client.register(folder, name="birds", version="2.0.0")
    assert not registrar.sent("PUT")


@pytest.mark.parametrize(
    ("name", "version"), [("Iris", "1.0.0"), ("iris", "1"), ("iris", ""), ("iris@1.0.0", "1.0.0"), ("../x", "1.0.0")]
)
async def test_what_is_no_name_or_version_is_refused_before_a_file_is_read(
    name: str, version: str, client: Client, registrar: Registrar, tmp_path: Path
) -> None:
    with pytest.raises(ValidationFailed, match=r"not a name|names a version"):
        await client.register(tmp_path / "absent", name=name, version=version)
    assert not registrar.requests


async def test_what_says_nothing_of_how_it_is_run_is_refused(client: Client, folder: Path) -> None:
    with pytest.raises(ValidationFailed, match="presicion does not say") as refused:
        await client.register(folder, name="iris", version="1.0.0", running={"presicion": "bf16"})
    assert refused.value.field == "running.presicion"


@pytest.mark.parametrize("trouble", [Cut, Overloaded("full"), Conflict("was being removed as it came", field="sha256")])
async def test_an_upload_that_breaks_begins_again(
    trouble: object, client: Client, registrar: Registrar, folder: Path
) -> None:
    registrar.troubles["PUT /api/v1/artifacts/"] = deque([trouble, trouble])  # type: ignore[list-item] # both are
    await client.register(folder, name="iris", version="1.0.0")
    assert registrar.objects == {sha256(GRAPH): GRAPH, sha256(WEIGHTS): WEIGHTS}
    assert len(registrar.sent("PUT")) == 4


@pytest.mark.parametrize("value", [float("nan"), "\ud800", {1, 2}, b"x"])
async def test_what_json_cannot_say_is_refused_before_anything_is_sent(
    value: object, client: Client, registrar: Registrar, folder: Path
) -> None:
    with pytest.raises(ValidationFailed, match="cannot be sent as JSON"):
        await client.register(folder, name="iris", version="1.0.0", config={"value": value})
    assert not registrar.requests


async def test_a_moment_and_a_tuple_are_json_too(client: Client, registrar: Registrar, folder: Path) -> None:
    at = datetime(2026, 5, 4, tzinfo=UTC)
    for _ in range(2):  # the second time it is found to be the same
        await client.register(
            folder, name="iris", version="1.0.0", config={"range": (0, 1)}, training={"trained_at": at}
        )
    assert registrar.bodies[1]["training"] == {"trained_at": "2026-05-04T00:00:00+00:00"}


async def test_an_upload_that_is_refused_leaves_no_model_and_no_version(
    client: Client, registrar: Registrar, folder: Path
) -> None:
    registrar.troubles["PUT /api/v1/artifacts/"] = deque([ValidationFailed("the store takes no more", field="body")])
    with pytest.raises(ValidationFailed, match="takes no more"):
        await client.register(folder, name="iris", version="1.0.0")
    assert not registrar.models
    assert not registrar.versions


async def test_a_store_that_stays_away_ends_it_in_time(registrar: Registrar, folder: Path) -> None:
    registrar.troubles["PUT /api/v1/artifacts/"] = deque([DependencyUnavailable("the store is away")] * 1000)
    with registry_server(registrar) as url:
        async with Client(url, retry=Retry(initial_s=0.001, retries=3)) as client:
            with pytest.raises(DependencyUnavailable, match="the store is away"):
                await client.register(folder, name="iris", version="1.0.0")
    assert not registrar.versions


async def test_a_registration_whose_answer_is_lost_is_made_once(
    client: Client, registrar: Registrar, folder: Path
) -> None:
    registrar.swallowed = deque(["POST /api/v1/models/iris/versions"])
    await client.register(folder, name="iris", version="1.0.0")
    keys = [headers["idempotency-key"] for headers in registrar.headers if "idempotency-key" in headers]
    model, *version = keys
    assert len(version) == 2
    assert len(set(version)) == 1
    assert model not in version
    assert len(registrar.versions) == 1


async def test_whoever_asks_while_the_first_try_is_still_at_it_waits(
    client: Client, registrar: Registrar, folder: Path
) -> None:
    busy = Conflict("a request with this key is still being answered", field="idempotency-key")
    registrar.troubles["POST /api/v1/models/iris/versions"] = deque([busy, busy])
    assert (await client.register(folder, name="iris", version="1.0.0")).state == "approved"


async def test_a_number_that_was_given_once_is_told_at_once(client: Client, registrar: Registrar, folder: Path) -> None:
    gone = Conflict("iris@1.0.0 was removed and is not given again", field="version")
    registrar.troubles["POST /api/v1/models/iris/versions"] = deque([gone] * 9)
    with pytest.raises(Conflict, match="is not given again"):
        await client.register(folder, name="iris", version="1.0.0")
    assert len(registrar.sent("POST")) == 2  # the model, and one try of the version


async def test_files_that_were_removed_since_they_were_looked_for_are_brought_again(
    client: Client, registrar: Registrar, folder: Path
) -> None:
    registrar.objects[sha256(WEIGHTS)] = WEIGHTS

    def collect(step: Transfer) -> None:
        if step.stage == "registering" and not registrar.sent("POST"):
            del registrar.objects[sha256(WEIGHTS)]

    await client.register(folder, name="iris", version="1.0.0", on_progress=collect)
    assert registrar.sent("PUT") == [f"/api/v1/artifacts/{sha256(one)}" for one in (GRAPH, WEIGHTS)]
    assert len(registrar.versions) == 1


async def test_a_model_that_somebody_else_makes_meanwhile_is_fine(
    client: Client, registrar: Registrar, folder: Path
) -> None:
    def made(step: Transfer) -> None:
        if step.stage == "registering" and "iris" not in registrar.models:
            registrar.add_version("iris", "0.9.0", {"x": b"x"})

    assert (await client.register(folder, name="iris", version="1.0.0", on_progress=made)).key == "iris@1.0.0"


async def test_a_file_that_changes_while_it_is_registered_ends_it(
    client: Client, registrar: Registrar, folder: Path
) -> None:
    def change(step: Transfer) -> None:
        if step.stage == "hashing" and step.done_bytes == step.total_bytes:
            (folder / "model.onnx").write_bytes(b"another graph!!")

    with pytest.raises(ValidationFailed, match=r"model\.onnx was changed while it was registered"):
        await client.register(folder, name="iris", version="1.0.0", on_progress=change)
    assert not registrar.versions


async def test_a_version_that_does_not_pass_raises_why(client: Client, registrar: Registrar, folder: Path) -> None:
    registrar.failure = "model.onnx is no ONNX graph"
    with pytest.raises(ValidationFailed, match=r"iris@1\.0\.0 is registered and did not pass: model\.onnx is no ONNX"):
        await client.register(folder, name="iris", version="1.0.0")
    assert (await client.model_version("iris", "1.0.0")).failure == "model.onnx is no ONNX graph"


async def test_nobody_need_wait_for_the_validation(client: Client, registrar: Registrar, folder: Path) -> None:
    registrar.polls = 10**6
    assert (await client.register(folder, name="iris", version="1.0.0", wait=False)).state == "registered"
    with pytest.raises(DeadlineExceeded, match="still being validated"):
        await client.register(folder, name="iris", version="1.0.0", timeout=0.2)


async def test_a_server_that_restarts_while_it_validates_is_waited_for(
    client: Client, registrar: Registrar, folder: Path
) -> None:
    registrar.polls = 3
    registrar.troubles["GET /api/v1/models/iris/versions/1.0.0"] = deque([VersionNotFound("none"), Cut, Cut])
    assert (await client.register(folder, name="iris", version="1.0.0")).state == "approved"


async def test_whoever_leaves_in_the_middle_leaves_nothing_running(
    client: Client, registrar: Registrar, folder: Path
) -> None:
    uploading = asyncio.Event()

    def note(step: Transfer) -> None:
        if step.stage == "uploading":
            uploading.set()

    before = asyncio.all_tasks()
    work = asyncio.create_task(client.register(folder, name="iris", version="1.0.0", on_progress=note))
    await uploading.wait()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert asyncio.all_tasks() == before
    assert not registrar.versions
    assert (await client.register(folder, name="iris", version="1.0.0")).state == "approved"


async def test_what_would_execute_never_leaves_this_machine(client: Client, registrar: Registrar, folder: Path) -> None:
    (folder / "extra.pkl").write_bytes(b"cposix\nsystem\n(S'true'\ntR.")
    with pytest.raises(ValidationFailed, match="would execute code"):
        await client.register(folder, name="iris", version="1.0.0")
    assert not registrar.requests


async def test_versions_are_listed_over_all_pages(client: Client, registrar: Registrar) -> None:
    for number in range(5):
        registrar.add_version("iris", f"1.{number}.0", {"model.onnx": b"%d" % number})
    registrar.versions["iris@1.2.0"]["state"] = "archived"
    found = await client.versions("iris")
    assert [one.version for one in found] == [f"1.{number}.0" for number in range(5)]
    assert found[0].created_at is not None
    assert found[0].created_at.isoformat() == AT.replace("Z", "+00:00")
    assert [one.version for one in await client.versions("iris", state="archived")] == ["1.2.0"]


async def test_a_model_without_a_version_yet_is_a_model(client: Client, registrar: Registrar, folder: Path) -> None:
    await client.register(folder, name="iris", version="1.0.0")
    model = await client.model("iris")
    assert (model.key, model.version, model.current, model.row) == ("iris", "", None, 1)


async def test_a_version_is_made_current_and_let_go(client: Client, registrar: Registrar) -> None:
    registrar.add_version("iris", "1.0.0+a", {"model.onnx": b"x"})
    model = await client.make_current("iris", "1.0.0+a", row=1)
    assert (model.current, model.key, model.state) == ("1.0.0+a", "iris@1.0.0+a", "loaded")
    with pytest.raises(WrongState, match="allowed: undeploy"):
        await client.move("iris", "1.0.0+a", "archive")
    with pytest.raises(PreconditionFailed):
        await client.remove_version("iris", "1.0.0+a", row=7)
    assert registrar.headers[-1]["if-match"] == '"7"'
    await client.remove_version("iris", "1.0.0+a", row=1)
    await client.remove_model("iris")
    with pytest.raises(ModelNotFound):
        await client.model_version("iris", "1.0.0")


async def test_a_change_that_may_have_been_made_is_not_made_again(client: Client, registrar: Registrar) -> None:
    registrar.add_version("iris", "1.0.0", {"model.onnx": b"x"})
    registrar.swallowed = deque(["DELETE"])
    with pytest.raises(DependencyUnavailable):
        await client.remove_version("iris", "1.0.0")
    assert registrar.sent("DELETE") == ["/api/v1/models/iris/versions/1.0.0"]


async def test_who_has_no_row_in_mind_waits_for_whoever_changes_it_at_the_same_moment(
    client: Client, registrar: Registrar
) -> None:
    registrar.add_version("iris", "1.0.0", {"model.onnx": b"x"})
    registrar.troubles["PUT /api/v1/models/iris/current"] = deque([PreconditionFailed("changed meanwhile")] * 3)
    assert (await client.make_current("iris", "1.0.0")).current == "1.0.0"
    registrar.troubles["PATCH"] = deque([PreconditionFailed("changed meanwhile")] * 99)
    with pytest.raises(PreconditionFailed):
        await client.add_metrics("iris", "1.0.0", [Metric(name="a", value=1.0, dataset="d")], row=1)
    assert len(registrar.sent("PATCH")) == 1


async def test_results_are_added(client: Client, registrar: Registrar) -> None:
    registrar.add_version("iris", "1.0.0", {"model.onnx": b"x"})
    found = await client.add_metrics("iris", "1.0.0", [Metric(name="recall@1", value=0.5, dataset="coco")], row=1)
    assert found.baseline["metrics"] == [{"name": "recall@1", "value": 0.5, "dataset": "coco"}]
    assert found.row == 2


async def test_validating_is_told_step_by_step(client: Client, registrar: Registrar) -> None:
    registrar.add_version("iris", "1.0.0", {"model.onnx": b"x"})
    assert [step["stage"] async for step in client.validate("iris", "1.0.0")] == ["loading", "report"]


async def test_lineage_and_differences_are_told(client: Client, registrar: Registrar) -> None:
    registrar.add_version("iris", "2.0.0", {"model.onnx": b"x"})
    one, two, data = ({"kind": kind, "name": name} for kind, name in LINEAGE)
    registrar.lineage = {
        "node": two, "ancestors": [one], "descendants": [], "datasets": [data],
        "edges": [{"child": two, "parent": one}, {"child": one, "parent": data}],
    }  # fmt: skip
    found = await client.lineage("iris", "2.0.0")
    assert (found.node, found.ancestors, found.datasets) == (TWO, (ONE,), (DATA,))
    assert found.edges == ((TWO, ONE), (ONE, DATA))

    changed = FieldDifference(field="running.precision", kind="changed", before="fp32", after="bf16")
    registrar.differences = [asdict(changed)]
    assert await client.diff("iris", "2.0.0", "3.0.0+b") == [changed]
    assert registrar.requests[-1] == ("GET", "/api/v1/models/iris/versions/2.0.0/diff/3.0.0+b")


ONE, TWO, DATA = Node("version", "iris@1.0.0"), Node("version", "iris@2.0.0"), Node("dataset", "flowers")
LINEAGE = [(node.kind, node.name) for node in (ONE, TWO, DATA)]


def entry(seq: int, subject: str = "iris") -> dict[str, object]:
    change = {"actor": "anonymous", "action": "model.amend", "subject": subject, "request_id": f"r-{seq}"}
    return {"seq": seq, "at": AT, **change, "reason": "", "before": None, "after": {"row": seq}, "digest": "0" * 64}


async def test_the_audit_is_read_over_all_pages_either_way(client: Client, registrar: Registrar) -> None:
    registrar.audit = [entry(seq, "iris" if seq % 2 else "birds") for seq in range(1, 8)]
    assert [one.seq async for one in client.audit()] == [1, 2, 3, 4, 5, 6, 7]
    assert [one.seq async for one in client.audit(subject="iris", newest_first=True)] == [7, 5, 3, 1]
    assert await client.audit_verify() == AuditVerdict(intact=True, entries=7)
    registrar.broken = {"seq": 3, "why": "changed"}
    assert await client.audit_verify() == AuditVerdict(intact=False, entries=7, broken_at=3, why="changed")


async def test_what_nothing_refers_to_is_removed(client: Client, registrar: Registrar) -> None:
    registrar.objects["a" * 64] = b"12345"
    found = await client.collect(older_than_s=0.0)
    assert (found.removed, found.bytes, registrar.bodies) == (1, 5, [{"older_than_s": 0.0}])


@pytest.mark.parametrize("missing", ["id", "type", "model"])
async def test_a_version_without_what_makes_it_one_is_the_servers_defect(
    missing: str, client: Client, registrar: Registrar
) -> None:
    registrar.add_version("iris", "1.0.0", {"model.onnx": b"x"})
    del registrar.versions["iris@1.0.0"][missing]
    with pytest.raises(InternalError, match=f"a version of another shape than promised.*{missing}"):
        await client.model_version("iris", "1.0.0")


async def test_no_folder_is_told_as_such(client: Client, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=f"cannot read {tmp_path / 'absent'}: No such file"):
        await client.register(tmp_path / "absent", name="iris", version="1.0.0")


def test_the_sync_client_has_the_same_registry(registrar: Registrar, folder: Path, tmp_path: Path) -> None:
    registrar.audit = [entry(1)]
    with registry_server(registrar) as url, SyncClient(url) as client:
        steps: list[Transfer] = []
        assert client.register(folder, name="iris", version="1.0.0", on_progress=steps.append).state == "approved"
        assert steps
        assert [one.version for one in client.versions("iris")] == ["1.0.0"]
        assert client.model_version("iris", "1.0.0").state == "approved"
        assert client.make_current("iris", "1.0.0").current == "1.0.0"
        assert [step["stage"] for step in client.validate("iris", "1.0.0")] == ["loading", "report"]
        assert client.download("iris", "1.0.0", tmp_path / "out").key == "iris@1.0.0"
        assert client.diff("iris", "1.0.0", "1.0.0") == []
        assert client.add_metrics("iris", "1.0.0", [Metric(name="a", value=1.0, dataset="d")]).row == 2
        assert [one.seq for one in client.audit()] == [1]
        assert client.audit_verify().intact
        assert client.collect().removed == 0
        assert client.move("iris", "1.0.0", "undeploy").row == 3
        client.remove_version("iris", "1.0.0")
        client.remove_model("iris")
    assert (tmp_path / "out" / "model.onnx").read_bytes() == GRAPH
