"""What the analysis loads: it runs in the process of a command, not in that of a run."""

import pkgutil
import subprocess
import sys

import pipeline.analysis

MODULES = [info.name for info in pkgutil.walk_packages(pipeline.analysis.__path__, "pipeline.analysis.")]


def test_no_module_loads_training_tracking_or_the_command_line():
    assert {"pipeline.analysis.effects", "pipeline.analysis.report.files", "pipeline.analysis.paper.audit"} <= {
        *MODULES
    }
    code = f"import sys, {', '.join(MODULES)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert set(MODULES) <= loaded
    # statistics and drawing are imported by the functions that need them: scipy.stats alone takes a second
    assert not {"torch", "mlflow", "click", "optuna", "statsmodels", "scipy.stats", "matplotlib"} & loaded
