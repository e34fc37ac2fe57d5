"""The compose files: valid by the specification, closed to others, in step with the code."""

from __future__ import annotations

import ipaddress
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from dockerfile import Stage, read
from words import command_of

import mmsearch
from mmsearch.settings import Settings

DEPLOY = Path(__file__).parents[2] / "deploy"
FILES = ("compose.yaml", "compose.gpu.yaml")
#: mmsearch's own services; the others watch it.
OURS = ("mmsearch", "index", "watch", "keys")
#: What `docker compose` must be told, here.
ENVIRONMENT = {"PHOTOS": "/srv/photos"}


def interpolated(text: str, environment: dict[str, str]) -> str:
    """As compose puts variables in: ${NAME}, ${NAME:-default}, ${NAME:?why}."""

    def value(found: re.Match[str]) -> str:
        name, how, rest = found.group(1, 2, 3)
        if environment.get(name):
            return environment[name]
        assert how == "-", f"{name}: {rest}"
        return str(rest)

    return re.sub(r"\$\{(\w+)(?::([-?])([^}]*))?\}", value, text)


def load(name: str) -> dict[str, Any]:
    text = (DEPLOY / name).read_text(encoding="utf-8")
    document: dict[str, Any] = yaml.safe_load(interpolated(text, ENVIRONMENT))
    return document


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return load("compose.yaml")


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = compose["services"]
    return found


@pytest.fixture(scope="module")
def final() -> Stage:
    return read(DEPLOY / "Dockerfile.cpu")[-1]


def valid(*files: Path) -> subprocess.CompletedProcess[str]:
    # The schema comes with the checker: nothing is fetched.
    checker = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    return subprocess.run([*checker, *map(str, files)], capture_output=True, text=True)


def test_files_are_what_the_specification_asks_for(tmp_path: Path) -> None:
    pytest.importorskip("check_jsonschema", reason="THE COMPOSE FILES ARE NOT CHECKED")
    done = valid(*(DEPLOY / name for name in FILES))
    assert done.returncode == 0, done.stdout + done.stderr
    wrong = tmp_path / "compose.yaml"
    wrong.write_text((DEPLOY / "compose.yaml").read_text().replace("cap_drop: [ALL]", "cap_drp: 1"))
    assert valid(wrong).returncode == 1


def test_it_can_be_read_without_anything_but_the_photographs(compose: dict[str, Any]) -> None:
    assert compose["services"].keys() >= {*OURS, "prometheus", "grafana"}
    with pytest.raises(AssertionError, match="PHOTOS"):
        interpolated((DEPLOY / "compose.yaml").read_text(), {})


def test_only_the_service_starts_unasked(services: dict[str, dict[str, Any]]) -> None:
    assert [name for name, one in services.items() if not one.get("profiles")] == ["mmsearch"]


def test_ports_are_for_this_machine_only(services: dict[str, dict[str, Any]]) -> None:
    published = [port for one in services.values() for port in one.get("ports", [])]
    assert len(published) == 3
    for port in published:
        address, _, _inside = port.rsplit(":", 2)
        assert ipaddress.ip_address(address).is_loopback, port
    assert "network_mode" not in {k for n in ("mmsearch", "index") for k in services[n]}


def test_published_port_is_the_one_that_is_listened_on(
    services: dict[str, dict[str, Any]], final: Stage
) -> None:
    (port,) = services["mmsearch"]["ports"]
    assert port.rsplit(":", 1)[1] == final.last("EXPOSE").rest


def test_every_variable_is_a_setting(services: dict[str, dict[str, Any]]) -> None:
    for name in OURS:
        given = services[name].get("environment", {})
        ours = {n[9:].lower(): v for n, v in given.items() if n.startswith("MMSEARCH_")}
        assert ours.keys() <= set(Settings.model_fields), name
        assert len(ours) == len(given), name
        Settings(**{n: v for n, v in ours.items() if v is not None})


def test_every_setting_can_be_set(services: dict[str, dict[str, Any]], final: Stage) -> None:
    """But for those that the image decides, and what would take the wall away."""
    decided = {n[9:].lower() for n in final.environment if n.startswith("MMSEARCH_")}
    given = {n[9:].lower() for n in services["mmsearch"]["environment"]}
    assert given | decided | {"insecure_no_key"} == set(Settings.model_fields)


def test_every_volume_is_declared_and_used(
    compose: dict[str, Any], services: dict[str, dict[str, Any]]
) -> None:
    mounts = [v.split(":") for one in services.values() for v in one.get("volumes", [])]
    named = {source for source, *_ in mounts if not source.startswith((".", "/"))}
    assert named == set(compose["volumes"])
    used = {secret for one in services.values() for secret in one.get("secrets", [])}
    assert used == set(compose["secrets"])


def test_files_that_are_mounted_exist(services: dict[str, dict[str, Any]]) -> None:
    for name, one in services.items():
        for volume in one.get("volumes", []):
            source, _target, *mode = volume.split(":")
            if source.startswith("./") and source != "./secrets":
                assert (DEPLOY / source).exists(), volume
                assert mode == ["ro"], f"{name}: {volume}"


def test_volumes_are_where_the_image_keeps_things(
    services: dict[str, dict[str, Any]], final: Stage
) -> None:
    for name in OURS:
        targets = [volume.split(":")[1] for volume in services[name]["volumes"]]
        assert set(final.last("VOLUME").words()) <= set(targets), name


