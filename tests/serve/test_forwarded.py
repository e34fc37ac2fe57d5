"""Whom a proxy asks for: what is believed of it, of whom, and what depends on it."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable, Iterator
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serve_library import is_problem
from starlette.testclient import TestClient

from mmsearch.errors import RefusedError
from mmsearch.library import Library
from mmsearch.serve import create_app
from mmsearch.serve.access import REMOTE_RATE, check_binding
from mmsearch.serve.app import _OWN, check_root_path, make_gate
from mmsearch.serve.forwarded import Proxies
from mmsearch.serve.keys import Keys
from mmsearch.settings import Settings

HERE = "127.0.0.1"
TRUSTED = "127.0.0.1, 172.18.0.0/16, 2001:db8:5::/48"
STRANGER = "203.0.113.7"
NAMED = {"X-Forwarded-For": STRANGER}
HOME = "https://home.example"
PAGE = {"Accept": "text/html,*/*", "Sec-Fetch-Mode": "navigate"}

Make = Callable[..., TestClient]


def trusting(text: str) -> Settings:
    return Settings(trusted_proxies=text)  # type: ignore[arg-type]


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "keys.json")


@pytest.fixture
def behind(library: Library, keys: Keys) -> Iterator[Make]:
    """behind(peer, **settings): the service on 127.0.0.1, asked by `peer` as a proxy asks."""
    opened: list[TestClient] = []

    def make(peer: str = HERE, **given: Any) -> TestClient:
        settings = Settings(
            **{"host": HERE, "keys_file": keys.path, "trusted_proxies": TRUSTED} | given
        )
        made = TestClient(
            create_app(library, settings, local_token="of this user"),
            base_url="http://home.example",
            raise_server_exceptions=False,
            follow_redirects=False,
            client=(peer, 50000),
        )
        opened.append(made.__enter__())
        return made

    yield make
    for client in opened:
        client.__exit__(None, None, None)


# --- whose word counts --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peer", "told", "client"),
    [
        (HERE, "203.0.113.7", "203.0.113.7"),
        ("::ffff:127.0.0.1", "203.0.113.7", "203.0.113.7"),  # on a socket for both kinds
        (HERE, "::ffff:203.0.113.7", "203.0.113.7"),
        (HERE, "203.0.113.7:54321", "203.0.113.7"),
        (HERE, "2001:DB8::0:7", "2001:db8::7"),
        (HERE, "[2001:db8::7]:54321", "2001:db8::7"),
        (HERE, "[2001:db8::7]", "2001:db8::7"),
        (HERE, "fe80::7%eth0", "fe80::7"),
        # Not a trusted one: whatever it says.
        ("203.0.113.9", "198.51.100.1", "203.0.113.9"),
        ("testclient", "198.51.100.1", "testclient"),
        # What the client says of itself stands on the left.
        (HERE, "198.51.100.1, 203.0.113.7", "203.0.113.7"),
        (HERE, "127.0.0.1, 203.0.113.7", "203.0.113.7"),
        (HERE, "198.51.100.1,172.18.0.9 ,203.0.113.7", "203.0.113.7"),
        # A proxy before the proxy, each of which appends.
        (HERE, "198.51.100.1, 203.0.113.7, 172.18.0.9", "203.0.113.7"),
        (HERE, "203.0.113.7, 2001:db8:5::1, [::ffff:172.18.0.9]:80", "203.0.113.7"),
        # All of them are trusted: the first of them asks.
        (HERE, "172.18.0.4, 172.18.0.9", "172.18.0.4"),
        # Nothing to be known.
        (HERE, "", HERE),
        (HERE, " , ,", HERE),
        (HERE, "203.0.113.7, ,", "203.0.113.7"),
        (HERE, "203.0.113.7, unknown", HERE),
        (HERE, "203.0.113.7, unknown, 172.18.0.9", "172.18.0.9"),
        (HERE, "_hidden", HERE),
        (HERE, "203.0.113", HERE),
        (HERE, "203.0.113.07", HERE),
        (HERE, "[2001:db8::7", "2001:db8::7"),
        (HERE, "[", HERE),
        (HERE, ":", HERE),
        (HERE, "x" * 60_000, HERE),
        (HERE, "fe80::1%\x1b[2J\n", "fe80::1"),
    ],
)
def test_who_asks(peer: str, told: str, client: str) -> None:
    assert Proxies(trusting(TRUSTED).trusted_proxies).client(peer, told) == client


@given(st.text(st.characters(max_codepoint=255)) | st.lists(st.ip_addresses()).map(
    lambda some: ", ".join(map(str, some))
))  # fmt: skip
def test_nobody_can_be_somebody_else(said: str) -> None:
    """Whatever a client says of itself: the proxy appends where it comes from."""
    proxies = Proxies(trusting(TRUSTED).trusted_proxies)
    assert proxies.client(HERE, f"{said}, {STRANGER}") == STRANGER
    assert proxies.client(STRANGER, said) == STRANGER
    ipaddress.ip_address(proxies.client(HERE, said))


def test_which_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMSEARCH_TRUSTED_PROXIES", "127.0.0.1,::1 172.18.0.0/16")
    networks = (ipaddress.ip_network(n) for n in ("127.0.0.1", "::1", "172.18.0.0/16"))
    assert Settings().trusted_proxies == tuple(networks)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("*", "write 127.0.0.1"),
        ("caddy", "write 127.0.0.1"),
        ("172.18.0.0/99", "write 127.0.0.1"),
        ("0.0.0.0/0", "everybody"),
        ("::/0", "everybody"),
        ("192.168.1.5/24", "write 192.168.1.5 or 192.168.1.0/24"),
        ("::ffff:172.18.0.1", "write it as 172.18.0.1"),
    ],
)
def test_what_names_no_proxy_is_refused(wrong: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        trusting(wrong)


# --- what depends on it -------------------------------------------------------------------------


def test_wrong_keys_count_by_client(behind: Make, keys: Keys, caplog: Any) -> None:
    right = keys.add("laptop", "read")
    client = behind()
    wrong = {"X-API-Key": "wrong"}
    for _ in range(10):
        assert client.get("/", headers={**wrong, **NAMED}).status_code == 401
    for said in (STRANGER, f"198.51.100.1, {STRANGER}", f"127.0.0.1,{STRANGER}"):
        is_problem(client.get("/", headers={**wrong, "X-Forwarded-For": said}), 429)
    # HAProxy adds a line of its own.
    lines = [("X-API-Key", "wrong"), ("X-Forwarded-For", "198.51.100.1"), *NAMED.items()]
    is_problem(client.get("/", headers=lines), 429)
    other = {"X-Forwarded-For": f"{STRANGER}, 203.0.113.8"}
    assert client.get("/", headers={**wrong, **other}).status_code == 401
    assert "a wrong key from 203.0.113.7" in caplog.text
    # By the page that asks for the key as well.
    form = {"key": "wrong"}
    is_problem(client.post("/v1/login", data=form, headers=NAMED), 429)
    is_problem(client.post("/v1/login", data=form, headers=other), 401)
    assert client.get("/", headers={"X-API-Key": right, **NAMED}).status_code == 200


def test_whoever_is_no_proxy_is_itself(behind: Make, keys: Keys) -> None:
    keys.add("laptop", "read")
    client = behind(peer="192.168.1.20")
    for n in range(12):
        asked = client.get("/", headers={"X-API-Key": "no", "X-Forwarded-For": f"203.0.113.{n}"})
    is_problem(asked, 429)


def test_requests_count_by_client(behind: Make) -> None:
    client = behind(rate_limit=0.25)
    assert client.get("/healthz", headers=NAMED).status_code == 200
    is_problem(client.get("/healthz", headers=NAMED), 429)
    assert client.get("/healthz", headers={"X-Forwarded-For": "203.0.113.8"}).status_code == 200


def test_the_log_says_who_asked(behind: Make, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "mmsearch.access"):
        behind(root_path="/photos").get("/photos/healthz", headers=NAMED)
    (line,) = (r for r in caplog.records if r.name == "mmsearch.access")
    fields = line.mmsearch_fields  # type: ignore[attr-defined]
    assert (fields["client"], fields["path"], fields["route"]) == (
        STRANGER,
        "/healthz",
        "/healthz",
    )


def _cookie(response: Any) -> Any:
    (morsel,) = SimpleCookie(response.headers["set-cookie"]).values()
    return morsel


def test_the_cookie_stays_with_tls(behind: Make, keys: Keys) -> None:
    key = keys.add("laptop", "read")
    client = behind()
    for proto, origin, secure in (
        ("https", None, True),
        ("https", HOME, True),
        ("http", None, False),
        ("http", "http://home.example", False),
        ("http", HOME, True),  # TLS ends before the proxy that is known
        ("gopher", None, False),
        ("https, http", None, False),
    ):
        headers = {"X-Forwarded-Proto": proto, **({"Origin": origin} if origin else {})}
        signed_in = client.post("/v1/login", data={"key": key}, headers=headers)
        assert signed_in.status_code == 303, (proto, origin)
        assert bool(_cookie(signed_in)["secure"]) is secure, (proto, origin)
    stranger = behind(peer="192.168.1.20")
    signed_in = stranger.post(
        "/v1/login", data={"key": key}, headers={"X-Forwarded-Proto": "https"}
    )
    assert not _cookie(signed_in)["secure"]


def test_a_page_without_tls_is_another_site(behind: Make, keys: Keys) -> None:
    key = keys.add("laptop", "write")
    client = behind()

    def status(origin: str, host: str = "home.example", proto: str = "https") -> int:
        headers = {"Origin": origin, "Host": host, "X-Forwarded-Proto": proto}
        return client.post("/v1/login", data={"key": key}, headers=headers).status_code

    assert status(HOME) == 303
    assert status(HOME, host="home.example:443") == 303  # as some proxies pass it on
    assert status(f"{HOME}:8443", host="home.example:8443") == 303
    assert status("http://home.example") == 403
    assert status(f"{HOME}:8443") == 403
    assert status("https://other.example") == 403
    assert status("http://home.example", proto="http") == 303
    assert status("http://home.example", host="home.example:443", proto="http") == 403


# --- what is for this machine only --------------------------------------------------------------


def test_a_proxy_on_this_machine_does_not_open_it_to_strangers(behind: Make, keys: Keys) -> None:
    """Not even where the last key was revoked, nor for who names this machine."""
    client = behind()
    for headers in (
        NAMED,
        {},
        {"Host": "localhost"},
        {"Host": "127.0.0.1:8080", "X-Forwarded-For": HERE},
    ):
        is_problem(client.get("/v1/status", headers=headers), 401)
    assert client.get("/healthz", headers=NAMED).status_code == 200
    # The user's own terminal needs none, as before.
    mine = {"Authorization": "Bearer of this user"}
    assert client.get("/v1/status", headers=mine).status_code == 200


@pytest.mark.parametrize("header", ["X-Forwarded-For", "X-Real-IP", "Forwarded"])
def test_nor_does_one_that_was_not_named(behind: Make, header: str) -> None:
    """As Apache's proxy asks: by this machine's own name, for whoever came to it."""
    asked = {"Host": "127.0.0.1:8080", header: f"for={STRANGER}"}
    open_here = behind(trusted_proxies="")
    is_problem(open_here.get("/v1/status", headers=asked), 401)
    assert open_here.get("/v1/status", headers={"Host": "127.0.0.1:8080"}).status_code == 200
    open_to_all = behind(trusted_proxies="", insecure_no_key=True)
    assert open_to_all.get("/v1/status", headers=asked).status_code == 200


def test_without_a_key_it_does_not_start_behind_a_proxy(keys: Keys) -> None:
    settings = trusting(HERE)
    with pytest.raises(RefusedError, match=r"behind a proxy.*keys add NAME.*--insecure-no-key"):
        check_binding(settings, keys)
    check_binding(settings.model_copy(update={"insecure_no_key": True}), keys)
    keys.add("laptop", "read")
    check_binding(settings, keys)


def test_requests_are_limited_behind_a_proxy(library: Library, keys: Keys) -> None:
    named = {"keys_file": keys.path}
    gate = make_gate(library, trusting(HERE).model_copy(update=named), None)
    assert gate._asked is not None
    assert gate._asked._rate == REMOTE_RATE
    assert make_gate(library, Settings().model_copy(update=named), None)._asked is None


def test_without_proxies_nothing_is_believed(behind: Make) -> None:
    client = behind(trusted_proxies="", rate_limit=0.25)
    told = {**NAMED, "Host": "localhost", "X-Forwarded-Proto": "https"}
    assert client.get("/healthz", headers=told).status_code == 200
    other = {**told, "X-Forwarded-For": "203.0.113.8"}
    is_problem(client.get("/healthz", headers=other), 429)
    is_problem(client.get("/healthz", headers=NAMED), 421)


# --- below a path -------------------------------------------------------------------------------


def test_both_addresses_lead_to_the_same(behind: Make, keys: Keys) -> None:
    """That below the path, and the service's own, by which health checks ask."""
    key = {"X-API-Key": keys.add("laptop", "read")}
    client = behind(root_path="/my/photos")
    for path in ("/", "/assets/app.js", "/readyz", "/v1/status", "/v1/images/1", "/metrics"):
        below = client.get(f"/my/photos{path}", headers=key)
        assert below.status_code == client.get(path, headers=key).status_code == 200, path
    for strange in ("/my", "/my/photosx/v1/status", "/my/photos/my/photos/v1/status"):
        assert client.get(strange, headers=key).status_code == 404
    is_problem(client.get("/my/photos/v1/status"), 401)
    assert client.get("/my/photos/healthz").status_code == 200
    problem = is_problem(client.get("/my/photos/v1/images/0", headers=key), 404)
    assert problem["instance"] == "/v1/images/0"


