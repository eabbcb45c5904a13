"""The service from the outside: what it answers, what it refuses, and how it behaves when many ask at once."""

from __future__ import annotations

import http.client
import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="needs the extra 'web'")
pytest.importorskip("uvicorn", reason="needs the extra 'web'")

import uvicorn
from fastapi.testclient import TestClient
from pydantic import TypeAdapter

from showtell.bundle import read_bundle
from showtell.captioner import Captioner
from showtell.errors import BackendError, ConfigError
from showtell.images import ImageLimits
from showtell.records import Caption
from showtell.regions import RegionCaptioner
from showtell.search import PictureIndex, find_like, find_sentence
from showtell.web import app as web
from showtell.web import require_web_stack, schemas
from showtell.web.app import create_app
from showtell.web.guard import loopback_names
from showtell.web.protocol import HurriedProtocol
from showtell.web.service import Catalogue, Service, ServiceLimits

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
CAT = EXAMPLES / "cat.jpg"
PICTURES = sorted(EXAMPLES.glob("*.jpg"))


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    return Captioner.load("default", threads=1)


@pytest.fixture(scope="module")
def client(captioner: Captioner) -> Iterator[TestClient]:
    with TestClient(create_app(Service(captioner, bundle=read_bundle("default"), threads=1))) as client:
        yield client


@contextmanager
def a_client(captioner: Any, limits: ServiceLimits | None = None, **how: Any) -> Iterator[TestClient]:
    with TestClient(create_app(Service(captioner, limits=limits, threads=1), **how)) as client:
        yield client


def upload(*paths: Path) -> list[tuple[str, tuple[str, bytes]]]:
    return [("files", (path.name, path.read_bytes())) for path in paths]


