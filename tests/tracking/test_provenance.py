"""Facts about program and host, and no secrets."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pipeline
from pipeline.tracking import provenance
from pipeline.tracking.provenance import cpu_facts, host_provenance, source_digest


def test_facts_are_named_and_hold_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "verysecretvalue")
    host_provenance.cache_clear()
    facts = host_provenance()
    assert facts["env.ablate"] == pipeline.__version__
    assert facts["env.python"] == ".".join(str(part) for part in sys.version_info[:3])
    assert {"env.hostname", "env.cpu", "env.cpu_count", "env.torch", "env.scikit_learn"} <= set(facts)
    assert all(isinstance(value, str) and "verysecret" not in value for value in facts.values())


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("flags\t\t: fpu avx512_bf16 amx_bf16 sse", "avx512_bf16, amx_bf16"),
        ("Features\t: fp asimd bf16", "bf16"),
        ("flags\t\t: fpu sse avx2", "none"),
    ],
)
def test_the_processor_s_instructions_for_bfloat16_are_named(line: str, expected: str) -> None:
    assert cpu_facts(f"model name\t: A\n{line}\n") == {"cpu": "A", "cpu_bf16": expected}
    assert "cpu_bf16" not in cpu_facts(""), "not known"


def test_no_program_of_the_folder_is_started_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = platform.platform()
    for program in ("uname", "git", "lscpu"):
        (tmp_path / program).write_text(f"#!/bin/sh\ntouch {tmp_path}/started; echo ours\n")
        (tmp_path / program).chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f".:{os.environ['PATH']}")
    for cached in (platform._uname_cache, platform._platform_cache):  # type: ignore[attr-defined]
        assert cached, "asked before"
    monkeypatch.setattr(platform, "_uname_cache", None)
    monkeypatch.setattr(platform, "_platform_cache", {})
    host_provenance.cache_clear()
    provenance._git.cache_clear()
    assert host_provenance()["env.platform"] == named
    assert not (tmp_path / "started").exists()


def test_the_commit_is_that_of_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "pipeline" / "tracking" / "provenance.py"
    module.parent.mkdir(parents=True)
    shutil.copyfile(provenance.__file__, module)
    monkeypatch.setattr(provenance, "__file__", str(module))

    def facts() -> dict[str, str]:
        provenance._git.cache_clear()
        return provenance._git()

    assert facts() == {}, "no checkout"
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e@x"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *words], check=True)
    assert facts()["git_dirty"] == "false" and len(facts()["git_commit"]) == 40
    (tmp_path / "new").write_text("")
    assert facts()["git_dirty"] == "true"
    provenance._git.cache_clear()


def test_the_digest_of_the_sources_changes_with_any_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "pipeline" / "tracking" / "provenance.py"
    module.parent.mkdir(parents=True)
    module.write_text("a = 1\n")
    monkeypatch.setattr(provenance, "__file__", str(module))

    def digest() -> str:
        source_digest.cache_clear()
        return source_digest()

    first = digest()
    (tmp_path / "pipeline" / "notes.txt").write_text("no source")
    assert digest() == first and len(first) == 16
    module.rename(module.with_name("another.py"))
    moved = digest()
    module.write_text("a = 1\n")
    assert len({first, moved, digest()}) == 3
    source_digest.cache_clear()