@pytest.mark.parametrize(
    "path", ["/photos%2Fv1/status", "/%70hotos/v1/status", "/photos%2fhealthz"]
)
def test_the_path_has_one_spelling(behind: Make, path: str) -> None:
    is_problem(behind(root_path="/photos").get(path, headers={"X-API-Key": "x"}), 401)
    assert behind(root_path="/photos", insecure_no_key=True).get(
        path, headers={"Host": "localhost"}
    ).status_code == 404  # fmt: skip


def test_the_page_needs_the_slash(behind: Make) -> None:
    client = behind(root_path="/my/photos")
    moved = client.get("/my/photos?q=kite")
    assert moved.status_code == 307
    assert moved.headers["location"] == "photos/?q=kite"
    assert client.head("/my/photos").headers["location"] == "photos/"
    assert client.get("/my/photos/").status_code == 401


@pytest.mark.parametrize("asked", ["/", "/?q=kite", "/v1/images/1/file", "/nothing/there?a=/b/c"])
@pytest.mark.parametrize("strips", [True, False])
def test_signing_in_below_a_path(behind: Make, keys: Keys, asked: str, strips: bool) -> None:
    """By addresses that a browser makes of relative ones, whoever took the path off."""
    client = behind(root_path="" if strips else "/photos")
    here = "" if strips else "/photos"
    told = {"X-Forwarded-Prefix": "/photos"} if strips else {}
    page = client.get(here + asked, headers={**PAGE, **told})
    assert page.status_code == 401
    action = page.text.partition('action="')[2].partition('"')[0]
    depth = asked.partition("?")[0].count("/") - 1
    assert action == ("../" * depth or "./") + "v1/login"
    form = {"key": keys.add("laptop", "read"), "next": asked}
    signed_in = client.post(f"{here}/v1/login", data=form, headers=told)
    assert signed_in.headers["location"] == f"../{asked[1:]}"
    cookie = _cookie(signed_in)
    assert cookie["path"] == "/photos"
    sent = {"Cookie": f"{cookie.key}=of.another.service; {cookie.key}={cookie.value}", **told}
    assert client.get(f"{here}/v1/status", headers=sent).status_code == 200
    out = client.post(f"{here}/v1/logout", headers=sent)
    assert (out.headers["location"], _cookie(out)["path"]) == ("../", "/photos")