def check_problem(response: Any, status: int, kind: str | None, sentence: str) -> dict[str, Any]:
    """The problem, after its form was compared with RFC 9457."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert problem["status"] == status
    assert problem["type"] == ("about:blank" if kind is None else f"urn:problem-type:showtell:{kind}")
    assert problem["title"]
    assert re.search(sentence, problem["detail"]), problem["detail"]
    return problem


# captions


def test_captions_are_those_of_the_library(client: TestClient, captioner: Captioner) -> None:
    response = client.post("/v1/captions?top=3&beam=4&length_penalty=0.5", files=upload(*PICTURES))
    assert response.status_code == 200
    TypeAdapter(schemas.Captions).validate_python(response.json())
    results = response.json()["results"]
    wanted = captioner.caption([str(path) for path in PICTURES], captioner.options(beam=4, top=3, length_penalty=0.5))
    for path, told, one in zip(PICTURES, results, wanted, strict=True):
        assert isinstance(one, Caption)
        plain = one.to_json()
        assert told["image"] == path.name
        assert told["caption"] == plain["caption"]
        assert told["logprob"] == pytest.approx(plain["logprob"], abs=2e-4)
        assert told.get("confidence") == pytest.approx(plain.get("confidence"), abs=2e-3)
        assert [word["word"] for word in told["words"]] == list(one.words)
        assert told["probability"] == pytest.approx(np.exp(one.logprob), rel=1e-3)
        assert len(told["alternatives"]) == 2
        for alternative, other in zip(told["alternatives"], one.alternatives, strict=True):
            assert alternative["caption"] == other.text
            assert alternative["probability"] == pytest.approx(np.exp(other.logprob), rel=1e-3)
        assert "maps" not in told


def test_a_picture_says_the_same_in_any_company(client: TestClient) -> None:
    data = CAT.read_bytes()
    alone = client.post("/v1/captions", content=data, headers={"Content-Type": "image/jpeg"}).json()["results"][0]
    together = client.post("/v1/captions", files=upload(*PICTURES, *PICTURES, CAT)).json()["results"]
    for one in together:
        if one["image"] == "cat.jpg":
            assert one["caption"] == alone["caption"]
            assert one["logprob"] == pytest.approx(alone["logprob"], abs=2e-4)
    assert len({one["caption"] for one in together}) == len({path.name for path in PICTURES})


def test_maps_are_given_on_request(toy_run: Path, toy_data: Path) -> None:
    captioner = Captioner.load(toy_run / "bundle", threads=1)
    picture = next((toy_data / "images").glob("red_*.png"))
    with a_client(captioner) as client:
        told = client.post("/v1/captions?maps=true", files=upload(picture)).json()["results"][0]
        assert "maps" not in client.post("/v1/captions", files=upload(picture)).json()["results"][0]
    [wanted] = captioner.caption([str(picture)])
    assert isinstance(wanted, Caption)
    assert wanted.maps is not None
    assert np.allclose(told["maps"], wanted.maps, atol=1e-4)
    assert np.allclose(np.sum(told["maps"], axis=(1, 2)), 1, atol=1e-2)


def test_maps_say_what_they_cover_and_need_no_attention(tmp_path: Path) -> None:
    Image.new("RGB", (400, 200), "red").save(tmp_path / "wide.png")
    bundle = read_bundle("default")
    crop = replace(bundle.manifest.preprocessing, fit="crop", crop_fraction=1.0)
    for preprocessing, box in ((bundle.manifest.preprocessing, None), (crop, [0.25, 0, 0.75, 1])):
        manifest = replace(bundle.manifest, preprocessing=preprocessing)
        with a_client(Captioner(replace(bundle, manifest=manifest), threads=1)) as client:
            told = client.post("/v1/captions?maps=true", files=upload(tmp_path / "wide.png")).json()["results"][0]
        assert told["maps_box"] == box
        assert np.shape(told["maps"]) == (len(told["words"]), 7, 7)


def test_of_several_pictures_the_broken_ones_are_named(client: TestClient) -> None:
    files = [*upload(CAT), ("files", ("odd.txt", b"no picture")), ("files", ("../../x/empty.png", b""))]
    results = client.post("/v1/captions", files=files).json()["results"]
    assert [one["image"] for one in results] == ["cat.jpg", "odd.txt", "empty.png"]
    assert results[0]["caption"]
    assert "odd.txt cannot be read as a picture" in results[1]["error"]
    assert "empty.png is empty" in results[2]["error"]
    problem = check_problem(
        client.post("/v1/captions", files=files[1:]), 422, "picture-not-accepted", "odd.txt cannot be read"
    )
    assert len(problem["results"]) == 2


def test_hostile_files_are_typed_problems(client: TestClient, shared_data: Path) -> None:
    statuses = set()
    for path in sorted((shared_data / "hostile").rglob("*"))[::6]:
        if path.is_file():
            response = client.post("/v1/captions?beam=1", files=upload(path))
            statuses.add(response.status_code)
            if response.status_code != 200:
                check_problem(response, 422, "picture-not-accepted", r"^\S.*[a-z)]")
    assert statuses == {200, 422}


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("beam=0", r"query\.beam is not accepted"),
        ("beam=99", r"query\.beam is not accepted.*less than or equal to 10"),
        ("beam=many", r"query\.beam is not accepted"),
        ("top=11", r"query\.top is not accepted"),
        ("beam=2&top=3", "search option top is 3; it takes a whole number from 1 to 2"),
        ("length_penalty=nan", "length_penalty is not accepted"),
        ("length_penalty=1e9", "length_penalty is not accepted"),
    ],
)
def test_options_out_of_range_are_refused(client: TestClient, query: str, sentence: str) -> None:
    check_problem(client.post(f"/v1/captions?{query}", files=upload(CAT)), 422, "invalid-request", sentence)


def test_a_top_alone_widens_the_beam(client: TestClient) -> None:
    told = client.post("/v1/captions?top=5", files=upload(CAT)).json()["results"][0]
    assert len(told["alternatives"]) == 4


def test_bodies_that_are_no_pictures_are_refused(client: TestClient) -> None:
    url = "/v1/captions"
    check_problem(client.post(url), 415, "unsupported-media", "'' is not accepted; send files as")
    check_problem(client.post(url, json={"url": "http://example.org/x.jpg"}), 415, "unsupported-media", "json")
    form = {"Content-Type": "multipart/form-data; boundary=xyz"}
    check_problem(client.post(url, content=b"--xyz--\r\n", headers=form), 422, "invalid-request", "has no picture")
    check_problem(client.post(url, content=b"what is this", headers=form), 400, "bad-request", "no form")
    check_problem(client.post(url, headers={"Content-Type": "multipart/form-data"}), 400, "bad-request", "boundary")
    mixed = client.post(url, files=upload(CAT), data={"beam": "2"})
    check_problem(mixed, 422, "invalid-request", r"the field 'beam', which is no file.*\?beam=5")


def test_sizes_and_numbers_are_limited(captioner: Captioner) -> None:
    limits = ServiceLimits(body=100_000, files=2, pictures=ImageLimits(max_pixels=10_000), queue=4)
    noise = io.BytesIO()
    Image.new("RGB", (101, 100)).save(noise, "PNG")
    with a_client(captioner, limits) as client:
        large = client.post("/v1/captions", files=[("files", ("x.png", bytes(100_001)))])
        check_problem(large, 413, "too-large", "has more than 0.0954 MiB")
        counted = client.post("/v1/captions", content=iter([bytes(60_000)] * 2), headers={"Content-Type": "image/png"})
        check_problem(counted, 413, "too-large", "MiB")
        many = client.post("/v1/captions", files=[("files", ("x.png", b"x"))] * 3)
        check_problem(many, 413, "too-large", "more than 2 files")
        wide = client.post("/v1/captions", files=[("files", ("x.png", noise.getvalue()))])
        check_problem(wide, 422, "picture-not-accepted", r"x\.png is too large \(101 × 100\): at most 0\.01 million")
        assert "showtell_upload_bytes 0\n" in client.get("/metrics").text


def test_nothing_touches_the_disk(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a file was made")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr("tempfile._TemporaryFileWrapper", refuse, raising=False)
    large = io.BytesIO()
    noise = np.random.default_rng(1).integers(0, 255, (900, 900, 3), np.uint8)
    Image.fromarray(noise).save(large, "PNG")
    assert len(large.getvalue()) > 2**21  # above what is spooled by default
    assert client.post("/v1/captions", files=[("files", ("noise.png", large.getvalue()))]).status_code == 200


# regions


def test_regions_are_those_of_the_library(client: TestClient) -> None:
    response = client.post("/v1/regions?top=3", files=upload(CAT))
    TypeAdapter(schemas.Regions).validate_python(response.json())
    wanted = [one.to_json() for one in RegionCaptioner.load("default", threads=1).describe(CAT.read_bytes(), top=3)]
    assert [one["caption"] for one in response.json()["regions"]] == [one["caption"] for one in wanted]
    assert [one["box"] for one in response.json()["regions"]] == [one["box"] for one in wanted]
    own = client.post("/v1/regions?boxes=0,0,200,300&boxes=400,250,900,900", files=upload(CAT)).json()["regions"]
    assert [one["box"] for one in own] == [[0, 0, 200, 300], [400, 250, 451, 300]]


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("boxes=1,2,3", "the box '1,2,3' is not x0,y0,x1,y1"),
        ("boxes=/etc/passwd", "is not x0,y0,x1,y1"),
        ("boxes=900,900,950,950", "lies outside of the picture of 451 × 300 pixels and is refused"),
        ("boxes=nan,0,5,5", "no number"),
        ("top=0", r"query\.top"),
    ],
)
def test_boxes_that_a_picture_has_not_are_refused(client: TestClient, query: str, sentence: str) -> None:
    check_problem(client.post(f"/v1/regions?{query}", files=upload(CAT)), 422, "invalid-request", sentence)


def test_regions_are_of_one_readable_picture(client: TestClient) -> None:
    check_problem(client.post("/v1/regions", files=upload(CAT, CAT)), 422, "invalid-request", "has 2 pictures")
    broken = client.post("/v1/regions", files=[("files", ("x.jpg", b"x"))])
    check_problem(broken, 422, "picture-not-accepted", r"x\.jpg cannot be read")


# search


@pytest.fixture(scope="module")
def catalogue(aligned_run: Path, toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    from showtell.alignment import Aligner
    from showtell.indexing import index_pictures

    directory = tmp_path_factory.mktemp("index") / "toy.index"
    aligner = Aligner.load(aligned_run / "bundle", threads=1)
    index_pictures(toy_data / "images", directory, aligner, source=str(aligned_run / "bundle"))
    return Catalogue(PictureIndex(directory), aligner)


def test_a_search_finds_what_the_library_finds(captioner: Captioner, catalogue: Catalogue, toy_data: Path) -> None:
    with TestClient(create_app(Service(captioner, catalogue=catalogue, threads=1))) as client:
        said = client.post("/v1/search", json={"sentence": "a red square", "top": 4})
        TypeAdapter(schemas.Matches).validate_python(said.json())
        wanted = find_sentence(catalogue.index, catalogue.aligner, "a red square", top=4)
        assert [(one["path"], one["score"]) for one in said.json()["results"]] == [
            (match.path, pytest.approx(match.score, abs=1e-4)) for match in wanted
        ]
        example = next((toy_data / "images").glob("blue_*.png"))
        like = client.post("/v1/search?top=2", files=upload(example)).json()["results"]
        nearest = find_like(catalogue.index, catalogue.aligner, example, top=2)
        assert [one["path"] for one in like] == [match.path for match in nearest]

        small = client.get(f"{like[0]['thumbnail']}?size=32")
        assert (small.status_code, small.headers["content-type"]) == (200, "image/jpeg")
        with Image.open(io.BytesIO(small.content)) as shown:
            assert shown.size == (32, 32)
        for row in (-1, 24, 10**12):
            check_problem(client.get(f"/v1/pictures/{row}"), 404, "not-found", f"no picture {row}")
        for row in ("..%2f..%2fetc%2fpasswd", "etc"):
            assert client.get(f"/v1/pictures/{row}").status_code in (404, 422)
        check_problem(client.post("/v1/search", json={"sentence": "qwxz"}), 422, "invalid-request", "knows none of")
        check_problem(client.post("/v1/search", json={"sentence": ""}), 422, "invalid-request", "sentence")
        check_problem(client.post("/v1/search", json={"sentence": "a", "x": 1}), 422, "invalid-request", "x is not")
        check_problem(client.post("/v1/search", json={"sentence": "a " * 600}), 422, "invalid-request", "1,200 char")
        check_problem(client.post("/v1/search", json={"sentence": "a", "top": 0}), 422, "invalid-request", "top is 0")
        told = client.get("/v1/models").json()
        assert told["indexed"] == 24
        assert [model["tasks"] for model in told["models"]] == [["captions", "regions"], ["search"]]


def test_without_an_index_there_is_no_search(client: TestClient) -> None:
    check_problem(client.post("/v1/search", json={"sentence": "a dog"}), 404, "no-index", "showtell serve --index")
    check_problem(client.get("/v1/pictures/0"), 404, "no-index", "showtell serve --index")


# the rest of the doors


def test_what_runs_is_told(client: TestClient) -> None:
    models = client.get("/v1/models").json()
    TypeAdapter(schemas.Models).validate_python(models)
    assert models["models"][0]["name"]
    assert models["indexed"] is None
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready"}


def test_errors_of_http_are_problems_too(client: TestClient) -> None:
    check_problem(client.get("/nothing"), 404, None, "nothing at /nothing")
    response = client.get("/v1/captions")
    check_problem(response, 405, None, "GET is not accepted at /v1/captions; use POST")
    assert response.headers["allow"] == "POST"


def test_a_mistake_inside_is_a_problem_and_in_the_log(
    captioner: Captioner, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Service(captioner, threads=1)

    def fail(*_: Any) -> Any:
        raise RuntimeError("a secret of the inside")

    monkeypatch.setattr(service, "read_picture", fail)
    with TestClient(create_app(service), raise_server_exceptions=False) as client:
        problem = check_problem(client.post("/v1/captions", files=upload(CAT)), 500, "internal-error", "its log")
        assert "secret" not in json.dumps(problem)
        assert "secret" in caplog.text
        assert 'route="/v1/captions",status="500"} 1' in client.get("/metrics").text


def test_the_description_names_what_there_is(client: TestClient) -> None:
    described = client.get("/openapi.json").json()
    assert {"/v1/captions", "/v1/regions", "/v1/search", "/v1/models", "/healthz", "/readyz", "/metrics"} <= set(
        described["paths"]
    )
    captions = described["paths"]["/v1/captions"]["post"]
    assert "multipart/form-data" in captions["requestBody"]["content"]
    assert {one["name"] for one in captions["parameters"]} == {"beam", "top", "length_penalty", "maps"}
    assert "application/problem+json" in captions["responses"]["4XX"]["content"]
    assert client.get("/docs").status_code == client.get("/redoc").status_code == 404


def test_metrics_can_be_read_by_prometheus(client: TestClient) -> None:
    client.post("/v1/captions", files=upload(CAT))
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    samples = {}
    for line in response.text.splitlines():
        if not line.startswith("#"):
            found = re.fullmatch(r'([a-z_]+(?:\{(?:[a-z]+="[^"]*",?)*\})?) ([0-9.e+-]+)', line)
            assert found, line
            samples[found[1]] = float(found[2])
    count = samples['showtell_requests_total{method="POST",route="/v1/captions",status="200"}']
    assert count >= 1
    route = 'route="/v1/captions"'
    assert samples[f'showtell_request_seconds_bucket{{{route},le="+Inf"}}'] >= count
    buckets = [value for name, value in samples.items() if name.startswith("showtell_batch_size_bucket")]
    assert buckets == sorted(buckets)
    assert samples["showtell_batch_size_sum"] >= samples["showtell_batch_size_count"] > 0
    assert samples["showtell_queue_items"] == 0


def test_a_page_of_the_package_is_served(
    captioner: Captioner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, client: TestClient
) -> None:
    (tmp_path / "index.html").write_text("<p>hello</p>")
    (tmp_path / "app.js").write_text("'x'")
    monkeypatch.setattr(web, "STATIC", tmp_path)
    with a_client(captioner, key="k") as served:
        page = served.get("/")
        assert (page.status_code, page.text) == (200, "<p>hello</p>")
        assert "default-src 'self'" in page.headers["content-security-policy"]
        assert served.get("/static/app.js").text == "'x'"
        assert served.get("/static/../test_web.py").status_code in (401, 404)
        check_problem(served.get("/v1/captions", headers={"Authorization": "Bearer k"}), 405, None, "use POST")


# who may ask


def test_a_key_is_asked_for(captioner: Captioner) -> None:
    with a_client(captioner, key="s3cret") as client:
        for headers in ({}, {"Authorization": "Bearer s3cre"}, {"Authorization": "s3cret"}, {"Authorization": "é"}):
            encoded = {name: value.encode("latin-1") for name, value in headers.items()}
            refused = client.post("/v1/captions", files=upload(CAT), headers=encoded)
            check_problem(refused, 401, "key-needed", "Authorization: Bearer KEY")
            assert refused.headers["www-authenticate"].startswith("Bearer")
        assert client.get("/metrics").status_code == client.get("/v1/models").status_code == 401
        assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200
        good = {"Authorization": "Bearer s3cret"}
        assert client.post("/v1/captions", files=upload(CAT), headers=good).status_code == 200


def test_other_sites_and_other_names_are_refused(captioner: Captioner) -> None:
    with a_client(captioner, hosts=loopback_names("127.0.0.1")) as client:
        evil = client.get("/v1/models", headers={"Host": "evil.example:8000"})
        check_problem(evil, 421, "unknown-host", "use 127.0.0.1, ::1, localhost")
        for host in ("localhost:8000", "127.0.0.1", "[::1]:8000"):
            assert client.get("/v1/models", headers={"Host": host}).status_code == 200
        home = {"Host": "localhost:8000"}
        foreign = client.post("/v1/captions", files=upload(CAT), headers={**home, "Origin": "https://evil.example"})
        check_problem(foreign, 403, "foreign-origin", "may not use this service")
        own = client.get("/v1/models", headers={**home, "Origin": "http://localhost:8000"})
        assert own.status_code == 200
        assert not [name for name in own.headers if name.startswith("access-control")]
    assert loopback_names("0.0.0.0") is None
    assert loopback_names("localhost") == loopback_names("127.0.0.1") == loopback_names("::1")


# many at once: a real server, and a model that waits


class Slow:
    """A captioner that waits until it may go on."""

    def __init__(self, real: Captioner) -> None:
        self.real, self.manifest, self.options = real, real.manifest, real.options
        self.go, self.begun = threading.Event(), threading.Semaphore(0)
        self.sizes: list[int] = []

    def caption_pixels(self, group: Sequence[Any], options: Any, *, maps: bool = False) -> Iterator[Any]:
        self.sizes.append(len(group))
        self.begun.release()
        assert self.go.wait(30)
        return self.real.caption_pixels(list(group), options, maps=maps)


class Running:
    """A server on this machine."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        app = create_app(service, hosts=loopback_names("127.0.0.1"))
        self.server = uvicorn.Server(
            uvicorn.Config(
                app, http=HurriedProtocol, ws="none", loop="asyncio", log_level="error", timeout_graceful_shutdown=30
            )
        )
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]})
        self.thread.start()

    def ask(self, path: Path = CAT, query: str = "") -> tuple[int, dict[str, str], dict[str, Any]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("POST", f"/v1/captions{query}", path.read_bytes(), {"Content-Type": "image/jpeg"})
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), json.loads(response.read())
        finally:
            connection.close()

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(60)
        assert not self.thread.is_alive()


