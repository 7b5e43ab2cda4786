#!/usr/bin/env bash
# Downloads into .whl/ (ignored by git) the wheels that the project needs on a Python 3.12 GPU host without a network
# that has torch, torchvision, timm, scikit-learn, matplotlib, pandas, pyarrow, scipy, psutil, rich, click,
# jinja2, pyyaml, requests, protobuf, werkzeug, pytest and its plugins, but not these. run.py installs them there.
# Usage, from the project's root:  experiments/gpu/wheels.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${WHEELS:-.whl}
python=${PYTHON:-python3}
# the versions are the project's: all that is fetched is what the tests have passed with, where pip finds it for 3.12
mlflow=$(sed -n 's/^mlflow==\([^ ;]*\).*/\1/p' requirements.lock)
mkdir -p "$out"
rm -f "$out"/*.whl  # two wheels of one package stop the whole installation
fetch() {
  "$python" -m pip download -q --only-binary=:all: --python-version 3.12 --implementation cp \
    --platform manylinux_2_34_x86_64 --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 \
    --platform manylinux_2_24_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
    --platform manylinux1_x86_64 -d "$out" "$@" 2> >(grep -v '^WARNING' >&2)
}
fetch --no-deps "mlflow==$mlflow" "mlflow-skinny==$mlflow" "mlflow-tracing==$mlflow" \
  optuna alembic Mako sqlalchemy greenlet colorlog pyDOE3 \
  Flask Flask-CORS blinker itsdangerous graphene 'graphql-core<3.3' graphql-relay 'gunicorn<27' huey docker skops \
  prettytable wcwidth 'cachetools<8' 'databricks-sdk<1' google-auth pyasn1 pyasn1-modules rsa fastapi starlette uvicorn \
  'gitpython<4' gitdb smmap 'importlib_metadata<10' opentelemetry-api opentelemetry-sdk opentelemetry-proto \
  opentelemetry-semantic-conventions python-dotenv sqlparse cryptography cffi pycparser
fetch pydantic # pydantic and its core must be of one release: pip takes the pair
du -sh "$out"
