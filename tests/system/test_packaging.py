"""Dockerfile, compose file and MLproject: checked by the tools that know them, and their commands are run."""

from __future__ import annotations

import ast
import configparser
import importlib.metadata
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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


def test_every_run_line_is_a_command_that_is_run_here(tmp_path: Path) -> None:
    made = checked("make", "-n", "-B", "-C", str(ROOT), ".venv/.ready").stdout.splitlines()
    of_make = {line.strip() for line in made}  # what `make test` itself has run before the first test
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


def declared() -> dict[str, list[Requirement]]:
    """setup.cfg's requirements by extra; those of everyone under the empty name."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    texts = {"": parser["options"]["install_requires"], **parser["options.extras_require"]}
    return {extra: [Requirement(line) for line in text.split("\n") if line] for extra, text in texts.items()}


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
    assert last["USER"] == "10001:10001" and last["ENTRYPOINT"] == '["ablate"]' and "ablate" in last["HEALTHCHECK"]
    bases = [rest for word, rest in found if word == "ARG"]
    assert bases == ["BASE=python:3.11.13-slim-bookworm"]
    copied = {name for word, rest in found if word == "COPY" and "--from" not in rest for name in rest.split()[:-1]}
    allowed = (ROOT / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in allowed and copied == {line[1:] for line in allowed if line.startswith("!")}
    assert all((ROOT / name).exists() for name in copied)
    assert not [rest for word, rest in found if word in ("ARG", "ENV") and ("PASSWORD" in rest or "SECRET" in rest)]


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