@pytest.fixture
def running(captioner: Captioner) -> Iterator[Callable[..., tuple[Running, Slow]]]:
    started: list[tuple[Running, Slow]] = []

    def start(**limits: Any) -> tuple[Running, Slow]:
        slow = Slow(captioner)
        service = Service(slow, limits=ServiceLimits(**limits), threads=1)  # type: ignore[arg-type]
        started.append((Running(service), slow))
        return started[-1]

    yield start
    for server, slow in started:
        slow.go.set()
        server.stop()


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_requests_share_batches_and_get_their_own_captions(
    running: Callable[..., tuple[Running, Slow]], captioner: Captioner
) -> None:
    server, slow = running()
    wanted = {path.name: one.text for path, one in zip(PICTURES, captioner.caption(PICTURES), strict=True)}  # type: ignore[union-attr]
    with ThreadPoolExecutor(13) as pool:
        first = pool.submit(server.ask)
        assert slow.begun.acquire(timeout=30)
        paths = PICTURES * 3
        asked = [pool.submit(server.ask, path) for path in paths]
        wait_until(lambda: server.service.batcher.taken == len(paths))
        slow.go.set()
        answers = [one.result(60) for one in asked]
        assert first.result(60)[2]["results"][0]["caption"] == wanted["cat.jpg"]
    assert [body["results"][0]["caption"] for _, _, body in answers] == [wanted[path.name] for path in paths]
    assert {status for status, _, _ in answers} == {200}
    assert sum(slow.sizes) == 13
    assert max(slow.sizes) > 4