def test_addresses_in_answers(behind: Make, keys: Keys, library: Library) -> None:
    key = {"X-API-Key": keys.add("laptop", "read")}
    told = {**key, **NAMED, "X-Forwarded-Proto": "https", "X-Forwarded-Prefix": "/photos"}
    client = behind()
    assert client.get("/openapi.json", headers=told).json()["servers"] == [{"url": "/photos"}]
    assert "servers" not in client.get("/openapi.json", headers=key).json()
    found = client.get("/v1/search?q=kite&k=1", headers=told).json()["hits"][0]
    assert found["urls"]["file"].startswith(f"/v1/images/{found['id']}/file")
    asked = {"ids": [found["id"]], "indice_name": library.path.name}
    known = client.post("/metadata", json=asked, headers=told).json()[0]["metadata"]
    assert known["url"] == f"{HOME}/photos{found['urls']['file']}"


@pytest.mark.parametrize(
    "made_up",
    [
        "//evil.example",
        "/a/../b",
        "/..",
        "photos",
        "/ph%6ftos",
        "/a b",
        "/a;Secure",
        "/" + "a" * 300,
    ],
)
def test_a_made_up_prefix_counts_for_nothing(behind: Make, keys: Keys, made_up: str) -> None:
    key = keys.add("laptop", "read")
    client = behind()
    headers = {"X-Forwarded-Prefix": made_up}
    signed_in = client.post("/v1/login", data={"key": key}, headers=headers)
    assert _cookie(signed_in)["path"] == "/"
    assert signed_in.headers["location"] == "../"


