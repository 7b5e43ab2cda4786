"""Set-up and its lock, Dockerfile, compose file and MLproject: checked by what knows them, their commands are run."""

from __future__ import annotations

import ast
import configparser
import importlib.metadata
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pipeline import __version__
from pipeline.import_path import DISTRIBUTION
from tests.support.ablate import environment
from tests.support.processes import Workspace, assert_once

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "docker" / "Dockerfile"
COMPOSE = ROOT / "docker" / "compose.yaml"


def tool(name: str) -> str:
    """A program that the test extra installs."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert found, f"{name} is not installed; `make test` installs it"
    return found


def checked(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


def instructions(text: str) -> list[tuple[str, str]]:
    """(instruction, rest) of a Dockerfile, continued lines joined."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines())]


def compose() -> dict[str, Any]:
    return dict(yaml.safe_load(COMPOSE.read_text()))


def test_hadolint_finds_nothing(tmp_path: Path) -> None:
    found = checked(tool("hadolint"), "--no-color", str(DOCKERFILE))
    assert found.returncode == 0, found.stdout
    bad = tmp_path / "Dockerfile"
    bad.write_text(DOCKERFILE.read_text().replace("3.11.13-slim-bookworm", "latest"))
    bad.write_text(bad.read_text().replace("ARG BASE=python:latest\n", "").replace("${BASE}", "python:latest"))
    assert checked(tool("hadolint"), str(bad)).returncode != 0, "the check can fail"


