"""How a study was run, on its page."""

from dataclasses import replace

from pipeline.analysis.report.conditions import conditions
from tests.support.planted import planted
from tests.support.reports import pages_of, report_of

COMMAND = "ablate grid --study planted --seeds 2"


def study_with_conditions():
    study = planted(models=("m1", "m2"), blocks=2)
    runs = study.runs
    runs["params.recipe.epochs"] = runs["params.model"].map({"m1": "3", "m2": "5"})
    runs["params.recipe.optimizer"] = "adamw"
    for name, value in {
        "classes": "10",
        "train_images": "1212",
        "validation_images": "135",
        "test_images": "450",
    }.items():
        runs[f"tags.data.{name}"] = value
    for name, value in {"torch": "2.15.0", "ablate": "0.1.0", "git_commit": "a" * 40, "gpu_driver": "570.1"}.items():
        runs[f"tags.env.{name}"] = value
    return replace(study, commands=(COMMAND,))


def test_command_recipe_data_and_versions_are_on_the_page():
    report = report_of(study_with_conditions())
    found = conditions(report)
    assert found.reproduce == COMMAND and found.seeds == ("0", "1")
    assert found.recipe["optimizer"] == "adamw" and "epochs" not in found.recipe, "they differ"
    assert found.own == {"m1": {"epochs": "3"}, "m2": {"epochs": "5"}}
    assert found.data["m1"] == {"classes": 10, "train images": 1212, "validation images": 135, "test images": 450}
    assert found.versions["torch"] == "2.15.0" and found.versions["ablate"] == f"0.1.0; commit {'a' * 12}"
    assert "driver 570.1" in found.versions["device"]
    for page in pages_of(report):
        plain = page.replace("\\", "")
        for words in (COMMAND, "optimizer adamw", "1,212", "2.15.0", "driver 570.1", "batch size 128"):
            assert words in plain, words


def test_a_store_of_an_earlier_version_says_that_it_has_no_command():
    report = report_of(planted(blocks=1))
    assert conditions(report).commands == ()
    assert all("The command was not recorded." in page for page in pages_of(report))
