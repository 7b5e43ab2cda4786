"""The audit of arXiv 2312.10024: its claims beside our measurements, its open questions answered.

`claims` has the facts about the paper and its published code, `audit.audit_paper` sets them beside the effects of a
study. Both are data; `analysis/report` writes and draws them. Imports from the room above only.
"""
