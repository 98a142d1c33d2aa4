#!/usr/bin/env bash
# Install a wheel in an empty environment outside the checkout and run a small sweep with it.
#   tests/wheel.sh dist/babel_tracker-*.whl
set -euo pipefail
wheel=$(realpath "$1")
here=$(cd "$(dirname "$0")/.." && pwd)
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
"${PYTHON:-python3}" -m venv "$room/venv"
"$room/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    -c "$here/constraints.txt" "$wheel"
cd "$room"
export OMP_WAIT_POLICY=passive
venv/bin/tracker --cfg job > job.yaml
grep -q 'tokens_per_language' job.yaml
venv/bin/tracker experiment=smoke | tee first.txt
grep -q '^report: ' first.txt
venv/bin/tracker experiment=smoke > second.txt
cmp first.txt second.txt
test -s "$(sed -n 's/^report: //p' first.txt)"
echo "wheel: 2 passed, 0 failed"
