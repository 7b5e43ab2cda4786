"""Student's t against scipy.stats."""

import numpy as np

from pipeline.analysis import student_t


def test_students_t_is_that_of_scipy_stats_without_its_import():
    import subprocess
    import sys

    from scipy import stats

    dof, p, x = np.array([[1.0], [1.7], [7], [1e4]]), np.array([0.6, 0.975, 1 - 1e-9]), np.array([0.0, 2.5, 60])
    np.testing.assert_allclose(student_t.quantile(p, dof), stats.t.ppf(p, dof), rtol=1e-12)
    np.testing.assert_allclose(student_t.upper_tail(x, dof), stats.t.sf(x, dof), rtol=1e-12)
    imports = "import sys, pipeline.analysis.report.report, pipeline.analysis.paper.audit"
    code = f"{imports}; print('scipy.stats' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "False"