def test_compose_is_what_its_schema_says(tmp_path: Path) -> None:
    words = [tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec"]
    found = checked(*words, str(COMPOSE))
    assert found.returncode == 0, found.stdout + found.stderr
    bad = tmp_path / "compose.yaml"
    bad.write_text(COMPOSE.read_text().replace("depends_on:", "depend_on:", 1))
    assert checked(*words, str(bad)).returncode != 0, "the check can fail"


def set_up() -> list[str]:
    """The commands of the Makefile's `.venv/.ready`."""
    made = checked("make", "-n", "-B", "-C", str(ROOT), ".venv/.ready").stdout
    return [line.strip() for line in made.splitlines()]


def test_every_run_line_is_a_command_that_is_run_here(tmp_path: Path) -> None:
    of_make = set(set_up())  # what `make test` itself has run before the first test
    of_ci = {line.strip() for line in (ROOT / ".ci" / "run").read_text().splitlines()}
    for word, command in instructions(DOCKERFILE.read_text()):
        if word != "RUN" or command in of_make or command in of_ci:
            continue
        words = shlex.split(command)
        assert words[:3] == ["mkdir", "-m", "1777"], f"RUN {command}: no test runs it"
        places = [str(tmp_path / name.strip("/")) for name in words[3:]]
        subprocess.run([*words[:3], *places], check=True, timeout=10)
        for place in places:
            assert Path(place).stat().st_mode & 0o7777 == 0o1777
            Path(place, "file").touch()


def locked(lock: Path = ROOT / "requirements.lock") -> dict[str, list[Requirement]]:
    """What a lock pins, under canonical names; for some, the version depends on Python's."""
    text = lock.read_text()
    entries = [line for line in text.replace("\\\n", " ").splitlines() if not line.lstrip().startswith("#")]
    found = defaultdict(list)
    for entry in entries:
        pin, *hashes = re.split(r"\s+--hash=sha256:", entry.rstrip())
        assert hashes and all(re.fullmatch("[0-9a-f]{64}", digest) for digest in hashes), f"{pin} has no hash"
        requirement = Requirement(pin)
        found[canonicalize_name(requirement.name)].append(requirement)
    return found


def declared() -> dict[str, list[Requirement]]:
    """setup.cfg's requirements by extra; those of everyone under the empty name."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    texts = {"": parser["options"]["install_requires"], **parser["options.extras_require"]}
    return {extra: [Requirement(line) for line in text.split("\n") if line] for extra, text in texts.items()}


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_lock_has_one_hashed_version_of_everything(python: str, machine: str) -> None:
    host = {"python_version": python, "python_full_version": f"{python}.0", "platform_machine": machine}
    host |= {"sys_platform": "linux", "os_name": "posix", "platform_system": "Linux", "extra": ""}
    pins = {
        name: [str(pin.specifier).removeprefix("==") for pin in found if not pin.marker or pin.marker.evaluate(host)]
        for name, found in locked().items()
    }
    assert all(len(versions) <= 1 for versions in pins.values())
    with (ROOT / "pyproject.toml").open("rb") as file:  # `-e .` is built without isolation
        of_build = [Requirement(text) for text in tomllib.load(file)["build-system"]["requires"]]
    for requirement in [*of_build, *(one for requirements in declared().values() for one in requirements)]:
        if requirement.marker and not requirement.marker.evaluate(host):
            continue
        assert pins.get(canonicalize_name(requirement.name)), f"{requirement} is not in the lock"
        (version,) = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement}: the lock has {version}"


def pins_of(lock: Path) -> set[str]:
    """Each pin of a lock with its hashes, without its marker: other extras bring a package under other conditions."""
    joined = "\n".join(line for line in lock.read_text().splitlines() if not line.lstrip().startswith("#"))
    entries = [entry.split() for entry in joined.replace("\\\n", " ").splitlines()]
    return {" ".join([words[0], *(word for word in words if word.startswith("--hash"))]) for words in entries}


def test_the_image_has_the_versions_of_the_lock_and_no_tool_of_the_tests() -> None:
    lock = ROOT / "docker" / "requirements.lock"
    assert pins_of(lock) < pins_of(ROOT / "requirements.lock")
    held, declarations = set(locked(lock)), declared()
    of_image = [declarations.pop(extra) for extra in ("", "setup", "ray", "dashboard", "postgres")]
    assert {canonicalize_name(one.name) for requirements in of_image for one in requirements} <= held
    tools = {canonicalize_name(one.name) for requirements in declarations.values() for one in requirements}
    assert {"pytest", "mypy", "hypothesis"} <= tools and not tools & held
    assert (
        "docker/requirements.lock ./"
        in dict(instructions(DOCKERFILE.read_text()[: DOCKERFILE.read_text().index("RUN")]))["COPY"]
    )
    renewed = checked("make", "-n", "-C", str(ROOT), "lock").stdout
    assert "-c requirements.lock -o docker/requirements.lock" in renewed and renewed.count("--generate-hashes") == 2


@pytest.mark.parametrize(
    "answer", ["Found 3 known vulnerabilities in 1 package", "No known vulnerabilities found", "Error"]
)
def test_an_audit_says_when_nothing_was_checked(answer: str, tmp_path: Path) -> None:
    folder = checkout(tmp_path / "clone")
    assert made(folder) == 0
    known = f'case "$*" in *known.txt) echo "{answer}" >&2; exit 1 ;; esac'
    (folder / ".venv" / "bin" / "uv").write_text(f'#!/bin/sh\n{known}\necho uv "$@"\n')
    words = ["make", "-s", "-C", str(folder), "audit"]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 1, done.stderr
    if answer.startswith("Found"):
        assert done.stdout.startswith("uv tool run pip-audit==") and "-r requirements.lock" in done.stdout
    else:
        assert done.stdout.startswith("audit: nothing was checked")


def test_nothing_is_installed_without_its_hash(tmp_path: Path) -> None:
    commands = [shlex.split(line) for line in set_up()]
    installs = [words for words in commands if {"install", "sync"} & set(words)]
    *from_files, own = installs
    assert own[-4:] == ["--no-deps", "--no-build-isolation", "-e", "."], "ours alone, built with what the lock has"
    assert all("--require-hashes" in words for words in from_files)
    assert [words[-1] for words in from_files] == [".venv/uv.txt", "requirements.lock"]
    (cut,) = [line for line in set_up() if line.endswith("> .venv/uv.txt")]
    (tmp_path / ".venv").mkdir()
    (tmp_path / "requirements.lock").symlink_to(ROOT / "requirements.lock")
    subprocess.run(["sh", "-c", cut], cwd=tmp_path, check=True, timeout=10)
    kept = [line for line in (tmp_path / ".venv" / "uv.txt").read_text().splitlines() if "#" not in line]
    assert kept[0].startswith("uv==") and kept[1:] and all("--hash=sha256:" in line for line in kept[1:])
    renewing = checked("make", "-n", "-C", str(ROOT), "lock").stdout
    assert "--generate-hashes" in renewing and "--universal" in renewing


PYTHON = """\
#!/bin/sh
case "$*" in
"-m pip config list") exec {python} "$@" ;;
"-m venv .venv") mkdir -p .venv/bin .venv/lib && cp "$0" .venv/bin/python && cp uv .venv/bin/uv ;;
esac
"""
UV = """\
#!/bin/sh
echo "$UV_DEFAULT_INDEX" > index
echo "$2" >> .venv/lib/installed
if [ -e kill ]; then kill -KILL $PPID; fi
"""


def checkout(folder: Path) -> Path:
    """A folder in which `make` finds a Python and a uv that only say what they did."""
    folder.mkdir()
    shutil.copy(ROOT / "Makefile", folder)
    for name in ("requirements.lock", "setup.cfg", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    for name, text in (("python", PYTHON.format(python=sys.executable)), ("uv", UV)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


def made(folder: Path, **variables: str) -> int:
    words = ["make", "-C", str(folder), "PYTHON=./python", ".venv/.ready"]
    kept = {name: value for name, value in environment().items() if not name.startswith(("MAKE", "PIP_", "UV_"))}
    return subprocess.run(words, env={**kept, **variables}, capture_output=True, timeout=60, check=False).returncode


def test_a_set_up_that_was_killed_does_not_count_and_leaves_nothing(tmp_path: Path) -> None:
    folder = checkout(tmp_path / "clone")
    ready, installed = folder / ".venv" / ".ready", folder / ".venv" / "lib" / "installed"
    (folder / "kill").touch()
    assert made(folder) != 0 and not ready.exists() and installed.read_text() == "sync\n"
    (folder / "kill").unlink()
    assert made(folder) == 0 and ready.exists()
    assert installed.read_text() == "sync\ninstall\n", "the half that was there is gone"
    installed.unlink()
    assert made(folder) == 0 and not installed.exists(), "what is ready is left alone"
    os.utime(folder / "requirements.lock", (ready.stat().st_mtime + 5,) * 2)
    (folder / "kill").touch()
    (folder / ".venv" / "mark").touch()
    assert made(folder) != 0 and not ready.exists(), "nor does what was ready before, half renewed"
    assert (folder / ".venv" / "mark").exists(), "a whole one is renewed in place"
    (folder / "kill").unlink()
    assert made(folder) == 0 and ready.exists() and not (folder / ".venv" / "mark").exists()


def test_uv_takes_the_index_that_pip_would(tmp_path: Path) -> None:
    folder = checkout(tmp_path / "clone")
    configured = tmp_path / "pip" / "pip.conf"
    configured.parent.mkdir()
    configured.write_text("[global]\nindex-url = http://configured/simple\n")
    cases = [
        ("", {"PIP_CONFIG_FILE": os.devnull}),
        ("http://configured/simple", {"XDG_CONFIG_HOME": str(tmp_path)}),
        ("http://pip/simple", {"XDG_CONFIG_HOME": str(tmp_path), "PIP_INDEX_URL": "http://pip/simple"}),
        ("http://uv/simple", {"PIP_INDEX_URL": "http://pip/simple", "UV_DEFAULT_INDEX": "http://uv/simple"}),
    ]
    for expected, variables in cases:
        shutil.rmtree(folder / ".venv", ignore_errors=True)
        assert made(folder, **variables) == 0
        assert (folder / "index").read_text() == f"{expected}\n"


def test_nobody_is_told_to_install_another_project_of_this_name() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert setup["metadata"]["name"] == DISTRIBUTION and importlib.metadata.version(DISTRIBUTION) == __version__
    files = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "pipeline").rglob("*.py")]
    wrong = re.compile(r"pip install [^\n`]*(?<![\w/-])ablate(?![\w/-])")
    assert not [file for file in files if wrong.search(file.read_text())]
    assert wrong.search("pip install -q 'ablate[ray]'") and not wrong.search("pip install 'ablate-training[ray]'")


def test_what_is_required_is_imported() -> None:
    names: set[str] = set()
    for path in (ROOT / "pipeline").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    of = importlib.metadata.packages_distributions()
    imported = {canonicalize_name(distribution) for name in names for distribution in of.get(name, [])}
    required = {canonicalize_name(requirement.name) for requirement in declared()[""]}
    assert required and required <= imported, f"only installed: {required - imported}"


def test_the_image_holds_no_secret_and_runs_as_nobody_special() -> None:
    found = instructions(DOCKERFILE.read_text())
    final = [word for word, _ in found].index("FROM", 3)
    last = dict(found[final:])
    assert last["USER"] == "10001:10001" and last["ENTRYPOINT"] == '["ablate"]'
    bases = [rest for word, rest in found if word == "ARG"]
    assert bases == ["BASE=python:3.11.13-slim-bookworm"]
    copied = {name for word, rest in found if word == "COPY" and "--from" not in rest for name in rest.split()[:-1]}
    allowed = (ROOT / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in allowed and copied == {line[1:] for line in allowed if line.startswith("!")}
    assert all((ROOT / name).exists() for name in copied)
    assert not [rest for word, rest in found if word in ("ARG", "ENV") and ("PASSWORD" in rest or "SECRET" in rest)]


def test_no_check_of_health_disturbs_a_measurement() -> None:
    """Each is run here, in vain: what it costs is its start. `ablate doctor` took 7 s, `ray health-check` 2 s."""
    last = dict(instructions(DOCKERFILE.read_text()))["HEALTHCHECK"]
    services = compose()["services"]
    checks = {name: one["healthcheck"] for name, one in services.items() if "healthcheck" in one}
    assert checks.keys() == {"postgres", "mlflow", "ray-head", "ray-worker"}
    commands = {name: one["test"][1:] for name, one in checks.items()} | {
        "image": yaml.safe_load(last.partition("CMD ")[2])
    }
    assert all(one["interval"] == "2m" and one["start_interval"] == "2s" for one in checks.values())
    for name, words in commands.items():
        if name == "postgres":
            assert words[0] == "pg_isready"
            continue
        here = [sys.executable if word == "python" else word.replace("ray-head", "127.0.0.1") for word in words]
        before = os.times()
        done = subprocess.run(here, capture_output=True, text=True, timeout=30, check=False)
        after = os.times()
        used = after.children_user + after.children_system - before.children_user - before.children_system
        assert used < 0.5, f"{name}: {used:.2f} s"
        assert name == "image" or (done.returncode == 1 and "refused" in done.stderr), done.stderr


def test_every_service_gives_up_what_it_does_not_need() -> None:
    for name, service in compose()["services"].items():
        assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"], name
        assert name == "postgres" or "cap_add" not in service


def test_only_the_tracking_port_is_published_and_secrets_are_files() -> None:
    services = compose()["services"]
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert published == {"mlflow": ["127.0.0.1:5000:5000"]}
    assert all(set(secret) == {"file"} for secret in compose()["secrets"].values())
    text = COMPOSE.read_text()
    assert "POSTGRES_PASSWORD:" not in text and "RAY_AUTH_TOKEN:" not in text and "disabled" not in text
    ignored = checked("git", "-C", str(ROOT), "check-ignore", "docker/secrets/postgres_password")
    assert ignored.returncode == 0, "secrets cannot be committed by accident"
    for name in ("ablate", "ray-worker"):
        (device,) = services[name]["deploy"]["resources"]["reservations"]["devices"]
        assert device["driver"] == "nvidia" and "gpu" in device["capabilities"]
    assert services["ray-head"]["profiles"] == services["ray-worker"]["profiles"] == ["ray"]
    assert services["mlflow"]["depends_on"]["postgres"]["condition"] == "service_healthy"


STUDY = """\
models: [test_resnet]
datasets: [digits]
techniques: [ga]
recipe: {image_size: 16, max_train_samples: 96, max_test_samples: 50, warmup_windows: 1}
"""


@pytest.mark.slow
def test_mlflow_run(tmp_path: Path) -> None:
    work = Workspace(tmp_path / "work", study=STUDY)
    uri = f"sqlite:///{work.database}"
    project = tmp_path / "project"  # a project is run in its own folder: not in the one of the sources
    project.mkdir()
    for name in ("MLproject", "python_env.yaml", "requirements.lock", "pipeline", "experiments"):
        (project / name).symlink_to(ROOT / name)
    words = ["run", str(project), "--env-manager", "local", "--experiment-name", "project"]
    given = {"study": str(work.file), "device": "cpu", "data_dir": str(tmp_path / "data")}
    for name, value in given.items():
        words += ["-P", f"{name}={value}"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = environment(MLFLOW_TRACKING_URI=uri, PATH=path)
    work.state.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "mlflow", *words],
        cwd=work.folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert_once(work.rows(), 2)


@pytest.mark.parametrize("service", ["mlflow", "ray-head", "ray-worker"])
def test_services_call_programs_with_options_that_they_have(service: str) -> None:
    found = compose()["services"][service]
    command = " ".join(map(str, [*found["entrypoint"], *found["command"]]))
    module, words = ("mlflow", ["server"]) if service == "mlflow" else ("ray.scripts.scripts", ["start"])
    help_text = checked(sys.executable, "-m", module, *words, "--help").stdout
    options = {word.partition("=")[0] for word in command.split() if word.startswith("--")}
    assert options and not [option for option in options if option not in help_text]
