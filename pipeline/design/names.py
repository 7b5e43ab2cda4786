"""The names of the public contract: MLflow tags, params and metrics, phases and outcomes."""

from __future__ import annotations

KEY_TAG = "ablate.key"

OWNER_TAG = "ablate.owner"

CLAIM_TAG = "ablate.claim"

HEARTBEAT_TAG = "ablate.heartbeat."

OUTCOME_TAG = "ablate.outcome"
