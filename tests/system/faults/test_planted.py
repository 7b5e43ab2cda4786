"""What somebody has put into the state folder before: links there lead nowhere, and a folder of others is not used."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.ablate import ablate_in_process
from tests.support.processes import STUDY, Workspace

pytestmark = pytest.mark.timeout(300)


@pytest.mark.slow
def test_links_in_the_state_folder_lead_nowhere(workspace: Workspace, tmp_path: Path) -> None:
    workspace.file.write_text(STUDY.replace("[ga, pm]", "[ga]"))
    first, second = (
        run["digest"] for run in workspace.call_grid("--seeds", "1", "--dry-run", "--json").json()["cells"]
    )
    victims = tmp_path / "victims"
    victims.mkdir()

    def plant(name: str) -> Path:
        victim, link = victims / name.replace("/", "-"), workspace.state / name
        victim.write_text("theirs")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(victim)
        return link

    for name in (
        "work/preflight.log",
        f"work/{first}/log.txt",
        f"work/{first}/confusion.png",
        "reports/small/report.md",
    ):
        plant(name)
    (workspace.state / "work" / second).symlink_to(victims, target_is_directory=True)
    grid = workspace.call_grid("--seeds", "1")
    assert grid.code == 0, grid.err
    assert workspace.call("report", "small").code == 0
    assert not (workspace.state / "reports" / "small" / "report.md").is_symlink()
    for name in ("mlflow.db.init-lock", "journal/claims/parent"):
        link = plant(name)
        refused = workspace.call_grid("--seeds", "1", "--fresh")
        assert refused.code == 3 and "a link, which is not followed: take it away" in refused.line
        link.unlink()
    assert {path.read_text() for path in victims.iterdir()} == {"theirs"}
    assert len(list(victims.iterdir())) == 6


@pytest.mark.parametrize("words", ["run --model test_resnet --dataset digits --study quickstart", "sync"])
def test_a_state_folder_for_everybody_is_refused(words: str, tmp_path: Path) -> None:
    (tmp_path / "mlruns").mkdir()
    (tmp_path / "mlruns").chmod(0o777)
    found = ablate_in_process(*words.split(), cwd=tmp_path)
    assert found.code == 2 and "mlruns: everybody may write into it; chmod o-w mlruns" in found.line
    assert list((tmp_path / "mlruns").iterdir()) == []
