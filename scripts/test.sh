#!/usr/bin/env bash
# Installs what is missing, builds, runs the whole test suite, ends with ctest's summary.
#   scripts/test.sh [--no-install] [--preset release|asan|tsan|dev] [ctest options]
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
preset=release; install=1; args=()
while [ $# -gt 0 ]; do
  case "$1" in
    --no-install) install=0;;
    --preset) preset="$2"; shift;;
    -h|--help) sed -n '2,3p' "$0"; exit 0;;
    *) args+=("$1");;
  esac
  shift
done
[ "$install" = 0 ] || install_packages
# The tests of the real model say SKIPPED where it cannot be fetched.
export BATON_DEMO_MODEL="${BATON_DEMO_MODEL:-$(demo_model || true)}"
[ -n "$BATON_DEMO_MODEL" ] || unset BATON_DEMO_MODEL
mpi_environment || true
build "$preset"
dir="$ROOT/build"; [ "$preset" = release ] || dir="$ROOT/build/$preset"
cd "$dir" && ctest --output-on-failure --timeout 600 -j "$(nproc)" "${args[@]}"