def test_requests_with_other_options_are_not_mixed(running: Callable[..., tuple[Running, Slow]]) -> None:
    server, slow = running()
    with ThreadPoolExecutor(5) as pool:
        first = pool.submit(server.ask)
        assert slow.begun.acquire(timeout=30)
        asked = [pool.submit(server.ask, CAT, f"?beam={1 + number % 2}&top=1") for number in range(4)]
        wait_until(lambda: server.service.batcher.taken == 4 and len(server.service.batcher._queue) == 4)
        slow.go.set()
        assert {one.result(60)[0] for one in (first, *asked)} == {200}
    assert sorted(slow.sizes) == [1, 2, 2]


def test_a_full_queue_is_503_with_a_time_to_return(running: Callable[..., tuple[Running, Slow]]) -> None:
    server, slow = running(queue=3, files=2)
    with ThreadPoolExecutor(12) as pool:
        first = pool.submit(server.ask)
        assert slow.begun.acquire(timeout=30)
        asked = [pool.submit(server.ask) for _ in range(11)]
        wait_until(lambda: sum(one.done() for one in asked) == 8)
        slow.go.set()
        answers = [one.result(60) for one in (first, *asked)]
    assert sorted(status for status, _, _ in answers) == [200] * 4 + [503] * 8
    for status, headers, body in answers:
        if status == 503:
            assert int(headers["retry-after"]) >= 1
            assert headers["content-type"] == "application/problem+json"
            assert "the queue is full (3 of 3 places are taken)" in body["detail"]
    assert server.ask()[0] == 200


