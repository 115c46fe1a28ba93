"""Zero-shot classification by a real server with the bundled model, through every face."""

from __future__ import annotations

import concurrent.futures
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from modelmora.proto import inference_pb2, inference_pb2_grpc, types_pb2
from tests.e2e.serving import ROOT, Server

PICTURES = sorted((ROOT / "docs" / "pictures").glob("*.jpg"))
PAGE = (ROOT / "docs" / "classification.md").read_text()
COLOURS = ("red", "green", "blue", "black")
SHOWN = {"circle": "red", "triangle": "green", "squares": "blue", "star": "black"}


def classify(server: Server, *pictures: Path | bytes, **fields: Any) -> httpx.Response:
    contents = [p if isinstance(p, bytes) else p.read_bytes() for p in pictures]
    files = [("files", ("p.jpg", content)) for content in contents]
    return httpx.post(f"{server.url}/v1/classify", files=files, data=fields, timeout=60.0)


def best(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [row["classes"][0]["label"] for row in answer.json()["data"]]


def test_each_sample_picture_gets_the_label_of_what_it_shows(shipped: Server) -> None:
    captions = [path.stem.replace("-", " ") for path in PICTURES]

    answer = classify(shipped, *PICTURES, labels=captions, templates="{}")

    assert best(answer) == captions
    assert (answer.json()["model"], answer.json()["version"]) == ("shapes-clip", "1.0.0")
    for row in answer.json()["data"]:
        scores = [each["score"] for each in row["classes"]]
        assert sum(scores) == pytest.approx(1.0)
        assert scores == sorted(scores, reverse=True)
        assert scores[0] > 0.9


def test_labels_of_one_word_tell_colours_apart(shipped: Server) -> None:
    shapes = [next(shape for shape in SHOWN if shape.rstrip("s") in path.stem) for path in PICTURES]

    answer = classify(shipped, *PICTURES, labels=json.dumps(COLOURS), templates=["a {} circle", "a {} square"], top_k=1)

    assert best(answer) == [SHOWN[shape] for shape in shapes]


def test_the_documented_curl_answers_what_is_documented(shipped: Server) -> None:
    command, answer = re.findall(r"^```(?:sh|json)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)[:2]
    here = command.replace("http://127.0.0.1:3000", shipped.url)

    done = subprocess.run(["sh", "-c", here], capture_output=True, check=True, cwd=ROOT)

    assert here != command
    (told,), (documented,) = json.loads(done.stdout)["data"], json.loads(answer)["data"]
    assert [each["label"] for each in told["classes"]] == [each["label"] for each in documented["classes"]]
    for ours, theirs in zip(told["classes"], documented["classes"], strict=True):
        assert ours["score"] == pytest.approx(theirs["score"], rel=1e-2, abs=1e-12)


def test_one_picture_may_be_the_whole_body(shipped: Server) -> None:
    query: dict[str, list[str] | int] = {"labels": ["red circle", "blue square"], "top_k": 1}

    answer = httpx.post(
        f"{shipped.url}/v1/classify",
        params=query,
        content=PICTURES[1].read_bytes(),
        headers={"content-type": "image/jpeg"},
    )

    assert best(answer) == ["red circle"]
    assert "inference;dur=" in answer.headers["server-timing"]


def test_grpc_gives_the_same_classes(shipped: Server) -> None:
    labels = ["red circle", "green triangle", "black star"]
    over_http = classify(shipped, PICTURES[1], PICTURES[2], labels=labels).json()["data"]
    with grpc.insecure_channel(f"127.0.0.1:{shipped.grpc_port}") as channel:
        stub: Any = inference_pb2_grpc.ModelInferenceStub(channel)
        items = [types_pb2.Item(id=path.stem, image=path.read_bytes()) for path in PICTURES[1:3]]
        answer = stub.Classify(inference_pb2.ClassifyRequest(items=items, labels=labels), timeout=60)

    assert [result.id for result in answer.results] == [path.stem for path in PICTURES[1:3]]
    for result, row in zip(answer.results, over_http, strict=True):
        assert [(c.index, c.label) for c in result.classes.classes] == [
            (c["index"], c["label"]) for c in row["classes"]
        ]
        assert [c.score for c in result.classes.classes] == pytest.approx([c["score"] for c in row["classes"]])


def test_a_torn_picture_fails_alone_and_one_alone_with_its_status(shipped: Server) -> None:
    torn = PICTURES[0].read_bytes()[:200]

    beside = classify(shipped, PICTURES[1], torn, labels=["red circle", "blue square"])
    alone = classify(shipped, torn, labels=["red circle", "blue square"])

    assert beside.status_code == 200
    rows = beside.json()["data"]
    assert rows[0]["classes"][0]["label"] == "red circle"
    assert rows[1]["error"]["code"] == "invalid_input"
    assert (alone.status_code, alone.json()["code"]) == (400, "invalid_input")


def test_without_labels_the_server_says_how_to_ask(shipped: Server) -> None:
    unnamed, named = classify(shipped, PICTURES[0]), classify(shipped, PICTURES[0], model="shapes-clip")

    assert unnamed.status_code == 404
    assert "give `labels` of your own" in unnamed.json()["detail"]
    assert (named.status_code, named.json()["code"]) == (422, "capability_missing")
    assert "name some in `labels`" in named.json()["detail"]


def test_a_label_over_the_context_length_is_refused_or_cut(shipped: Server) -> None:
    labels = ["red circle", "a very " + "long " * 100 + "label"]

    refused = classify(shipped, PICTURES[1], labels=labels)
    cut = classify(shipped, PICTURES[1], labels=labels, truncate="true")

    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "labels[1]")
    assert "tokens" in refused.json()["errors"][0]["found"]
    assert best(cut) == ["red circle"]


def test_many_callers_with_many_labels_each_get_their_own(shipped: Server) -> None:
    """Two sets of 200 labels asked for by 16 callers at once: more texts than the queues hold at a time."""

    def ask(number: int) -> str:
        others = [f"thing {number % 2} {index}" for index in range(199)]
        picture, label = (PICTURES[1], "red circle") if number % 4 < 2 else (PICTURES[2], "small green triangle")
        answer = classify(shipped, picture, labels=[*others, label], templates=["{}", "a {}"], top_k=1)
        return "right" if best(answer) == [label] else answer.text

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert set(pool.map(ask, range(16))) == {"right"}
