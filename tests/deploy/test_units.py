"""The systemd units: understood by systemd, tight, in step with mmsearch."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import click
import pytest
from words import command_of

from mmsearch.serve.guard import is_loopback
from mmsearch.serve.server import SHUTDOWN_S
from mmsearch.settings import Settings

UNITS = Path(__file__).parents[2] / "deploy" / "systemd"
NAMES = ("mmsearch.service", "mmsearch-watch.service")
DROP_IN = "mmsearch-gpu.conf"
#: systemd's own measure, of 10: what `systemd-analyze security` calls OK.
EXPOSURE = 2.0

Options = dict[tuple[str, str], list[str]]


def options_of(name: str) -> Options:
    """(section, option) → its values; systemd lets one stand several times."""
    found: Options = {}
    section = ""
    for line in (UNITS / name).read_text(encoding="utf-8").splitlines():
        if match := re.fullmatch(r"\[(\w+)\]", line):
            section = match[1]
        elif line and not line.startswith("#"):
            option, equals, value = line.partition("=")
            assert equals, line
            found.setdefault((section, option), []).append(value)
    return found


def variables_of(options: Options) -> dict[str, str]:
    values = options.get(("Service", "Environment"), [])
    return dict(word.split("=", 1) for value in values for word in shlex.split(value))


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def options(name: str) -> Options:
    return options_of(name)


@pytest.fixture
def analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        pytest.skip("THE UNITS ARE NOT VERIFIED: no systemd-analyze (apt-get install systemd)")
    return found


@pytest.fixture
def installed(name: str, tmp_path: Path) -> Path:
    """The unit, with a program that is there in the place of the installed one."""
    text = (UNITS / name).read_text(encoding="utf-8")
    path = tmp_path / name
    path.write_text(text.replace("/opt/mmsearch/bin/mmsearch", shutil.which("true") or ""))
    return path


def verified(analyze: str, unit: Path) -> str:
    """What systemd says against a unit."""
    done = subprocess.run([analyze, "verify", "--man=no", unit], capture_output=True, text=True)
    said = (done.stdout + done.stderr).splitlines()
    # Of other units of this machine, and of users that are not made here, it says more.
    return "\n".join(line for line in said if unit.name in line or str(unit) in line)


def test_systemd_understands_every_line(analyze: str, installed: Path) -> None:
    assert verified(analyze, installed) == ""
    text = installed.read_text()
    installed.write_text(text.replace("NoNewPrivileges=yes", "NoNewPriviledges=yes"))
    assert "NoNewPriviledges" in verified(analyze, installed)


def test_systemd_understands_the_drop_in(analyze: str, installed: Path) -> None:
    folder = installed.with_name(f"{installed.name}.d")
    folder.mkdir()
    shutil.copy(UNITS / DROP_IN, folder / "gpu.conf")
    assert verified(analyze, installed) == ""
    (folder / "gpu.conf").write_text("[Service]\nPrivateDevice=no\n")
    done = subprocess.run([analyze, "verify", "--man=no", installed], capture_output=True)
    assert b"PrivateDevice" in done.stderr  # so the drop-in is read


def test_systemd_finds_it_tight(analyze: str, installed: Path) -> None:
    asked = [analyze, "security", "--offline=true", "--no-pager", installed]
    done = subprocess.run(asked, capture_output=True, text=True)
    if "unrecognized option" in done.stderr:
        pytest.skip("THE UNITS ARE NOT MEASURED: this systemd-analyze is older than 250")
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert float(found[1]) <= EXPOSURE, done.stdout


def test_its_commands_are_command_lines_of_ours(name: str, options: Options) -> None:
    (line,) = options["Service", "ExecStart"]
    program, *words = shlex.split(line)
    assert program == "/opt/mmsearch/bin/mmsearch"
    assert command_of(words) == {NAMES[0]: "serve", NAMES[1]: "watch"}[name]
    with pytest.raises(click.UsageError):
        command_of([*words, "--no-such-option"])


@pytest.mark.parametrize("file", [*NAMES, DROP_IN])
def test_its_variables_are_settings(file: str) -> None:
    given = variables_of(options_of(file))
    ours = {n[9:].lower(): v for n, v in given.items() if n.startswith("MMSEARCH_")}
    assert ours
    assert ours.keys() <= set(Settings.model_fields)
    Settings(**ours)


def test_everything_is_written_where_it_may_be(options: Options) -> None:
    state = Path("/var/lib") / options["Service", "StateDirectory"][0]
    cache = Path("/var/cache") / options["Service", "CacheDirectory"][0]
    given = variables_of(options)
    assert Path(given["MMSEARCH_LIBRARY"]).is_relative_to(state)
    for variable in ("HOME", "XDG_CACHE_HOME", "HF_HOME"):
        assert Path(given[variable]).is_relative_to(cache)
    assert options["Service", "ProtectSystem"] == ["strict"]


def test_both_mean_the_same_library_user_and_models() -> None:
    serve, watch = map(options_of, NAMES)
    for option in ("User", "Group", "StateDirectory", "CacheDirectory", "UMask", "EnvironmentFile"):
        assert serve["Service", option] == watch["Service", option]
    one, other = variables_of(serve), variables_of(watch)
    assert one == other | {"HF_HUB_OFFLINE": "1", "MMSEARCH_LOG_FORMAT": "json"}


def test_both_are_hardened_alike() -> None:
    def walls(name: str) -> Options:
        wall = re.compile(r"Protect|Private|Restrict|System|Capab|NoNew|Lock|Key|Remove|Ambient")
        return {what: v for what, v in options_of(name).items() if wall.match(what[1])}

    assert walls(NAMES[0]) == walls(NAMES[1])


def test_service_reaches_this_machine_only(options: Options, name: str) -> None:
    if name == NAMES[0]:
        assert options["Service", "IPAddressDeny"] == ["any"]
        assert options["Service", "IPAddressAllow"] == ["localhost"]
    assert is_loopback(str(Settings.model_fields["host"].default))
    assert "MMSEARCH_HOST" not in variables_of(options)


def test_stop_waits_for_what_is_in_flight(options: Options) -> None:
    assert int(options["Service", "TimeoutStopSec"][0]) > 2 * SHUTDOWN_S
    assert ("Service", "KillSignal") not in options  # SIGTERM, which both end well by
    assert options["Install", "WantedBy"] == ["multi-user.target"]


def test_machine_code_may_be_written() -> None:
    """PyTorch's oneDNN does: this would stop the service at its first query."""
    for name in NAMES:
        assert ("Service", "MemoryDenyWriteExecute") not in options_of(name)
