"""The names of the public contract: tags, params, metrics, phases, outcomes and the states of MLflow.

A name stands here once, and what writes or reads it imports it from here. The strings never change: stores that were
filled by earlier versions have them.
"""

from __future__ import annotations

# Tags of every run, and of the parent run of a call
KIND_TAG = "ablate.kind"  # run, sentinel, turns; grid, tune, speed
KEY_TAG = "ablate.key"
OWNER_TAG = "ablate.owner"
CLAIM_TAG = "ablate.claim"
# Prefixes: the owner's name comes behind them. MLflow's pages show no tag that begins with its own name
NOTE_TAG = "mlflow.note.content"  # the description on a run's page
HEARTBEAT_TAG = "mlflow.ablate.heartbeat."
EARLIER_HEARTBEAT_TAG = "ablate.heartbeat."  # of earlier versions, read as well
OUTCOME_TAG = "ablate.outcome"
ERROR_TAG = "ablate.error"
# Tags of a cell
DIGEST_TAG = "ablate.digest"
BLOCK_TAG = "ablate.block"
POSITION_TAG = "ablate.position"
TAINTED_TAG = "ablate.tainted"
MOVED_TAG = "ablate.moved"
BATCHNORM_TAG = "ablate.batchnorm"
PARAMETERS_TAG = "ablate.parameters"
# what a run read: numbers of classes, and of images
CLASSES_TAG = "data.classes"
TRAIN_IMAGES_TAG = "data.train_images"
VALIDATION_IMAGES_TAG = "data.validation_images"
TEST_IMAGES_TAG = "data.test_images"
PARTS_TAG = "ablate.data_parts"  # of an image folder: what its training, validation and test parts were made of
LEFT_OUT_TAG = "ablate.left_out"  # images that cannot be decoded: how many, which, and why
ENGAGEMENT_TAG = "ablate.engagement"  # JSON: what was seen of the techniques, name -> value
NOT_ENGAGED_TAG = "ablate.not_engaged"  # JSON: field of the recipe -> why it did not act
UNMOVED = "weights"  # beside the fields: no update changed them
RECOMPILED = "recompiled"  # in the first one: graphs that were compiled when the clock was running
COMPILER_CACHE = "compiler_cache"  # likewise: cold or warm
# Tag of an experiment: which store it is, see `tracking.mlflow_connection`
STORE_TAG = "ablate.store"
# Tag of an experiment: when a journal was last delivered to it to the end, see `tracking.mlflow_store`
DELIVERED_TAG = "ablate.delivered"
# Tags of a parent run
COMMAND_TAG = "ablate.command"
COMMAND_LINE_TAG = "ablate.command_line"  # of its last call, as it was typed, without passwords
STUDY_TAG = "ablate.study"
TECHNIQUES_TAG = "ablate.techniques"
FACTORS_TAG = "ablate.factors"  # the techniques with their levels, as `Plan.factors` says them
OPENED_TAG = "ablate.opened"  # when the last call that works under it began, ms since the epoch
CELLS_TAG = "ablate.cells"
TARGET_TAG = "ablate.target_accuracy"  # of a run, too
VERDICT_TAG = "tune.verdict"
# Attributes that a tuning keeps in Optuna, beside owner, digest, outcome and error from above
RESULT_ATTRIBUTE = "ablate.result"
IDENTITY_ATTRIBUTE = "ablate.identity"
HEARTBEAT_ATTRIBUTE = "ablate.heartbeat"
RETRIES_ATTRIBUTE = "ablate.retries"
WITHDRAWN_ATTRIBUTE = "ablate.withdrawn"
FINAL_ATTRIBUTE = "ablate.final"
VALUES_ATTRIBUTE = "ablate.values"
TOO_LARGE_ATTRIBUTE = "ablate.too_large"

# Tag of a run, of provenance: the processor's instructions for bfloat16; `NO_BF16` where it has none
CPU_BF16_TAG = "env.cpu_bf16"
NO_BF16 = "none"

# Params; a technique's is its name (on or off)
MODEL_PARAM = "model"
DATASET_PARAM = "dataset"
SEED_PARAM = "seed"
TECHNIQUES_PARAM = "techniques"
DEVICE_PARAM = "device"
NPROC_PARAM = "nproc"
RECIPE_PARAM = "recipe."  # a prefix: a field of the recipe comes behind it
LEVEL_PARAM = "level."  # a prefix: a technique comes behind it, where its level is not the default

