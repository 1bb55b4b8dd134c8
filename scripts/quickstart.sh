#!/usr/bin/env bash
# From a fresh clone to a chat: installs what is missing, builds, gets the demo model, starts a 4-rank cluster on this machine.
#   scripts/quickstart.sh [--demo] [--model PATH] [--port N] [--ranks N] [--transport KIND] [--store DIR] [--no-install]
#     --demo        holds a three-turn chat through the gateway, prints answers, TTFT, cached tokens and route, stops, and
#                   exits 0 only if all of it worked
#     --model PATH  another model: a GGUF file or a folder of safetensors
#     --port N      of the gateway (default 8000; with --demo any free one)
#     --store DIR   where prefixes are kept over restarts (default: in the user's cache folder, one for each model)
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

demo=0; model=""; port=""; install=1; ranks=4; transport=""; store=""
while [ $# -gt 0 ]; do
  case "$1" in
    --demo) demo=1;;
    --model|--port|--ranks|--transport|--store)
      [ $# -ge 2 ] || { echo "$1 needs a value; see --help" >&2; exit 2; }
      printf -v "${1#--}" %s "$2"; shift;;
    --no-install) install=0;;
    -h|--help) sed -n '2,9p' "$0" | sed 's/^# \{0,1\}//'; exit 0;;
    *) echo "quickstart.sh: there is no option $1; see --help" >&2; exit 2;;
  esac
  shift
done
[ "$install" = 0 ] || install_packages
build release baton
[ -n "$model" ] || model="$(demo_model)"
[ -e "$model" ] || { echo "There is no model at $model; give --model a GGUF file or a folder of safetensors" >&2; exit 2; }
[ -n "$port" ] || { if [ "$demo" = 1 ]; then port=0; else port=8000; fi; }
[ -n "$store" ] || store="$(cache_folder)/store/$(basename "$model")-$(printf %s "$(realpath "$model")" | sha256sum | cut -c1-8)"
mkdir -p "$store"

work="$(mktemp -d)"
out="$work/stdout"
mpi_environment
options=(--model "$model" --gateway.port="$port" --store.path="$store")
[ -z "$transport" ] || options+=(--transport.kind="$transport")
[ -e "$ROOT/configs/quickstart.yaml" ] && options+=(--config "$ROOT/configs/quickstart.yaml")
mpirun "${MPIRUN_OPTIONS[@]}" -n "$ranks" "$ROOT/build/bin/baton" cluster "${options[@]}" >"$out" 2>"$work/log" </dev/null &
cluster=$!
finish() {
  trap - EXIT INT TERM
  stop_cluster "$cluster"
  wait "$cluster" 2>/dev/null || true
  rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

url=""
for _ in $(seq 1200); do
  url="$(sed -n 's/^Baton serves .* at \(http.*\)$/\1/p' "$out" | head -n 1)"
  [ -z "$url" ] || break
  if ! kill -0 "$cluster" 2>/dev/null; then echo "The cluster did not start:" >&2; cat "$work/log" >&2; exit 1; fi
  sleep 0.05
done
[ -n "$url" ] || { echo "The cluster was not ready within 60 s:" >&2; cat "$work/log" >&2; exit 1; }

if [ "$demo" = 1 ]; then
  python3 "$ROOT/scripts/demo.py" "$url" || { status=$?; echo "--- the cluster's log" >&2; tail -n 40 "$work/log" >&2; exit "$status"; }
  exit 0
fi
head -n 1 "$out"
echo "Open it in a browser, chat with  build/bin/baton chat --url $url , or:"
echo "curl $url/v1/chat/completions -H 'content-type: application/json' -d '{\"messages\":[{\"role\":\"user\",\"content\":\"Hello!\"}],\"stream\":true}'"
echo "Ctrl-C stops it. Prefixes are kept in $store"
tail -n +1 -f "$work/log" --pid="$cluster" >&2 &
wait "$cluster"
