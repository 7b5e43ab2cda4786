"""Parameter importances and plots of a search, by Optuna."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from pipeline.analysis.report import drawing
from pipeline.paths import write_atomically
from pipeline.tuning.objective import Objective

FEWEST_TRIALS = 4


def importances(study: optuna.Study, objective: Objective) -> dict[str, float]:
    """Shares of the first objective's variance by parameter: functional ANOVA (Hutter et al. 2014, ICML).

    Optuna's default evaluator ranks parameters by what separates the very best trials and was wrong on a planted
    case; fANOVA was right.

    Returns:
        Parameter -> share; empty with too few trials, or where the objective does not vary.
    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    values = {trial.values[0] for trial in complete}
    if len(complete) < FEWEST_TRIALS or len(values) < 2:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    target = None if len(objective.responses) == 1 else _first
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = optuna.importance.get_param_importances(study, evaluator=evaluator, target=target)
    return {name: float(share) for name, share in found.items()}


def _first(trial: Any) -> float:
    return float(trial.values[0])


def draw_plots(study: optuna.Study, objective: Objective, folder: Path) -> list[Path]:
    """Draws history, slice and contour plots, and the Pareto front of two objectives or three.

    Returns:
        The files; none with too few trials.
    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < FEWEST_TRIALS:
        return []
    drawing.load_matplotlib()
    import matplotlib

    matplotlib.use("Agg")  # Optuna draws with pyplot, which would look for a screen
    import matplotlib.pyplot as plt
    from optuna.visualization import matplotlib as shown

    several = len(objective.responses) > 1
    settings: dict[str, Any] = {"target_name": objective.responses[0].name}
    if several:
        settings["target"] = _first
    parameters = [name for name in complete[0].params if len({trial.params.get(name) for trial in complete}) > 1]
    plots: dict[str, Callable[[], Any]] = {
        "history": lambda: shown.plot_optimization_history(study, **settings),
        "slice": lambda: shown.plot_slice(study, params=parameters, **settings),
    }
    if len(parameters) > 1:
        plots["contour"] = lambda: shown.plot_contour(study, params=parameters[:2], **settings)
    if several:
        names = [response.name for response in objective.responses]
        plots["pareto"] = lambda: shown.plot_pareto_front(study, target_names=names)
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for name, plot in plots.items():
        path = folder / f"{name}.png"
        # Optuna calls its matplotlib plots experimental, and leaves its style switched on
        with warnings.catch_warnings(), drawing.own_style():
            warnings.simplefilter("ignore")
            plot()
            plt.gcf().set_size_inches(max(4.0 * len(parameters), 7.0) if name == "slice" else 7.0, 4.8)
            memory = io.BytesIO()
            plt.savefig(memory, format="png", dpi=90, bbox_inches="tight")
            write_atomically(path, memory.getvalue())
            plt.close("all")
        made.append(path)
    return made
