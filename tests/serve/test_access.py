"""Who is let in: keys, scopes, the browser's session, wrong keys, too many requests."""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterator
from http.cookies import SimpleCookie
from pathlib import Path

import pytest
from serve_library import BASE_URL, is_problem
from starlette.datastructures import Headers
from starlette.testclient import TestClient

from mmsearch.errors import RefusedError
from mmsearch.library import Library
from mmsearch.serve import create_app
from mmsearch.serve.access import Caller, Gate, check_binding
from mmsearch.serve.guard import MAX_JSON_BYTES
from mmsearch.serve.keys import Keys
from mmsearch.serve.rates import Buckets, client_of
from mmsearch.settings import Settings


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "keys.json")


@pytest.fixture
def guarded(library: Library, settings: Settings, keys: Keys) -> Iterator[TestClient]:
    """The service, on loopback, with a file of keys of its own, empty as yet."""
    app = create_app(
        library, settings.model_copy(update={"keys_file": keys.path}), local_token="of this user"
    )
    with TestClient(
        app, base_url=BASE_URL, raise_server_exceptions=False, follow_redirects=False
    ) as started:
        yield started


ROUTES = ["/", "/assets/app.js", "/readyz", "/openapi.json", "/v1/status", "/v1/search?q=x",
          "/v1/images/1", "/v1/images/1/thumbnail", "/v1/images/1/file", "/v1/index",
          "/nothing", "/v1/../v1/status", "/healthz/"]  # fmt: skip


def test_without_keys_reading_is_open_here_and_writing_is_not(guarded: TestClient) -> None:
    assert guarded.get("/v1/search?q=x").status_code == 200
    problem = is_problem(guarded.post("/v1/index", json={}), 401)
    assert "--scope write" in problem["detail"]


@pytest.mark.parametrize("path", ROUTES)
def test_with_a_key_every_route_but_healthz_needs_one(
    guarded: TestClient, keys: Keys, path: str
) -> None:
    secret = keys.add("laptop", "write")
    response = guarded.get(path)
    is_problem(response, 401)
    assert response.headers["www-authenticate"] == 'Bearer realm="mmsearch"'
    assert guarded.get(path, headers={"X-API-Key": secret}).status_code != 401
    assert guarded.get("/healthz").status_code == 200


def test_the_ways_to_show_a_key(guarded: TestClient, keys: Keys) -> None:
    secret = keys.add("laptop", "read")
    for headers in (
        {"Authorization": f"Bearer {secret}"},
        {"Authorization": f"bearer  {secret} "},
        {"X-API-Key": secret},
    ):
        assert guarded.get("/v1/status", headers=headers).status_code == 200
    for wrong in (
        {"Authorization": secret},
        {"Authorization": f"Basic {secret}"},
        {"Authorization": "Bearer"},
        {"Authorization": f"Bearer {secret}x", "X-API-Key": secret},
        {"X-API-Key": ""},
        {"Cookie": f"mmsearch_session_80={secret}"},
    ):
        is_problem(guarded.get("/v1/status", headers=wrong), 401)
    assert guarded.get(f"/v1/status?key={secret}").status_code == 401


def test_without_a_key_no_file_can_be_sent_to_the_form_that_asks_for_one(
    guarded: TestClient, keys: Keys
) -> None:
    keys.add("laptop", "read")
    sent = {"data": {"key": "guess"}, "files": {"file": b"x" * (MAX_JSON_BYTES + 1)}}
    is_problem(guarded.post("/v1/login", **sent), 413)
    is_problem(guarded.post("/v1/login", data={"key": "guess"}, files={"file": b"x"}), 401)


