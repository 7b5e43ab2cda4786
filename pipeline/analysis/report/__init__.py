"""The report of a study: words, figures, HTML, Markdown, JSON and CSV.

`report.build_report` collects what is said, as data; `document` has the same for JSON, `headlines` in words,
`figures` in drawings; `render` fills the templates, and `files.write_report`, the entry, writes them all. The audit
of the paper is drawn here too, so that `analysis/paper` knows nothing of reports. This is the only folder with
Jinja and, beside `tuning/plots.py`, the only one with Matplotlib, which is imported when something is drawn.
"""
