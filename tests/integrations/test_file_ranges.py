"""Files over HTTP: whole, a range, "not modified", and nothing that an uploader can make of a header."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

import earnorm
from earnorm import String, models
from earnorm.fields import File
from earnorm.integrations.fastapi import crud_router, install, lifespan

CONTENT = bytes(range(256)) * 2_000  # 512,000 bytes: two chunks of GridFS and a part


class Scan(models.BaseModel):
    _name = "ranges.scan"
    title = String(required=True)
    page = File(max_size=600_000)
    seal = File(content_types=["image/*"])


@pytest.fixture(scope="module", params=["mongodb", "memory"])
def client(request: pytest.FixtureRequest) -> Iterator[TestClient]:
    import os
    import uuid

    uri = os.environ["EARNORM_TEST_MONGO_URI"] if request.param == "mongodb" else "mongomock://"
    source = {"mongo_uri": uri, "database": f"web_{uuid.uuid4().hex[:12]}", "plugins": []}
    api = FastAPI(lifespan=lifespan(source))
    install(api)
    api.include_router(
        crud_router(Scan, read=["title", "page"], write=["title"], files=["page", "seal"]),
        prefix="/scans",
    )

    @api.post("/drop")
    async def drop() -> None:
        app = earnorm.current_app()
        if request.param == "mongodb":
            await app.dangerous_raw("end").client.drop_database(app.settings.database)

    with TestClient(api) as found:
        yield found
        found.post("/drop")


@pytest.fixture(scope="module")
def path(client: TestClient) -> str:
    place = client.post("/scans", json={"title": "A"}).headers["location"]
    stored = client.put(
        f"{place}/page",
        params={"filename": 'r"é\r\nx: y.bin'},
        content=CONTENT,
        headers={"content-type": "image/png"},
    )
    assert stored.status_code == 200
    assert stored.json()["page"]["length"] == len(CONTENT)
    return f"{place}/page"


def test_the_whole_file_is_sent_with_what_a_client_needs_to_keep_it(
    client: TestClient, path: str
) -> None:
    answer = client.get(path)
    assert answer.status_code == 200 and answer.content == CONTENT
    headers = answer.headers
    assert headers["content-length"] == str(len(CONTENT))
    assert headers["content-type"] == "image/png"
    assert headers["accept-ranges"] == "bytes"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "private, no-cache"
    assert headers["content-disposition"] == (
        "attachment; filename=\"r____x_ y.bin\"; filename*=UTF-8''r%22%C3%A9%0D%0Ax%3A%20y.bin"
    )
    assert "x" not in headers
    head = client.head(path)
    assert head.content == b"" and head.headers["content-length"] == str(len(CONTENT))
    assert head.status_code == 200 and "content-range" not in head.headers


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-99", 0, 100),
        ("bytes=261119-261121", 261_119, 261_122),  # over the border of two chunks
        ("bytes=511999-", 511_999, 512_000),
        ("bytes=-1", 511_999, 512_000),
        ("bytes=-99999999999", 0, 512_000),
        ("bytes=500000-99999999999", 500_000, 512_000),
        ("BYTES=1-2", 1, 3),
    ],
)
def test_a_range_is_sent(client: TestClient, path: str, asked: str, start: int, stop: int) -> None:
    answer = client.get(path, headers={"range": asked})
    assert answer.status_code == 206
    assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/512000"
    assert answer.headers["content-length"] == str(stop - start)
    assert answer.content == CONTENT[start:stop]


@pytest.mark.parametrize("asked", ["bytes=512000-", "bytes=999999-1000000", "bytes=-0"])
def test_a_range_that_is_not_there_is_told(client: TestClient, path: str, asked: str) -> None:
    answer = client.get(path, headers={"range": asked})
    assert answer.status_code == 416
    assert answer.headers["content-range"] == "bytes */512000" and answer.content == b""


@pytest.mark.parametrize(
    "asked",
    ["bytes=5-1", "bytes=-", "lines=1-2", "bytes=0-1,5-9", "bytes=a-b", "bytes=" + "9" * 50],
)
def test_what_is_no_single_range_gets_the_whole_file(
    client: TestClient, path: str, asked: str
) -> None:
    answer = client.get(path, headers={"range": asked})
    assert answer.status_code == 200 and len(answer.content) == len(CONTENT)


def test_a_client_that_has_the_file_is_told_so(client: TestClient, path: str) -> None:
    first = client.get(path)
    etag, changed = first.headers["etag"], first.headers["last-modified"]
    for headers in (
        {"if-none-match": etag},
        {"if-none-match": f'"x", W/{etag}'},
        {"if-none-match": "*"},
        {"if-modified-since": changed},
    ):
        answer = client.get(path, headers=headers)
        assert (
            answer.status_code == 304 and answer.content == b"" and answer.headers["etag"] == etag
        )
    for headers in (
        {"if-none-match": '"x"'},
        {"if-none-match": '"x"', "if-modified-since": changed},
        {"if-modified-since": "Mon, 01 Jan 2001 00:00:00 GMT"},
        {"if-modified-since": "yesterday"},
    ):
        assert client.get(path, headers=headers).status_code == 200
    part = {"range": "bytes=0-9"}
    for condition, status in ((etag, 206), (changed, 206), ('"x"', 200), (f"W/{etag}", 200)):
        assert client.get(path, headers={**part, "if-range": condition}).status_code == status


def test_a_missing_file_is_missing(client: TestClient) -> None:
    place = client.post("/scans", json={"title": "B"}).headers["location"]
    assert client.get(f"{place}/page").status_code == 404
    assert client.delete(f"{place}/page").status_code == 204
    assert client.put(f"{place}/page", content=b"").status_code == 200
    empty = client.get(f"{place}/page")
    assert empty.status_code == 200 and empty.content == b""
    assert client.get(f"{place}/page", headers={"range": "bytes=0-"}).status_code == 416
    assert client.delete(f"{place}/page").status_code == 204
    assert client.get(f"{place}/page").status_code == 404


def test_what_a_file_may_not_be_is_refused(client: TestClient, path: str) -> None:
    refused: list[Any] = [
        client.put(path, content=bytes(600_001)),
        client.put(path, content=b"x", params={"filename": "x" * 300}),
        client.put(
            path.replace("page", "seal"), content=b"x", headers={"content-type": "text/html"}
        ),
    ]
    for answer in refused:
        assert answer.status_code == 422, answer.text
        assert len(answer.json()["errors"]) == 1
    assert client.get(path).content == CONTENT


@pytest.mark.parametrize("kind", ["text/html\x01", "é", "x", 'text/plain; a="\x7f"', "a" * 300])
def test_a_content_type_that_is_none_is_not_sent(client: TestClient, kind: str) -> None:
    place = client.post("/scans", json={"title": "C"}).headers["location"]
    headers = {"content-type": kind.encode("latin-1")}
    if client.put(f"{place}/page", content=b"x", headers=headers).status_code == 200:
        answer = client.get(f"{place}/page")
        assert answer.headers["content-type"] == "application/octet-stream"
