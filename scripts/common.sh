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
  DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq "${missing[@]}" >/dev/null
}

build() {  # build [preset]
  local preset="${1:-release}"
  cd "$ROOT"
  cmake --preset "$preset" >/dev/null
  cmake --build --preset "$preset" -j "$(nproc)"
}