def test_a_client_that_leaves_takes_its_work_along(running: Callable[..., tuple[Running, Slow]]) -> None:
    server, slow = running()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(server.ask)
        assert slow.begun.acquire(timeout=30)
        data = CAT.read_bytes()
        head = (
            f"POST /v1/captions HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}"
        )
        leaving = socket.create_connection(("127.0.0.1", server.port))
        leaving.sendall(f"{head}\r\n\r\n".encode() + data)
        wait_until(lambda: len(server.service.batcher._queue) == 1)
        leaving.close()
        wait_until(lambda: server.service.batcher.taken == 0)
        slow.go.set()
        assert first.result(60)[0] == 200
    assert slow.sizes == [1]
    wait_until(lambda: 'status="499"} 1' in server.service.metrics.text({}))


def test_what_takes_too_long_is_given_up(running: Callable[..., tuple[Running, Slow]]) -> None:
    server, slow = running(seconds=0.5)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(server.ask)
        assert slow.begun.acquire(timeout=30)
        status, headers, body = server.ask()
        assert (status, body["type"]) == (503, "urn:problem-type:showtell:not-in-time")
        assert headers["retry-after"]
        assert server.service.batcher.taken == 0
        assert first.result(60)[0] == 503
    slow.go.set()
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as dawdling:
        head = "POST /v1/captions HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\nContent-Length: 9\r\n\r\n"
        dawdling.sendall(head.encode())
        assert dawdling.recv(4000).startswith(b"HTTP/1.1 408 ")


