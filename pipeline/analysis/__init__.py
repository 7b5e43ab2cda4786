"""The answer: from a study's runs to effects with intervals, verdicts, cautions and reasons.

Pure functions on data frames and arrays; nothing is read or written here but by `report/files.py`. The room imports
the design and `tracking.study_data`, which is what a store hands over. Start at `effects.estimate`: `frame` tidies
the study, `contrasts` says what is asked of its cells, `linear`, `variance` and `lenth` estimate, `pooling` averages
over models and data sets, `verdicts` decides. `time_to_target`, `machines`, `trust`, `stopping`, `time_budget`,
`anchors`, `recommendation` and `comparison` ask further questions. `docs/analysis.md` has the formulas.
"""