def test_a_told_prefix_does_not_lead_past_what_a_proxy_shuts_off(behind: Make, keys: Keys) -> None:
    """Where it passes on a client's own header, and `/metrics` is shut off by its path."""
    headers = {"X-API-Key": keys.add("laptop", "read"), "X-Forwarded-Prefix": "/x"}
    assert behind().get("/x/metrics", headers=headers).status_code == 404


def test_from_others_a_prefix_is_not_taken(behind: Make, keys: Keys) -> None:
    form = {"key": keys.add("laptop", "read")}
    headers = {"X-Forwarded-Prefix": "/photos"}
    client = behind(peer="192.168.1.20")
    assert _cookie(client.post("/v1/login", data=form, headers=headers))["path"] == "/"


@pytest.mark.parametrize("wrong", ["photos", "/a//b", "/../a", "/a/.", "/ä", "/a?b", "/a b", "//"])
def test_what_is_no_path_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="write it as /photos"):
        Settings(root_path=wrong)


def test_paths_that_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [Settings(root_path=p).root_path for p in ("/photos/", "/a/b-c_d.e~f", "/", "")] == [
        "/photos", "/a/b-c_d.e~f", "", "",
    ]  # fmt: skip


def test_no_path_hides_the_services_own(behind: Make) -> None:
    app: Any = behind().app
    assert {route.path.split("/")[1] for route in app.routes} - {""} == _OWN
    for hidden in ("/v1", "/assets/photos", "/healthz"):
        with pytest.raises(RefusedError, match="--root-path"):
            check_root_path(hidden)
    check_root_path("")
    check_root_path("/v1photos")
