#!/usr/bin/env bash
# The store and the transports beside other people's on this machine: scripts/bench_peers.sh --venv DIR [--rounds N] [--seconds S] [--path FOLDER]
# DIR is a virtual environment with Mooncake, LMCache and NIXL; a peer that is not there or cannot run is skipped, and its row says why:
#   python3 -m venv DIR && DIR/bin/pip install mooncake-transfer-engine-non-cuda lmcache nixl-cu12
# Baton and each peer take turns on loopback, N rounds (5), every other round backwards; medians, ratios and the bars are printed, and where
# the two sides do not do the same work. --path names the disk to measure. Exits 1 if a bar is missed.
source "$(dirname "$0")/common.sh"
case "${1:-}" in --help|-h) sed -n '2,6p' "$0" | sed 's/^# //'; exit 0;; esac
BATON="${BATON_BINARY:-$ROOT/build/bin/baton}"
[ -x "$BATON" ] || build release baton
exec python3 "$ROOT/scripts/bench_peers.py" --baton "$BATON" "$@"
