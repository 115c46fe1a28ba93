"""The official `openai` client against a real server: texts and pictures, shorter vectors, pictures by URL."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from numpy.typing import NDArray
from openai.types import CreateEmbeddingResponse

from tests import examples
from tests.e2e.serving import ROOT, Server, serve

PICTURES = ROOT / "docs" / "pictures"
NAMES = ("red-circle.jpg", "two-blue-squares.jpg")
IN_FLIGHT = 32
REGISTRY = """
version: 1
models:
  - {name: shapes, version: 1.0.0, type: embedding, provider: open_clip, source: "bundled:shapes-clip", default: true}
  - {name: short, version: 1.0.0, type: embedding, provider: open_clip, source: "bundled:shapes-clip",
     config: {shortens: 16}, warmup: false}
"""


class Site(SimpleHTTPRequestHandler):
    """The sample pictures, a page, and ways elsewhere; `asked` are the paths of all requests."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path.startswith("/moved"):
            self.send_response(302)
            self.send_header("location", f"/{NAMES[0]}")
            self.end_headers()
        else:
            super().do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the server's own log is what counts."""


@pytest.fixture(scope="module")
def asked() -> list[str]:
    """The paths that the site was asked for."""
    return []


@pytest.fixture(scope="module")
def site(asked: list[str]) -> Iterator[str]:
    handler = type("Handler", (Site,), {"asked": asked})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(PICTURES))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://localhost:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def fetching(site: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that may ask the site, although that is on this machine."""
    env = {"MODELMORA_FETCH_HOSTS": site, "MODELMORA_FETCH_NETWORKS": "127.0.0.0/8,::1/128"}
    env["MODELMORA_API_MAX_IN_FLIGHT"] = str(IN_FLIGHT)
    server = serve(tmp_path_factory.mktemp("fetching"), registry=REGISTRY, env=env)
    try:
        server.wait_ready()
        yield server
    finally:
        server.stop()


def client_of(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0)


@pytest.fixture
def client(fetching: Server) -> Iterator[openai.OpenAI]:
    with client_of(fetching) as client:
        yield client


def data_uri(name: str) -> str:
    return "data:image/jpeg;base64," + base64.b64encode((PICTURES / name).read_bytes()).decode()


def vectors(answer: CreateEmbeddingResponse) -> NDArray[np.float64]:
    return np.array([row.embedding for row in answer.data])


def test_several_texts_and_pictures_in_one_request_each_in_its_place(client: openai.OpenAI) -> None:
    given: list[Any] = [
        "two blue squares",
        data_uri(NAMES[0]),
        {"type": "text", "text": "a red circle"},
        {"type": "image_url", "image_url": {"url": data_uri(NAMES[1])}},
    ]
    answer = client.embeddings.create(model="shapes", input=given)

    assert (answer.object, answer.model) == ("list", "shapes")
    assert [(row.index, row.object) for row in answer.data] == [(n, "embedding") for n in range(4)]
    likeness = vectors(answer) @ vectors(answer).T
    assert likeness[0, 3] > likeness[0, 1]
    assert likeness[2, 1] > likeness[2, 3]


def test_the_usage_counts_the_tokens_of_the_texts_and_nothing_for_pictures(client: openai.OpenAI) -> None:
    text = client.embeddings.create(model="shapes", input="a red circle").usage
    picture = client.embeddings.create(model="shapes", input=data_uri(NAMES[0])).usage
    both = client.embeddings.create(model="shapes", input=["a red circle", data_uri(NAMES[0]), "a red circle"]).usage

    assert text.prompt_tokens == text.total_tokens == 5
    assert picture.prompt_tokens == picture.total_tokens == 0
    assert both.prompt_tokens == both.total_tokens == 10


def test_floats_and_the_clients_own_base64_are_the_same_numbers(client: openai.OpenAI) -> None:
    usual = client.embeddings.create(model="shapes", input="a red circle")
    floats = client.embeddings.create(model="shapes", input="a red circle", encoding_format="float")

    np.testing.assert_allclose(vectors(usual), vectors(floats), atol=1e-7)


def test_vectors_are_cut_where_the_model_allows_it(client: openai.OpenAI) -> None:
    given = ["a red circle", data_uri(NAMES[0])]
    whole = vectors(client.embeddings.create(model="short", input=given))
    own = whole.shape[1]

    for dimensions in (16, 17, own - 1, own):
        cut = vectors(client.embeddings.create(model="short", input=given, dimensions=dimensions))
        first = whole[:, :dimensions]
        np.testing.assert_allclose(cut, first / np.linalg.norm(first, axis=1, keepdims=True), atol=1e-5)


@pytest.mark.parametrize("model", ["short", "shapes"])
def test_dimensions_that_a_model_does_not_have_are_refused_with_those_it_has(model: str, client: openai.OpenAI) -> None:
    own = vectors(client.embeddings.create(model=model, input="x")).shape[1]

    for dimensions in (15, own + 1):
        with pytest.raises(openai.UnprocessableEntityError) as caught:
            client.embeddings.create(model=model, input="x", dimensions=dimensions)
        assert caught.value.param == "dimensions"
        assert str(own) in str(caught.value.response.json()["errors"][0]["expected"])
    assert vectors(client.embeddings.create(model=model, input="x", dimensions=own)).shape == (1, own)