def test_the_password_of_a_proxy_in_front_is_no_key(guarded: TestClient, keys: Keys) -> None:
    """Browsers send it with each request, and proxies pass it on."""
    proxy = {"Authorization": f"Basic {base64.b64encode(b'me:of the proxy').decode()}"}
    assert guarded.get("/v1/status", headers=proxy).status_code == 200
    secret = keys.add("laptop", "read")
    problem = is_problem(guarded.get("/v1/status", headers=proxy), 401)
    assert "only who has a key" in problem["detail"]
    for password, code in ((secret, 200), ("mms_wrong", 401)):
        basic = base64.b64encode(f"me:{password}".encode()).decode()
        shown = guarded.get("/v1/status", headers={"Authorization": f"Basic {basic}"})
        assert shown.status_code == code
    shown = guarded.get("/v1/status", headers=proxy | {"X-API-Key": secret})
    assert shown.status_code == 200
    signed_in = guarded.post("/v1/login", data={"key": secret}, headers=proxy)
    assert signed_in.status_code == 303
    assert guarded.get("/v1/status", headers=proxy).status_code == 200


@pytest.mark.parametrize("path", ["/v1/status", "/v1/login"])
def test_keys_that_cannot_be_read_let_nobody_in_and_their_place_is_not_told(
    guarded: TestClient, keys: Keys, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    secret = keys.add("laptop", "read")
    keys.path.write_text("{", encoding="utf-8")
    method = "POST" if path == "/v1/login" else "GET"
    response = guarded.request(
        method,
        path,
        headers={"X-API-Key": secret},
        data={"key": secret} if method == "POST" else None,
    )
    problem = is_problem(response, 503)
    assert problem["type"] == "urn:mmsearch:problem:keys-unreadable"
    assert str(keys.path) not in response.text
    assert str(keys.path) in caplog.text


def test_scopes_and_revoking(guarded: TestClient, keys: Keys) -> None:
    reading = {"X-API-Key": keys.add("reader", "read")}
    writing = {"X-API-Key": keys.add("writer", "write")}
    for headers in (reading, writing):
        assert guarded.get("/v1/search?q=x", headers=headers).status_code == 200
    problem = is_problem(guarded.delete("/v1/images/1", headers=reading), 403)
    assert "'reader' is for reading only" in problem["detail"]
    is_problem(guarded.delete("/v1/images/999999", headers=writing), 404)
    keys.revoke("reader")
    is_problem(guarded.get("/v1/search?q=x", headers=reading), 401)


def test_who_was_let_in_and_would_be_no_longer(keys: Keys) -> None:
    gate = Gate(keys, is_open=True, local_token="of this user")

    def caller(secret: str | None) -> Caller:
        given = {} if secret is None else {"x-api-key": secret}
        return gate.caller(Headers(given), "127.0.0.1", "session")

    anybody, local = caller(None), caller("of this user")
    assert gate.still_lets_in(anybody)
    reader = caller(keys.add("reader", "read"))
    assert not gate.still_lets_in(anybody)
    assert gate.still_lets_in(reader)
    assert gate.still_lets_in(local)
    keys.revoke("reader")
    keys.add("reader", "read")
    assert not gate.still_lets_in(reader)
    keys.path.write_text("broken")
    assert not gate.still_lets_in(reader)
    assert not gate.still_lets_in(anybody)


def test_a_local_token_reads_and_nothing_more(guarded: TestClient, keys: Keys) -> None:
    keys.add("laptop", "read")
    headers = {"Authorization": "Bearer of this user"}
    assert guarded.get("/v1/status", headers=headers).status_code == 200
    is_problem(guarded.delete("/v1/images/1", headers=headers), 401)


def test_keys_that_cannot_be_read_let_nobody_in(guarded: TestClient, keys: Keys) -> None:
    keys.path.write_text("broken")
    is_problem(guarded.get("/v1/status"), 503)
    assert guarded.get("/healthz").status_code == 200


# --- the browser --------------------------------------------------------------------------------

PAGE = {"Accept": "text/html,*/*;q=0.8", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Site": "none"}


def _sign_in(client: TestClient, secret: str, next_: str = "/") -> str:
    """The cookie that a browser is given for a key."""
    response = client.post(
        "/v1/login",
        data={"key": secret, "next": next_},
        headers={"Origin": BASE_URL, "Sec-Fetch-Site": "same-origin"},
    )
    assert response.status_code == 303
    client.cookies.clear()  # each test says by itself what it sends
    header = response.headers["set-cookie"]
    assert "HttpOnly" in header
    assert "SameSite=strict" in header
    assert "Secure" not in header
    (morsel,) = SimpleCookie(header).values()
    return f"{morsel.key}={morsel.value}"


def test_a_person_is_asked_for_the_key_and_comes_to_where_they_wanted(
    guarded: TestClient, keys: Keys
) -> None:
    secret = keys.add("laptop", "read")
    asked = guarded.get("/?q=%22red%22+kite", headers=PAGE)
    assert asked.status_code == 401
    assert 'value="/?q=%22red%22+kite"' in asked.text
    assert "script" not in asked.headers["content-security-policy"]
    assert asked.headers["referrer-policy"] == "same-origin"
    response = guarded.post("/v1/login", data={"key": secret, "next": "/?q=%22red%22+kite"})
    assert response.headers["location"] == "../?q=%22red%22+kite"
    # The test client keeps the cookie, like a browser; pictures in the page send it by themselves.
    assert guarded.get("/", headers=PAGE).status_code == 200
    guarded.post("/v1/logout")
    assert guarded.get("/", headers=PAGE).status_code == 401


def test_a_session_is_as_good_as_its_key(guarded: TestClient, keys: Keys) -> None:
    cookie = {"Cookie": _sign_in(guarded, keys.add("laptop", "read"))}
    assert guarded.get("/v1/status", headers=cookie).status_code == 200
    is_problem(guarded.delete("/v1/images/1", headers=cookie), 403)
    keys.revoke("laptop")
    keys.add("laptop", "write")
    is_problem(guarded.get("/v1/status", headers=cookie), 401)


@pytest.mark.parametrize(
    "other",
    ['prefs={"a":1,"b":[2]}', "user[name]=x", "a/b=x", "nameless", "=", "", "räv=röd", '"'],
)
def test_cookies_of_other_programs_do_not_hide_the_session(
    guarded: TestClient, keys: Keys, other: str
) -> None:
    cookie = _sign_in(guarded, keys.add("laptop", "read"))
    for sent in (f"{other}; {cookie}", f"{cookie};{other}", f"a=b; {other}; {cookie}; c=d"):
        headers = {"Cookie": sent.encode()}
        assert guarded.get("/v1/status", headers=headers).status_code == 200
        is_problem(guarded.get("/v1/status", headers={"Cookie": other.encode()}), 401)


def test_a_session_cannot_be_made_up(guarded: TestClient, keys: Keys) -> None:
    name, _, value = _sign_in(guarded, keys.add("laptop", "read")).partition("=")
    who, until, signature = value.split(".")
    later = str(int(until) + 1)
    for wrong in ("", "a.b.c", f"{who}.{later}.{signature}", f"{who}.{until}.", f"{who}.{until}",
                  f"d3JpdGVy.{until}.{signature}", f"{who}.{until}.{signature}.x"):  # fmt: skip
        assert guarded.get("/v1/status", headers={"Cookie": f"{name}={wrong}"}).status_code == 401
    assert guarded.get("/v1/status", headers={"Cookie": f"{name}={value}"}).status_code == 200


def test_a_session_ends(guarded: TestClient, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    cookie = {"Cookie": _sign_in(guarded, keys.add("laptop", "read"))}
    monkeypatch.setattr("mmsearch.serve.access.time.time", lambda: 9e9)
    is_problem(guarded.get("/v1/status", headers=cookie), 401)


@pytest.mark.parametrize(
    "next_",
    [
        "//evil.example",
        "https://evil.example/",
        "/\\evil.example",
        "\\\\evil",
        "/a\nSet-Cookie: x=y",
        "javascript:alert(1)",
        "",
        "/ü",
        "/../other",
        "/v1/%2E%2e/../other?q=1",
        "/.%2e#x",
        "/./",
    ],
)
def test_signing_in_leads_nowhere_else(guarded: TestClient, keys: Keys, next_: str) -> None:
    response = guarded.post("/v1/login", data={"key": keys.add("x", "read"), "next": next_})
    assert response.headers["location"] == "../"


def test_other_sites_cannot_sign_a_browser_in_or_use_its_session(
    guarded: TestClient, keys: Keys
) -> None:
    secret = keys.add("laptop", "write")
    cookie = _sign_in(guarded, secret)
    for foreign in (
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:3000", "Sec-Fetch-Site": "same-site"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
    ):
        is_problem(guarded.post("/v1/login", data={"key": secret}, headers=foreign), 403)
        headers = foreign | {"Cookie": cookie}
        is_problem(guarded.delete("/v1/images/1", headers=headers), 403)


def test_behind_tls_the_cookie_is_for_tls(library: Library, keys: Keys) -> None:
    app = create_app(library, Settings(host="0.0.0.0", keys_file=keys.path))
    with TestClient(app, base_url="http://photos.example", follow_redirects=False) as client:
        response = client.post(
            "/v1/login",
            data={"key": keys.add("x", "read")},
            headers={"Origin": "https://photos.example"},
        )
    assert "Secure" in response.headers["set-cookie"]


# --- too much -----------------------------------------------------------------------------------


def test_wrong_keys_are_told_to_wait_and_right_ones_are_not(
    guarded: TestClient, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    secret = keys.add("laptop", "read")
    caplog.set_level(logging.WARNING)
    seen = [
        guarded.get("/v1/status", headers={"X-API-Key": f"guess {n}"}).status_code
        for n in range(30)
    ]
    assert seen[:10] == [401] * 10
    assert 429 in seen
    assert len([r for r in caplog.records if "wrong key" in r.message]) < 15
    assert "guess" not in caplog.text
    limited = guarded.post("/v1/login", data={"key": "guess"})
    is_problem(limited, 429)
    assert 1 <= int(limited.headers["retry-after"]) <= 6
    assert guarded.get("/v1/status", headers={"X-API-Key": secret}).status_code == 200


def test_one_client_may_ask_so_much(library: Library, settings: Settings, keys: Keys) -> None:
    limited = settings.model_copy(update={"keys_file": keys.path, "rate_limit": 0.001})
    with TestClient(create_app(library, limited), base_url=BASE_URL) as client:
        first = [client.get("/v1/status").status_code for _ in range(3)]
        assert first == [200, 429, 429]
        other = {"X-API-Key": keys.add("other", "read")}
        assert client.get("/v1/status", headers=other).status_code == 200
        refused = client.get("/v1/status", headers=other)
        is_problem(refused, 429)
        assert int(refused.headers["retry-after"]) > 60


def test_a_bucket_fills_up_again() -> None:
    now = 0.0
    bucket = Buckets(2, 4, clock=lambda: now)
    assert [bucket.take("a") for _ in range(5)] == [0, 0, 0, 0, 0.5]
    assert bucket.take("b") == 0
    now = 0.5
    assert [bucket.take("a") for _ in range(2)] == [0, 0.5]
    now = 100.0
    assert [bucket.take("a") for _ in range(5)] == [0, 0, 0, 0, 0.5]
    for n in range(20_000):
        bucket.take(str(n))
    assert len(bucket._left) == 10_000


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("192.168.1.7", "192.168.1.7"),
        ("::ffff:192.168.1.7", "192.168.1.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("fe80::1%eth0", "fe80::"),
        ("", ""),
        ("testclient", "testclient"),
    ],
)
def test_who_is_behind_an_address(address: str, client: str) -> None:
    assert client_of(address) == client


# --- beyond this machine ------------------------------------------------------------------------


def test_beyond_loopback_a_key_is_needed(keys: Keys) -> None:
    check_binding(Settings(host="127.0.0.1"), keys)
    check_binding(Settings(host="0.0.0.0", insecure_no_key=True), keys)
    with pytest.raises(RefusedError, match=r"mmsearch keys add NAME.*--insecure-no-key"):
        check_binding(Settings(host="0.0.0.0"), keys)
    keys.add("laptop", "read")
    check_binding(Settings(host="0.0.0.0"), keys)


def test_beyond_loopback_the_last_key_revoked_opens_nothing(library: Library, keys: Keys) -> None:
    keys.add("laptop", "read")
    app = create_app(library, Settings(host="0.0.0.0", keys_file=keys.path))
    with TestClient(app, base_url="http://photos.lan") as client:
        keys.revoke("laptop")
        is_problem(client.get("/v1/status"), 401)
    assert not Gate(keys, is_open=True).needs_key


def test_without_any_key_only_addresses_and_own_names_are_answered(
    library: Library, keys: Keys
) -> None:
    open_to_all = Settings(host="0.0.0.0", keys_file=keys.path, insecure_no_key=True)
    with TestClient(create_app(library, open_to_all), base_url="http://192.168.1.7") as client:
        assert client.get("/v1/status").status_code == 200
        assert client.get("/v1/status", headers={"Host": "[2001:db8::1]:80"}).status_code == 200
        for name in ("evil.example", "192.168.1.7.evil.example"):
            is_problem(client.get("/v1/status", headers={"Host": name}), 421)


# --- other origins ------------------------------------------------------------------------------

OTHER = "https://photos.example"


def test_pages_of_a_named_origin_may_ask_with_a_key(
    library: Library, settings: Settings, keys: Keys
) -> None:
    named = settings.model_copy(update={"keys_file": keys.path, "cors_origins": (OTHER,)})
    foreign = {"Origin": OTHER, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}
    with TestClient(create_app(library, named), base_url=BASE_URL) as client:
        preflight = client.options(
            "/v1/search",
            headers=foreign | {"Access-Control-Request-Method": "POST"},
        )
        assert preflight.status_code == 204
        assert preflight.headers["access-control-allow-origin"] == OTHER
        assert "Authorization" in preflight.headers["access-control-allow-headers"]
        secret = keys.add("page", "write")
        with_key = foreign | {"Authorization": f"Bearer {secret}"}
        response = client.post("/v1/search", json={"q": "x"}, headers=with_key)
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == OTHER
        assert response.headers["vary"] == "Origin"
        assert "access-control-allow-credentials" not in response.headers
        is_problem(client.get("/v1/status", headers=foreign), 401)
        is_problem(client.get("/v1/status", headers=foreign | {"Origin": "https://e.example"}), 403)


def test_a_named_origin_does_not_ride_on_the_session(
    library: Library, settings: Settings, keys: Keys
) -> None:
    named = settings.model_copy(update={"keys_file": keys.path, "cors_origins": (OTHER,)})
    with TestClient(
        create_app(library, named), base_url=BASE_URL, follow_redirects=False
    ) as client:
        cookie = _sign_in(client, keys.add("laptop", "write"))
        assert client.get("/v1/status", headers={"Cookie": cookie}).status_code == 200
        is_problem(client.get("/v1/status", headers={"Cookie": cookie, "Origin": OTHER}), 401)


@pytest.mark.parametrize("wrong", ["*", "photos.example", "https://photos.example/", "null"])
def test_what_is_no_origin(wrong: str) -> None:
    with pytest.raises(ValueError, match="is no origin"):
        Settings(cors_origins=(wrong,))


def test_origins_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMSEARCH_CORS_ORIGINS", "https://a.example, http://b.example:3000")
    assert Settings().cors_origins == ("https://a.example", "http://b.example:3000")


def test_a_wrong_method_is_told_the_right_ones(guarded: TestClient) -> None:
    for path, allowed in (
        ("/v1/images/1", "DELETE, GET, HEAD"),
        ("/v1/index", "GET, HEAD, POST"),
        ("/v1/texts/search", "GET, HEAD"),
    ):
        refused = guarded.put(path)
        is_problem(refused, 405)
        assert refused.headers["allow"] == allowed
