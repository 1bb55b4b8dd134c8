#!/usr/bin/env bash
# Builds the libFuzzer targets with clang and the sanitizers and runs each: seeds first, then mutations. What it finds stays in
# build/fuzz/corpus; a crash ends it with the input's path.
#   scripts/fuzz.sh [SECONDS_EACH=60] [TARGET…]      targets: gguf safetensors tokenizer_json chat_template handshake
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
case "${1:-}" in -h|--help) sed -n '2,4p' "$0"; exit 0;; esac
seconds="${1:-60}"; shift || true
targets=("$@"); [ ${#targets[@]} -gt 0 ] || targets=(gguf safetensors tokenizer_json chat_template handshake)
compiler="$(command -v clang++-14 || command -v clang++ || true)"
[ -n "$compiler" ] || { echo "The fuzz targets need clang: apt-get install clang-14" >&2; exit 1; }
dir="$ROOT/build/fuzz"
cmake -S "$ROOT" -B "$dir" -G Ninja -DCMAKE_CXX_COMPILER="$compiler" -DBATON_FUZZ=ON -DBATON_SANITIZE=address,undefined \
  -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_FLAGS_RELEASE="-O1 -g1" >/dev/null
ninja -C "$dir" -j "${BATON_BUILD_JOBS:-$(nproc)}" write_seeds "${targets[@]/%/_fuzz}" >&2
"$dir/bin/write_seeds" "$dir/seeds" >&2
for target in "${targets[@]}"; do
  mkdir -p "$dir/corpus/$target" "$dir/seeds/$target"
  # A file is at most a few kilobytes here, so 512 MB or 25 seconds (a busy machine, sanitizers) for one are a finding.
  "$dir/bin/${target}_fuzz" -max_total_time="$seconds" -max_len=65536 -timeout=25 -rss_limit_mb=1024 -malloc_limit_mb=512 -print_final_stats=1 \
    -artifact_prefix="$dir/$target-" "$dir/corpus/$target" "$dir/seeds/$target"
done