def test_a_shutdown_finishes_what_was_accepted(running: Callable[..., tuple[Running, Slow]]) -> None:
    server, slow = running()
    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(server.ask, path) for path in [CAT, *PICTURES]]
        assert slow.begun.acquire(timeout=30)
        wait_until(lambda: sum(slow.sizes) + server.service.batcher.taken == len(asked))
        server.server.should_exit = True
        wait_until(lambda: not server.server.servers or not server.server.servers[0].is_serving())
        with pytest.raises(OSError):
            server.ask()
        slow.go.set()
        answers = [one.result(60) for one in asked]
    assert [status for status, _, _ in answers] == [200] * len(asked)
    server.thread.join(60)
    assert not server.service.batcher.alive


def test_memory_held_by_uploads_is_bounded(running: Callable[..., tuple[Running, Slow]]) -> None:
    size = CAT.stat().st_size
    server, slow = running(body=2 * size, held=2 * size)
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(server.ask) for _ in range(2)]
        assert slow.begun.acquire(timeout=30)
        wait_until(lambda: sum(slow.sizes) + len(server.service.batcher._queue) == 2)
        status, headers, body = server.ask()
        assert (status, headers["retry-after"]) == (503, "1")
        assert "other uploads take all the memory" in body["detail"]
        slow.go.set()
        assert [one.result(60)[0] for one in asked] == [200, 200]
    assert server.ask()[0] == 200