def test_photographs_are_only_read(services: dict[str, dict[str, Any]]) -> None:
    for name in ("mmsearch", "index", "watch"):
        assert "/srv/photos:/photos:ro" in services[name]["volumes"]
    assert not [v for v in services["keys"]["volumes"] if "photos" in v]


def test_secrets_are_left_out_of_git() -> None:
    ignored = (DEPLOY / ".gitignore").read_text().splitlines()
    assert {"/secrets/", "/.env"} <= set(ignored)
    for secret in load("compose.yaml")["secrets"].values():
        assert secret["file"].startswith("./secrets/")


def test_keys_are_read_where_the_secret_is(services: dict[str, dict[str, Any]]) -> None:
    one = services["mmsearch"]
    (secret,) = one["secrets"]
    assert one["environment"]["MMSEARCH_KEYS_FILE"] == f"/run/secrets/{secret}"
    made = Path(services["keys"]["environment"]["MMSEARCH_KEYS_FILE"])
    folder = next(v for v in services["keys"]["volumes"] if v.startswith("./secrets"))
    file = load("compose.yaml")["secrets"][secret]["file"]
    assert folder.split(":")[1] == str(made.parent)
    assert Path(file).name == made.name


@pytest.mark.parametrize("name", [*OURS, "prometheus", "grafana"])
def test_no_container_has_more_rights_than_it_needs(
    services: dict[str, dict[str, Any]], name: str
) -> None:
    one = services[name]
    assert one["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in one["security_opt"]
    assert not {"privileged", "cap_add", "pid", "user", "devices"} & one.keys()
    assert not [v for v in one.get("volumes", []) if "docker.sock" in v]
    if name in OURS:
        assert one["read_only"] is True
        assert one["tmpfs"] == ["/tmp"]


def test_commands_are_command_lines_of_ours(
    services: dict[str, dict[str, Any]], final: Stage
) -> None:
    entry, command = final.last("ENTRYPOINT").words(), final.last("CMD").words()
    ran = {}
    for name in OURS:
        one = services[name]
        words = [*one.get("entrypoint", entry), *one.get("command", command)]
        assert words[0] == entry[0]
        ran[name] = command_of(words[1:])
    assert ran == {"mmsearch": "serve", "index": "index", "watch": "watch", "keys": "keys list"}


def test_jobs_are_not_asked_for_their_health(services: dict[str, dict[str, Any]]) -> None:
    assert "healthcheck" not in services["mmsearch"]  # the image's own
    for name in ("index", "watch", "keys"):
        assert services[name]["healthcheck"] == {"disable": True}


def test_images_are_pinned(services: dict[str, dict[str, Any]]) -> None:
    for name, one in services.items():
        assert re.search(r":v?\d+\.\d+\.\d+[\w.-]*$", one["image"]), name
        if name in OURS:
            assert one["image"] == f"mmsearch:{mmsearch.__version__}-cpu"
            assert (DEPLOY / one["build"]["context"] / one["build"]["dockerfile"]).is_file()


def test_gpu_changes_the_image_and_nothing_else(services: dict[str, dict[str, Any]]) -> None:
    gpu = load("compose.gpu.yaml")["services"]
    assert set(gpu) == set(OURS)
    for name, one in gpu.items():
        assert one.keys() <= {"image", "build", "deploy"}
        assert one["image"] == services[name]["image"].replace("-cpu", "-cuda")
        assert (DEPLOY / one["build"]["context"] / one["build"]["dockerfile"]).is_file()


def every_string(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from every_string(key)
            yield from every_string(value)
    elif isinstance(node, list):
        for value in node:
            yield from every_string(value)
    elif isinstance(node, str):
        yield node


def test_no_secret_stands_in_a_file(compose: dict[str, Any]) -> None:
    assert not [text for text in every_string(compose) if re.search(r"mms_\w{20}", text)]
    for one in compose["services"].values():
        for name in one.get("environment", {}):
            assert not re.search(r"(PASSWORD|TOKEN|SECRET|_KEY)$", name), name


def test_the_documentation_names_every_file() -> None:
    told = (DEPLOY / "deployment.md").read_text(encoding="utf-8")
    files = [p for p in DEPLOY.rglob("*") if p.is_file() and p.suffix != ".md"]
    private = {".env", ".gitignore"}
    missing = [
        str(p.relative_to(DEPLOY))
        for p in files
        if not {"screenshots", "secrets"} & set(p.parts)
        and p.name not in private
        and p.name not in told
        and p.parent.name != "provisioning"
        and "grafana" not in p.parts
    ]
    assert missing == []


def test_the_documentation_gives_real_commands() -> None:
    told = (DEPLOY / "deployment.md").read_text(encoding="utf-8")
    services = load("compose.yaml")["services"]
    found = []
    for line in re.findall(r"^[$#] (.+)$", told, re.M):
        line = re.sub(r"\s+#.*|\s+\|.*|\$\(date [^)]*\)", "", line)
        if match := re.match(r"docker compose run (?:--rm |-T |-v \S+ )+(\w+) ?(.*)", line):
            entry = services[match[1]].get("entrypoint", ["mmsearch"])[1:]
            given = match[2].split() or services[match[1]]["command"]
            found.append(command_of([*entry, *given]))
        elif line.startswith(("run ", "mmsearch ")):
            found.append(command_of(line.split()[1:]))
    assert set(found) == {"index", "keys add", "keys revoke", "backup"}
    assert len(found) == 9
