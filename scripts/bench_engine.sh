#!/usr/bin/env bash
# The engine beside llama.cpp on the same file and machine: scripts/bench_engine.sh --peer DIR [--rounds N] [--threads N] [--cpu-time] [--model PATH] [--bf16 PATH]
# DIR holds llama-bench and llama-batched-bench. Both engines take turns, N rounds (5); medians and their ratios are printed.
# --bf16 adds a row against the peer with that file (scripts/make_bench_model.py bf16 makes it).
# --own instead of --peer prints the engine's shares of the machine's limits, what blocks cost, a cold start and a busy neighbour.
# --cpu-time compares CPU seconds of one thread instead of tokens a second: what to trust while the machine does other work.
source "$(dirname "$0")/common.sh"
ARGS=() MODEL="" HELP=""
while [ $# -gt 0 ]; do
  case "$1" in
    --model) MODEL="${2:?--model needs a path}"; shift 2;;
    --help|-h) HELP=1; shift;;
    *) ARGS+=("$1"); shift;;
  esac
done
[ -z "$HELP" ] || { sed -n '2,6p' "$0" | sed 's/^# //'; exit 0; }
[ -x "$ROOT/build/bin/baton" ] || build
exec python3 "$ROOT/scripts/bench_engine.py" --baton "$ROOT/build/bin/baton" --model "${MODEL:-$(demo_model)}" "${ARGS[@]}"
