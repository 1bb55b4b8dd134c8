#!/usr/bin/env bash
# Three hosts on this machine: network namespaces with names, addresses and a link of their own, in which a command runs.
#   scripts/three_hosts.sh [--delay 10ms] [--loss 1%] [--rate 1gbit] [COMMAND …]
#     --delay, --loss   of each host's link, on its way out (tc netem, which not every kernel has)
#     --rate            of each host's link (tc tbf)
#     COMMAND                   runs on host1 (10.77.0.1; the others are host2 and host3); without one: a shell.
#                               BATON_HOSTS_MPIRUN holds the beginning of an mpirun that spans the hosts:
#                               $BATON_HOSTS_MPIRUN -n 4 build/bin/baton cluster --cluster.bind_host=eth0 --model …
#                               BATON_HOSTS_ON HOST COMMAND … runs something on another host.
# All of it lives in a mount and network namespace of this script's own: it is gone when the script ends, however it ends.
# Exits 77 with one line where namespaces are forbidden or a tool is missing.
set -euo pipefail

skip() { echo "three_hosts.sh: skipped: $1" >&2; exit 77; }

# Runs on a host. mpirun's launch agent gives its own options first, then the host, then the command.
on_host() {
  while [ $# -gt 0 ] && [ "${1#-}" != "$1" ]; do shift; done
  local host="$1"; shift
  exec ip netns exec "$host" unshare --uts bash -c 'hostname "$0" && eval "$*"' "$host" "$@"
}

inside() {
  local number under=(root)
  [ -z "$rate" ] || under=(parent 1:1)
  mkdir -p /run/netns
  mount -t tmpfs -o mode=0755 tmpfs /run/netns
  printf '127.0.0.1 localhost\n10.77.0.1 host1\n10.77.0.2 host2\n10.77.0.3 host3\n' > "$BATON_HOSTS_FOLDER/hosts"
  mount --bind "$BATON_HOSTS_FOLDER/hosts" /etc/hosts
  ip link set lo up
  ip link add bridge0 type bridge
  ip link set bridge0 up
  for number in 1 2 3; do
    ip netns add "host$number"
    ip link add "port$number" type veth peer name eth0 netns "host$number"
    ip link set "port$number" master bridge0 up
    ip -n "host$number" addr add "10.77.0.$number/24" dev eth0
    ip -n "host$number" link set eth0 up
    ip -n "host$number" link set lo up
    [ -z "$rate" ] || tc -n "host$number" qdisc add dev eth0 root handle 1: tbf rate "$rate" burst 128k latency 200ms
    [ ${#netem[@]} -eq 0 ] || tc -n "host$number" qdisc add dev eth0 "${under[@]}" netem "${netem[@]}"
  done
}

case "${1:-}" in
  -h|--help) sed -n '2,13p' "$0" | sed 's/^# \{0,1\}//'; exit 0;;
  --on) shift; on_host "$@";;
  --inside) shift;;
  *)
    [ "$(id -u)" = 0 ] || skip "network namespaces need root"
    for tool in unshare ip; do command -v "$tool" >/dev/null || skip "there is no $tool"; done
    unshare --mount --net true 2>/dev/null || skip "this kernel forbids namespaces here"
    BATON_HOSTS_FOLDER="$(mktemp -d)"
    export BATON_HOSTS_FOLDER
    trap 'rm -rf "$BATON_HOSTS_FOLDER"' EXIT
    unshare --mount --net --propagation private "$0" --inside "$@" && status=0 || status=$?
    exit "$status";;
esac

netem=(); rate=""
while [ $# -gt 0 ]; do
  case "$1" in
    --delay|--loss) netem+=("${1#--}" "$2"); shift 2;;
    --rate) rate="$2"; shift 2;;
    --) shift; break;;
    -*) echo "three_hosts.sh: there is no option $1; see --help" >&2; exit 2;;
    *) break;;
  esac
done
[ -z "$rate${netem[*]}" ] || command -v tc >/dev/null || skip "there is no tc for --delay, --loss and --rate"
setup="$(inside 2>&1)" || skip "the hosts cannot be made here: ${setup%%$'\n'*}"
script="$(realpath "$0")"
printf '#!/bin/sh\nexec "%s" --on "$@"\n' "$script" > "$BATON_HOSTS_FOLDER/on"
chmod +x "$BATON_HOSTS_FOLDER/on"
export BATON_HOSTS_ON="$BATON_HOSTS_FOLDER/on"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export BATON_HOSTS_MPIRUN="mpirun --oversubscribe --bind-to none --mca orte_abort_on_non_zero_status 0 --mca btl ^openib --mca plm_rsh_agent $BATON_HOSTS_ON \
  --mca oob_tcp_if_include eth0 --mca btl_tcp_if_include eth0 --host host1:2,host2:2,host3:2"
[ $# -gt 0 ] || set -- "${SHELL:-bash}"
ip netns exec host1 unshare --uts bash -c 'hostname host1 && exec "$@"' host1 "$@"
