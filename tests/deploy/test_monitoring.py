"""Dashboard, alerts and scrape configuration, against what a service really says at /metrics."""

from __future__ import annotations

import json
import re
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from collection import Indexed
from dockerfile import read
from prometheus_client.parser import text_string_to_metric_families
from promql import SCRAPED, Selector, grouped, selectors
from starlette.testclient import TestClient

from mmsearch.library import Library
from mmsearch.serve import create_app
from mmsearch.serve.keys import Keys
from mmsearch.settings import Settings

DEPLOY = Path(__file__).parents[2] / "deploy"
MONITORING = DEPLOY / "monitoring"
BOARD = MONITORING / "grafana" / "dashboards" / "mmsearch.json"
DEADLINE_S = 60
#: Only with a GPU are there any of these series.
WITHOUT_SERIES_HERE = {"mmsearch_gpu_memory_bytes"}

#: Series by the name that a query calls them: their labels.
Series = dict[str, list[dict[str, str]]]


@pytest.fixture(scope="module")
def series(
    postcards: Indexed, postcard_library: Library, tmp_path_factory: pytest.TempPathFactory
) -> Series:
    """What a service says that has been asked something, by a key of the kind that is told."""
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    key = Keys(file).add("prometheus", "read")
    settings = Settings(host="127.0.0.1", keys_file=file, workers=2)
    app = create_app(postcard_library, settings)
    picture = next(postcards.pictures.glob("*.jpg")).read_bytes()
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        assert client.get("/metrics").status_code == 401
        (job,) = yaml.safe_load((MONITORING / "prometheus.yml").read_text())["scrape_configs"]
        client.headers["Authorization"] = f"{job['authorization']['type']} {key}"
        until = time.monotonic() + DEADLINE_S
        while client.get("/readyz").status_code != 200:
            assert time.monotonic() < until
            time.sleep(0.05)
        for _ in range(2):  # the second time, what was asked is kept
            assert client.get("/v1/search", params={"q": "a red kite"}).status_code == 200
            found = client.post("/v1/captions", files={"file": ("a.jpg", picture, "image/jpeg")})
            assert found.status_code == 200
        assert client.get("/v1/images/999999").status_code == 404
        answer = client.get(job["metrics_path"])
    assert answer.status_code == 200
    held: Series = defaultdict(list)
    for family in text_string_to_metric_families(answer.text):
        held.setdefault(family.name, [])
        for sample in family.samples:
            held[sample.name].append(sample.labels)
    return dict(held)


def queries_of_board() -> dict[str, str]:
    board = json.loads(BOARD.read_text(encoding="utf-8"))
    return {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in board["panels"]
        for target in panel.get("targets", [])
    }


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((MONITORING / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


QUERIES = queries_of_board() | {rule["alert"]: rule["expr"] for rule in alerts()}


def meant(series: Series, one: Selector) -> list[dict[str, str]]:
    """The series that a selector takes. Those of errors and of a GPU need not be there."""
    assert one.name in series, f"no service says {one.name}"
    return [labels for labels in series[one.name] if one.takes(labels)]


@pytest.mark.parametrize("title", QUERIES)
def test_query_asks_for_what_is_there(series: Series, title: str) -> None:
    query = QUERIES[title]
    asked = [one for one in selectors(query) if one.name != "up"]
    assert asked or query.startswith("up{")
    for one in asked:
        if one.name in WITHOUT_SERIES_HERE:
            assert one.name in series
            continue
        found = meant(series, Selector(one.name, ()))
        assert found, one.name
        known = set().union(*found) | SCRAPED
        assert {label for label, _, _ in one.matchers} <= known, one
        failing = any(label == "status" and "5" in value for label, _, value in one.matchers)
        assert failing or meant(series, one), f"{one} takes no series"
    known = SCRAPED.union(*(set(labels) for one in asked for labels in series[one.name]))
    assert grouped(query) <= known


def test_legends_name_labels_that_are_there(series: Series) -> None:
    board = json.loads(BOARD.read_text(encoding="utf-8"))
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            wanted = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            names = {one.name for one in selectors(target["expr"])} - WITHOUT_SERIES_HERE
            if names:
                labels = set().union(*(labels for name in names for labels in series[name]))
                assert wanted <= labels, panel["title"]


def test_every_metric_of_ours_is_shown(series: Series) -> None:
    shown = {one.name for query in queries_of_board().values() for one in selectors(query)}
    families = {re.sub(r"_(total|bucket|sum|count|created)$", "", name) for name in series}
    ours = {name for name in families if name.startswith("mmsearch_")}
    seen = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in shown}
    assert ours - seen == {"mmsearch_query_cache_entries"}


def test_dashboard_fits_together() -> None:
    board = json.loads(BOARD.read_text(encoding="utf-8"))
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    variables = {one["name"] for one in board["templating"]["list"]}
    text = re.sub(r"\$__\w+", "", BOARD.read_text(encoding="utf-8"))
    assert set(re.findall(r"\$\{?([a-z]\w*)", text)) == variables
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
        if panel["type"] != "row":
            assert panel["targets"]
            assert panel["datasource"]["uid"] == "${datasource}"


def test_prometheus_asks_the_service_of_the_compose_file() -> None:
    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text(encoding="utf-8"))
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    (job,) = config["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    name, _, port = target.partition(":")
    assert name in compose["services"]
    assert port == read(DEPLOY / "Dockerfile.cpu")[-1].last("EXPOSE").rest
    # The key is in a file, which the container has.
    assert "credentials" not in job["authorization"]
    folder, _, secret = job["authorization"]["credentials_file"].rpartition("/")
    assert folder == "/run/secrets"
    assert secret in compose["services"]["prometheus"]["secrets"]
    mounted = "".join(compose["services"]["prometheus"]["volumes"])
    for rules in config["rule_files"]:
        assert (MONITORING / rules).is_file()
        assert f"/etc/prometheus/{rules}:ro" in mounted


def test_grafana_finds_prometheus_and_the_dashboard() -> None:
    provisioning = MONITORING / "grafana" / "provisioning"
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())[
        "datasources"
    ]
    host = re.fullmatch(r"http://(\w+):9090", source["url"])
    assert host is not None
    assert host[1] in compose["services"]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "mmsearch.yml").read_text())[
        "providers"
    ]
    mounts = [v.split(":") for v in compose["services"]["grafana"]["volumes"]]
    folders = [source for source, target, *_ in mounts if target == provider["options"]["path"]]
    assert [BOARD.parent] == [(DEPLOY / folder).resolve() for folder in folders]


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: str(rule["alert"]))
def test_alerts_say_what_is_wrong(rule: dict[str, Any]) -> None:
    assert rule["annotations"]["summary"]
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert re.fullmatch(r"\d+[mh]", rule["for"])


def test_reader_of_queries() -> None:
    query = (
        'sum by (le, route) (rate(a_b_bucket{x=~"1|2", instance=~"$instance"}[$__rate_interval]))'
        ' / on (job) 2 * c_d{y="z"} or vector(0)'
    )
    one, other = selectors(query)
    assert one == Selector("a_b_bucket", (("x", "=~", "1|2"), ("instance", "=~", "$instance")))
    assert other == Selector("c_d", (("y", "=", "z"),))
    assert grouped(query) == {"le", "route", "job"}
    assert one.takes({"x": "2"})
    assert not one.takes({"x": "3"})
    assert not other.takes({})
