#!/usr/bin/env bash
# The runs behind docs/findings.md: track a series, intervene on it, store what was found.
#
#     benchmarks/experiments.sh NAME "STEPS" [tracker settings of the series and its text]
#
# The embedded series (after `make demo`; about 40 minutes on one core):
#     benchmarks/experiments.sh embedded "250 258 282 346 442 670"
# Real text (about an hour, with data of your own; see benchmarks/real_text_series.py):
#     benchmarks/experiments.sh natural "600 632 1240" series=local series.path=OUT/series \
#         text=jsonl text.path=OUT/probe.jsonl primary=eng mixture.corpus=OUT/corpus.jsonl
#
# Interventions on units are done at all steps given, regions are removed and perturbed at the first
# and the last, and what trains or writes starts from the last.
set -euo pipefail
name=$1 steps=$2
shift 2
run=runs/findings/$name
read -ra all <<<"$steps"
list=$(IFS=,; echo "${all[*]}")
first=${all[0]} last=${all[-1]}

intervene() {
    tracker task=intervene "intervention=$1" "steps=[$2]" run_dir="$run" "${@:3}"
}

tracker run_dir="$run" "$@"
for intervention in deactivate deactivate-transferring ablate-shared; do
    intervene "$intervention" "$list" "$@"
done
for intervention in remove perturb; do
    intervene "$intervention" "$first,$last" "$@"
done
for intervention in lens steer; do
    intervene "$intervention" "$last" "$@"
done
intervene freeze "$last" "$@"
python benchmarks/findings.py store "$run" "$name"
python benchmarks/findings.py write