# starting


def test_limits_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match="queue is 3; it must have room for the 16 files"):
        ServiceLimits(queue=3)
    with pytest.raises(ConfigError, match="held is 10"):
        ServiceLimits(held=10)
    with pytest.raises(ConfigError, match="files is 0"):
        ServiceLimits(files=0)
    with pytest.raises(ConfigError, match="seconds is 0"):
        ServiceLimits(seconds=0)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "fastapi" else object())
    with pytest.raises(
        BackendError, match=r"needs fastapi, which is not installed; run: pip install 'showtell\[web\]'"
    ):
        require_web_stack()


def test_an_empty_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from showtell.cli.serve import serve

    monkeypatch.setenv("SHOWTELL_API_KEY", " ")
    with pytest.raises(ConfigError, match="SHOWTELL_API_KEY is empty"):
        serve(port=0)


def test_a_service_without_its_bundle_describes_no_regions(captioner: Captioner) -> None:
    with a_client(captioner) as client:
        check_problem(client.post("/v1/regions", files=upload(CAT)), 501, "model-cannot", "describes no regions")


def test_the_command_serves_until_it_is_stopped() -> None:
    program = "from showtell.cli.serve import serve; serve(port=0, threads=1)"
    environment = {**os.environ, "SHOWTELL_API_KEY": "k"}
    with subprocess.Popen(
        [sys.executable, "-c", program], stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stderr is not None
        try:
            found = re.search(r"http://127\.0\.0\.1:(\d+) ", process.stderr.readline())
            assert found
            connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=30)
            connection.request("GET", "/v1/models")
            assert connection.getresponse().status == 401
            connection.close()
            taken = subprocess.run(
                [sys.executable, "-c", program.replace("port=0", f"port={found[1]}")], capture_output=True, text=True
            )
            assert "ConfigError: cannot listen at 127.0.0.1, port" in taken.stderr
        finally:
            process.terminate()
            rest = process.stderr.read()
    assert "Traceback" not in rest