# Metrics of each epoch
TRAIN_LOSS = "train/loss"
EPOCH_SECONDS = "train/epoch_seconds"
EPOCH_RATE = "train/images_per_second"
VAL_LOSS = "val/loss"
VAL_ACCURACY = "val/accuracy"
# Metrics of a run. Scores; the two prefixes have a score's name behind them
VAL_SCORE = "val/"
TEST_SCORE = "test/"
TEST_ACCURACY = "test/accuracy"
TEST_F1 = "test/f1_macro"
# What a model without training would score on the test set
TEST_MAJORITY = "test/majority"  # fraction of its images that are of the most frequent class
# Times, s
TRAIN_SECONDS = "time/train_seconds"
EVAL_SECONDS = "time/eval_seconds"
SETUP_SECONDS = "time/setup_seconds"
TOTAL_SECONDS = "time/total_seconds"
WARMUP_SECONDS = "time/warmup_seconds"
COMPILE_SECONDS = "time/compile_seconds"
TARGET_SECONDS = "time/target_seconds"
# Rates of steady state, 1/s
IMAGES_PER_SECOND = "throughput/images_per_second"
UPDATES_PER_SECOND = "throughput/updates_per_second"
WARMUP_WINDOWS = "throughput/warmup_windows"
RATE_HALF_WIDTH = "throughput/interval_half_width"
# A step: ms, and a fraction
STEP_P50_MS = "step/p50_ms"
STEP_P95_MS = "step/p95_ms"
LAUNCH_BOUND = "step/launch_bound_fraction"
# Memory, MiB
GPU_PEAK_ALLOCATED = "memory/gpu_peak_allocated_mib"
GPU_PEAK_RESERVED = "memory/gpu_peak_reserved_mib"
GPU_PROCESS = "memory/gpu_process_mib"
HOST_PEAK_RSS = "memory/host_peak_rss_mib"
GPU_JOULES = "energy/gpu_joules"
# Counts
UPDATES = "updates/count"
SKIPPED_STEPS = "amp/skipped_steps"
FINAL_SCALE = "amp/final_scale"
FLOPS_PER_IMAGE = "model/flops_per_image"
# Metrics of a cell that took turns. With the round as their step
ROUND_SECONDS = "round/seconds"
ROUND_RATE = "round/images_per_second"
ROUND_PLACE = "round/place"  # in the order of the round, from 1
ROUND_JOULES = "round/joules"
ROUND_OTHERS = "round/others_cores"  # CPU use of others meanwhile
# and of the whole cell
TURN_IMAGES = "turns/images"
HEAD_IMAGES = "turns/head_images"
RECIPE_IMAGES = "turns/recipe_images"  # that all epochs of the recipe have
# Metrics of a grid's parent run, beside time_ratio/SETTING and rate_ratio/SETTING
CELLS_METRIC = "cells/"  # a prefix: an outcome, or `total`, comes behind it
GRID_SECONDS = "grid/wall_seconds"
MEDIAN_TRAIN_SECONDS = "grid/median_train_seconds"  # over models, data sets and settings
BASELINE_RATE = "grid/baseline_images_per_second"  # geometric mean over models and data sets
BASELINE_ACCURACY = "grid/baseline_accuracy"  # mean over models and data sets
# Metrics of the parent run of cells that took turns
SPEED_SECONDS = "speed/wall_seconds"
SPEED_ROUNDS = "speed/rounds"  # the fewest of a group
# Metrics of a tuning's parent run
TUNE_TRIALS = "tune/trials"
TUNE_INFEASIBLE = "tune/infeasible"
TUNE_SECONDS = "tune/wall_seconds"
TUNE_IMPORTANCE = "tune/importance."  # a prefix: a parameter comes behind it
TUNE_RATIO = "tune/ratio"
TUNE_LOW = "tune/low"
TUNE_HIGH = "tune/high"
TUNE_SEARCH_RATIO = "tune/search_ratio"

# Phases of a step, in their order; each has a metric `budget/PHASE_seconds`
DATA_WAIT = "data_wait"
H2D = "h2d"
FORWARD = "forward"
BACKWARD = "backward"
OPTIMIZER = "optimizer"
PHASES = (DATA_WAIT, H2D, FORWARD, BACKWARD, OPTIMIZER)
IDLE = "idle"  # time of training that is in no phase
BUDGET_PHASES = (*PHASES, IDLE)
COMPUTE_PHASES = (FORWARD, BACKWARD, OPTIMIZER)  # whose time on the device may be that of launching kernels
# No phase and no metric: the time in which the device has nothing to do but what the host launches just then
LAUNCHES = "launches"


def budget_seconds(phase: str) -> str:
    """Names the metric of a phase's seconds."""
    return f"budget/{phase}_seconds"


# Outcomes are `design.records.OUTCOMES`; a cell with one of these is not tried again
FINAL_OUTCOMES = ("finished", "oom")

# States of a run in MLflow
RUNNING_STATE = "RUNNING"
FINISHED_STATE = "FINISHED"
FAILED_STATE = "FAILED"
KILLED_STATE = "KILLED"