def test_pictures_by_url_are_those_that_lie_there(client: openai.OpenAI, site: str) -> None:
    urls = [f"{site}/{name}" for name in NAMES]
    inline = vectors(client.embeddings.create(model="shapes", input=[data_uri(name) for name in NAMES]))

    by_modality = client.embeddings.create(model="shapes", input=urls, extra_body={"modality": "image"})
    by_object = client.embeddings.create(model="shapes", input=[{"image": url} for url in urls])  # type: ignore[arg-type]

    np.testing.assert_allclose(vectors(by_modality), inline, atol=1e-6)
    np.testing.assert_allclose(vectors(by_object), inline, atol=1e-6)


def test_a_url_that_gives_no_picture_fails_in_its_place(
    client: openai.OpenAI, site: str, asked: list[str], fetching: Server
) -> None:
    urls = [f"{site}/{NAMES[0]}", f"{site}/moved", f"{site}/none.jpg", f"{site}/"]
    body = {"model": "shapes", "modality": "image", "input": urls}
    with pytest.raises(
        openai.UnprocessableEntityError, match=r"3 of 4 inputs failed; the first: .* redirect"
    ) as caught:
        client.embeddings.create(model="shapes", input=urls, extra_body={"modality": "image"})
    partial = httpx.post(f"{fetching.url}/v1/embeddings", json={**body, "partial": True}).json()

    assert [fault["index"] for fault in caught.value.response.json()["errors"]] == [1, 2, 3]
    assert ["embedding" in row for row in partial["data"]] == [True, False, False, False]
    assert asked.count("/moved") == 2


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/red-circle.jpg",
        "http://[::1]:{port}/red-circle.jpg",
        "http://2130706433:{port}/red-circle.jpg",
        "http://0x7f.1:{port}/red-circle.jpg",
        "http://localhost:{port}@example.org/red-circle.jpg",
        "http://localhost.example.org:{port}/red-circle.jpg",
        "https://localhost:{port}/red-circle.jpg",
        "http://localhost/red-circle.jpg",
        "http://169.254.169.254/latest/meta-data/",
        "file:///etc/passwd",
    ],
)
def test_any_other_place_is_never_asked(url: str, client: openai.OpenAI, site: str, asked: list[str]) -> None:
    before, url = len(asked), url.format(port=site.rpartition(":")[2])

    with pytest.raises(openai.UnprocessableEntityError):
        client.embeddings.create(model="shapes", input=url, extra_body={"modality": "image"})
    assert len(asked) == before


def test_a_server_with_more_work_than_it_takes_asks_nobody_for_pictures(
    client: openai.OpenAI, site: str, asked: list[str]
) -> None:
    before, urls = len(asked), [f"{site}/{NAMES[0]}?{number}" for number in range(IN_FLIGHT + 1)]

    with pytest.raises(openai.InternalServerError) as caught:
        client.embeddings.create(model="shapes", input=urls, extra_body={"modality": "image"})

    assert (caught.value.status_code, caught.value.code, len(asked)) == (503, "overloaded", before)
    taken = client.embeddings.create(model="shapes", input=urls[:IN_FLIGHT], extra_body={"modality": "image"})
    assert (len(taken.data), len(asked)) == (IN_FLIGHT, before + IN_FLIGHT)


def test_as_shipped_no_url_is_fetched(shipped: Server, site: str, asked: list[str]) -> None:
    before = len(asked)
    with (
        client_of(shipped) as client,
        pytest.raises(openai.UnprocessableEntityError, match="MODELMORA_FETCH_HOSTS"),
    ):
        client.embeddings.create(model="shapes-clip", input=f"{site}/{NAMES[0]}", extra_body={"modality": "image"})
    assert len(asked) == before


def test_the_examples_of_the_page_run_as_they_stand(shipped: Server, capsys: pytest.CaptureFixture[str]) -> None:
    code = "\n".join(example.code for example in examples.runnable("docs/openai.md"))
    here = code.replace("http://127.0.0.1:3000", shipped.url).replace("docs/pictures", str(PICTURES))
    names: dict[str, Any] = {}

    exec(here, names)

    assert capsys.readouterr().out == "2 10\n"
    assert len(names["answer"].data) == 1
    names["client"].close()


def test_what_the_client_sends_besides_is_passed_over(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="shapes", input="a red circle", user="u-1", extra_body={"more": [1]})

    assert len(answer.data) == 1


async def test_the_asynchronous_client_gets_the_same(fetching: Server) -> None:
    async with openai.AsyncOpenAI(base_url=f"{fetching.url}/v1", api_key="unused") as client:
        answer = await client.embeddings.create(model="shapes", input=["a red circle", data_uri(NAMES[0])])

    assert [row.index for row in answer.data] == [0, 1]