def test_headers_must_come_in_time(
    running: Callable[..., tuple[Running, Slow]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HurriedProtocol, "patience", 0.5)
    server, slow = running()
    slow.go.set()
    silent, dripping = (socket.create_connection(("127.0.0.1", server.port), timeout=20) for _ in range(2))
    with silent, dripping:
        dripping.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-")
        assert silent.recv(1) == dripping.recv(1) == b""  # closed, and not by the time-out of the socket
    kept = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    for pause in (0.3, 0.3, 0.8, 0):  # between requests, a connection may rest longer
        kept.request("GET", "/healthz")
        assert kept.getresponse().read() == b'{"status":"ok"}'
        time.sleep(pause)
    slow.go.clear()
    kept.request("POST", "/v1/captions", CAT.read_bytes(), {"Content-Type": "image/jpeg"})
    time.sleep(0.8)  # an answer may take longer too
    slow.go.set()
    assert kept.getresponse().status == 200
    kept.close()


def test_a_report_is_shown_to_who_was_told_where(captioner: Captioner, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text("<h1>scores</h1>", "utf-8")
    service = Service(captioner, threads=1, report=page)
    with TestClient(create_app(service, key="secret")) as client:
        key = {"Authorization": "Bearer secret"}
        assert client.get("/v1/models").status_code == 401
        where = client.get("/v1/models", headers=key).json()["report"]
        shown = client.get(where)
        assert (shown.status_code, shown.text) == (200, "<h1>scores</h1>")
        assert shown.headers["content-security-policy"] == "sandbox allow-scripts; frame-ancestors 'self'"
        check_problem(client.get("/reports/guessed"), 404, "not-found", "there is no such report")
        assert where not in client.get("/metrics", headers=key).text  # what was asked for is counted, not told
        page.unlink()
        check_problem(client.get(where), 404, "not-found", r"report\.html is gone; write it again")
    with a_client(captioner) as client:
        assert client.get("/v1/models").json()["report"] is None
        check_problem(client.get("/reports/guessed"), 404, "not-found", "there is no such report")
