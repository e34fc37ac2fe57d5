"""Single pictures: what is told of one, its file, its thumbnail."""

from __future__ import annotations

import io
from pathlib import Path
from urllib.parse import unquote

import pytest
from PIL import Image
from serve_library import is_problem
from starlette.testclient import TestClient

from mmsearch.library import Library
from mmsearch.raw import FORMATS
from mmsearch.serve.items import MEDIA_TYPES, disposition, media_type


def test_a_picture_tells_what_its_hit_tells(client: TestClient, ids: dict[str, int]) -> None:
    known = ids["crimson-line.png"]
    hits = client.get("/v1/search?q=x&k=100").json()["hits"]
    hit = next(hit for hit in hits if hit["id"] == known)
    del hit["score"], hit["relevance"], hit["similar"]
    picture = client.get(f"/v1/images/{known}").json()
    assert sorted(picture.pop("captions")) == sorted(hit.pop("captions"))
    assert picture == hit


@pytest.mark.parametrize(
    ("name", "kind"), [("crimson-line.png", "image/png"), ("scan.tiff", "image/tiff")]
)
def test_the_file_comes_as_it_is(
    client: TestClient, library: Library, ids: dict[str, int], name: str, kind: str
) -> None:
    response = client.get(f"/v1/images/{ids[name]}/file")
    assert response.content == library.read_image(ids[name])
    assert response.headers["content-type"] == kind
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in response.headers["content-security-policy"]
    assert response.headers["content-disposition"].startswith(f'inline; filename="{name}"')


def test_the_type_is_that_of_the_bytes_not_of_the_name(
    client: TestClient, ids: dict[str, int]
) -> None:
    odd = next(name for name in ids if name.startswith("räk"))
    response = client.get(f"/v1/images/{ids[odd]}/file")
    assert response.headers["content-type"] == "image/jpeg"
    plain, full = response.headers["content-disposition"].split("; ")[1:]
    assert plain == 'filename="r_ksm_rg_s _1__ x_y.jpg"'
    assert unquote(full.removeprefix("filename*=UTF-8''")) == odd


@pytest.mark.parametrize(
    ("said", "sent"),
    [
        ("JPEG", "image/jpeg"),
        ("jpeg", "image/jpeg"),
        ("HEIF", "image/heif"),
        ("AVIF", "image/avif"),
        ("DNG", "image/x-adobe-dng"),
        ("NEF", "image/x-nikon-nef"),
        *[(kind, MEDIA_TYPES[kind]) for kind in sorted(FORMATS)],
        ("SVG", "application/octet-stream"),
        ("HTML", "application/octet-stream"),
        ("", "application/octet-stream"),
    ],
)
def test_media_types(said: str, sent: str) -> None:
    assert media_type(said) == sent


@pytest.mark.parametrize("name", ['a"b.png', "a\r\nSet-Cookie: x.png", "../../x", "\u202egnp.exe"])
def test_a_hostile_name_stays_inside_its_header(name: str) -> None:
    header = disposition(name)
    header.encode("latin-1")
    assert "\r" not in header
    assert "\n" not in header
    assert header.count('"') == 2
    assert unquote(header.split("UTF-8''")[1]) == name


def test_a_file_that_is_away(client: TestClient, ids: dict[str, int]) -> None:
    for what in ("file", "thumbnail"):
        problem = is_problem(client.get(f"/v1/images/{ids['away.webp']}/{what}"), 410)
        assert problem["type"] == "urn:mmsearch:problem:file-gone"
        assert "mmsearch index" in problem["detail"]
    assert client.get(f"/v1/images/{ids['away.webp']}").json()["name"] == "away.webp"


@pytest.mark.parametrize("size", [1, 256, 257, 1024])
def test_a_thumbnail_is_upright_webp_without_tags(
    client: TestClient, ids: dict[str, int], size: int
) -> None:
    odd = next(id_ for name, id_ in ids.items() if name.startswith("räk"))
    response = client.get(f"/v1/images/{odd}/thumbnail?size={size}")
    assert response.headers["content-type"] == "image/webp"
    with Image.open(io.BytesIO(response.content)) as image:
        assert image.format == "WEBP"
        assert image.size == (80, 120)
        assert not image.getexif()


@pytest.mark.parametrize("size", ["0", "-5", "1025", "x"])
def test_a_thumbnail_of_no_size(client: TestClient, ids: dict[str, int], size: str) -> None:
    is_problem(client.get(f"/v1/images/{ids['scan.tiff']}/thumbnail?size={size}"), 422)


@pytest.mark.parametrize("what", ["file", "thumbnail"])
class TestCaching:
    def test_a_versioned_address_is_kept_for_ever(
        self, client: TestClient, ids: dict[str, int], what: str
    ) -> None:
        urls = client.get(f"/v1/images/{ids['scan.tiff']}").json()["urls"]
        response = client.get(urls[what])
        assert response.headers["cache-control"] == "private, max-age=31536000, immutable"

    @pytest.mark.parametrize("query", ["", "?v=old"])
    def test_any_other_is_asked_about_each_time(
        self, client: TestClient, ids: dict[str, int], what: str, query: str
    ) -> None:
        response = client.get(f"/v1/images/{ids['scan.tiff']}/{what}{query}")
        assert response.status_code == 200
        assert response.headers["cache-control"] == "private, no-cache"

    def test_what_is_unchanged_is_not_sent(
        self, client: TestClient, ids: dict[str, int], what: str
    ) -> None:
        url = f"/v1/images/{ids['scan.tiff']}/{what}"
        tag = client.get(url).headers["etag"]
        again = client.get(url, headers={"If-None-Match": f'"other", W/{tag}'})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == tag
        assert client.get(url, headers={"If-None-Match": '"other"'}).status_code == 200

    def test_head_is_get_without_the_body(
        self, client: TestClient, ids: dict[str, int], what: str
    ) -> None:
        url = f"/v1/images/{ids['scan.tiff']}/{what}"
        full, head = client.get(url), client.head(url)
        assert head.status_code == 200
        assert head.content == b""
        assert head.headers["content-length"] == str(len(full.content))


def test_only_ids_lead_to_files(client: TestClient, library_folder: Path) -> None:
    for path in ("../catalog.db", "%2e%2e%2fcatalog.db", f"{library_folder}/catalog.db"):
        response = client.get(f"/v1/images/{path}/file")
        assert response.status_code in (404, 422)
        assert b"SQLite" not in response.content
