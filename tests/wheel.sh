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
small=(series.hidden_size=32 series.layers=2 series.heads=2 series.primary_steps=4
       series.mix_steps=4 'series.primary_checkpoints=[0]' 'series.mix_checkpoints=[0,1,2,4]'
       text.documents=12 text.tokens_per_language=300 analysis.replicates=50)
venv/bin/tracker "${small[@]}" | tee first.txt
grep -q '^report: ' first.txt
venv/bin/tracker "${small[@]}" > second.txt
cmp first.txt second.txt
test -s "$(sed -n 's/^report: //p' first.txt)"
echo "wheel: 2 passed, 0 failed"
