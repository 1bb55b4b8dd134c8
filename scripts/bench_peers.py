"""Runs `baton bench store` and `baton bench transfer` and the benchmarks of other stores and transports in turn, and prints
medians and ratios beside the bars (see bench_peers.sh)."""
import argparse
import contextlib
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

SIDE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bench_peers_side.py")
MIB = 1 << 20
PATIENCE_S = 120
# Documented switches of the peers that make them faster: a pool of connections, and no look for devices that are not there.
PEER_ENVIRONMENT = {"MC_FORCE_TCP": "1", "MC_TCP_ENABLE_CONNECTION_POOL": "1", "GLOG_minloglevel": "2", "UCX_TLS": "sm,self,tcp"}

# What is measured: name, bar (times the peer), Baton's measure, the peer's measure.
ROWS = [
    ("get from another process's memory, 1 MiB, over shm / Mooncake Store, TCP", 3.0, "store_1m.get_other_proc", "mooncake_get"),
    ("get from disk, page cache hot, 1 MiB / LMCache fs", 3.0, "store_1m.get_disk_hot", "lmcache_fs.load"),
    ("put, un-synced, in the file when the clock stops, 1 MiB / LMCache fs", 4.0, "store_1m.put_written", "lmcache_fs.store"),
    ("put into memory that was touched before, 64 KiB / Mooncake Store", 2.0, "store_64k.put_full", "mooncake_put"),
    ("push over shm, 1 MiB x 16 / NIXL, UCX shared memory", 1.5, "shm_1m", "nixl_1m"),
    ("push over tcp, 1 MiB x 16 / Mooncake TE with its pool", 1.5, "tcp_1m", "te_1m"),
    ("push over tcp, 64 KiB x 16 / Mooncake TE with its pool", 2.0, "tcp_64k", "te_64k"),
]
NOTES = """Where the two sides differ:
- Baton checks: each block's digest is made or verified in every row (--digests in the transports); no peer checks a byte by default.
- get from another process: Baton over its shared memory, Mooncake over loopback TCP, its only way here; both have 32 blocks under way,
  Mooncake's better of batch_get_into in 32s and one by one counts. Neither side's first pass counts.
- disk rows: one folder, 128 blocks, no fsync on either side, both wait until every block is in its file; LMCache's by `lmcache bench l2`,
  128 keys a submit, after a round that warms up. Gets land in a place of their own each, on both sides.
- put into memory: Mooncake's put_from out of registered memory into its own segment, its second pass; Baton's into a full
  store, so that each put evicts a block as well.
- transports: one direction, 16 segments a transfer; Baton and NIXL have three transfers under way, transfer_engine_bench one (it is
  slower with three threads here) and not less than two seconds, so that its untimed start weighs little; all use the same memory again."""


class Absent(Exception):
    """A peer that cannot run here, and why."""


def last_line(text):
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it printed nothing"


def run(command, environment=None):
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False, env={**os.environ, **(environment or {})})
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Absent(f"{os.path.basename(command[0])}: {error}") from error
    if done.returncode != 0:
        raise Absent(f"{' '.join(command[:4])} ended with {done.returncode}: {last_line(done.stderr or done.stdout)}")
    return done.stdout


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def service(command, log_path, environment, ready):
    """A server that is ended afterwards; yields its log's match of `ready`."""
    with open(log_path, "w", encoding="utf-8") as log:
        try:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **environment}, start_new_session=True)
        except OSError as error:
            raise Absent(f"{os.path.basename(command[0])}: {error}") from error
    try:
        limit = time.monotonic() + 20
        while True:
            with open(log_path, encoding="utf-8", errors="replace") as log:
                text = log.read()
            found = ready(text)
            if found:
                break
            if process.poll() is not None or time.monotonic() > limit:
                raise Absent(f"{os.path.basename(command[0])} did not come up: {last_line(text)}")
            time.sleep(0.05)
        yield found
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class Baton:
    def __init__(self, args, folder):
        self.args, self.folder = args, folder

    def bench(self, *arguments):
        try:
            return run([self.args.baton, "bench", *arguments, "--json"])
        except Absent as why:
            sys.exit(str(why))

    def store(self, block_bytes):
        """Every operation's GB/s over 128 MiB."""
        out = self.bench("store", "--path", self.folder, "--bytes", str(128 * MIB), "--block-bytes", str(block_bytes), "--repeats", "1")
        rows = [json.loads(line) for line in out.splitlines()]
        return {row["op"]: row["mb_per_s"] / 1e3 for row in rows if "mb_per_s" in row}

    def transfer(self, transport, block_bytes):
        out = self.bench("transfer", "--transport", transport, "--bytes", str(block_bytes), "--depth", "16", "--rounds", "1",
                         "--seconds", str(self.args.seconds), "--digests")
        return json.loads(out)["gb_per_s"]


class Peers:
    def __init__(self, args, folder):
        self.args, self.folder = args, folder
        self.python = os.path.join(args.venv, "bin", "python")
        self.log = os.path.join(folder, "service.log")

    def side(self, *arguments):
        return json.loads(run([self.python, SIDE, *map(str, arguments)], PEER_ENVIRONMENT).strip().splitlines()[-1])

    def mooncake(self, what, block_bytes):
        port, metrics = free_port(), free_port()

        def listens(_):
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        command = [self.program("mooncake", "mooncake_master"), f"--rpc_port={port}", f"--metrics_port={metrics}"]
        with service(command, self.log, PEER_ENVIRONMENT, listens):
            return self.side(f"mooncake-{what}", f"127.0.0.1:{port}", block_bytes, 128 * MIB // block_bytes)[what]

    def transfer_engine(self, block_bytes):
        """Mooncake's own benchmark, writes of 16 blocks."""
        program = self.program("mooncake", "transfer_engine_bench")
        buffer = f"--buffer_size={3 * 16 * block_bytes}"  # as much as Baton's three transfers touch
        common = [program, "--protocol=tcp", "--metadata_server=P2PHANDSHAKE", "--local_server_name=127.0.0.1", "--threads=1", buffer]
        environment = {**PEER_ENVIRONMENT, "GLOG_minloglevel": "0"}

        def ready(text):
            return "DRAM is used" in text and re.search(r"listening on (127\.0\.0\.1:\d+)", text)

        with service([*common, "--mode=target"], self.log, environment, ready) as listening:
            initiator = [*common, "--mode=initiator", "--operation=write", f"--segment_id={listening[1]}", f"--block_size={block_bytes}", "--batch_size=16",
                         f"--duration={max(2, round(self.args.seconds))}", "--report_unit=MB"]
            done = subprocess.run(initiator, capture_output=True, text=True, timeout=PATIENCE_S, check=False, env={**os.environ, **environment})
        rate = re.search(r"throughput ([\d.]+) MB/s", done.stdout + done.stderr)
        if done.returncode != 0 or not rate:
            raise Absent(f"transfer_engine_bench ended with {done.returncode}: {last_line(done.stderr)}")
        return float(rate[1]) / 1e3

    def lmcache(self):
        with tempfile.TemporaryDirectory(dir=self.folder) as files:
            out = run([self.python, "-m", "lmcache.cli.main", "bench", "l2", "--l2-adapter", json.dumps({"type": "fs", "base_path": files}), "--num-keys", "128",
                       "--data-size-kb", "1024", "--rounds", "1", "--warmup-rounds", "1", "--format", "json"])
        rates = {name.lower(): float(rate) for name, rate in re.findall(r'"operation": "(Store|Load)".*?"throughput_avg_mbps": ([\d.]+)', out, re.DOTALL)}
        if len(rates) != 2:
            raise Absent(f"lmcache bench l2 gave no figures: {last_line(out)}")
        return {name: rate * MIB / 1e9 for name, rate in rates.items()}  # its MB are 2^20 bytes

    def program(self, package, name):
        where = run([self.python, "-c", f"import importlib.util as u; print(u.find_spec('{package}').submodule_search_locations[0])"]).strip()
        path = os.path.join(where, name)
        if not os.path.exists(path):
            raise Absent(f"the package {package} has no {name}")
        if not os.access(path, os.X_OK):
            os.chmod(path, 0o755)  # wheels lose the bit; Mooncake's own start script does the same
        return path


def measures(args, folder):
    """Name of a measure (or of a group of them) and how it is taken, ours and the peer's in turn."""
    baton, peers = Baton(args, os.path.join(folder, "baton")), Peers(args, folder)
    return [
        ("store_1m", lambda: baton.store(MIB)),
        ("mooncake_get", lambda: peers.mooncake("get", MIB)),
        ("lmcache_fs", peers.lmcache),
        ("store_64k", lambda: baton.store(MIB // 16)),
        ("mooncake_put", lambda: peers.mooncake("put", MIB // 16)),
        ("shm_1m", lambda: baton.transfer("shm", MIB)),
        ("nixl_1m", lambda: peers.side("nixl", MIB, 16, args.seconds)["write"]),
        ("tcp_1m", lambda: baton.transfer("tcp", MIB)),
        ("te_1m", lambda: peers.transfer_engine(MIB)),
        ("tcp_64k", lambda: baton.transfer("tcp", MIB // 16)),
        ("te_64k", lambda: peers.transfer_engine(MIB // 16)),
    ]


def one_round(steps, absent):
    """Figures by name; what cannot run is asked once only."""
    figures = {}
    for name, take in steps:
        if name in absent:
            continue
        try:
            taken = take()
        except Absent as why:
            absent[name] = str(why)
            continue
        figures.update({f"{name}.{part}": value for part, value in taken.items()} if isinstance(taken, dict) else {name: taken})
    return figures


def print_table(rounds, absent):
    """The rows; how many missed their bar."""
    print(f"| what (GB/s; medians of {len(rounds)}) | Baton | peer | ratio (least to most) | bar |\n|---|---|---|---|---|")
    missed = 0
    for name, bar, ours, theirs in ROWS:
        pairs = [(r[ours], r[theirs]) for r in rounds if ours in r and theirs in r]
        if not pairs:
            gone = next((absent[m] for m in (theirs.split(".")[0], ours.split(".")[0]) if m in absent), "no round had both")
            print(f"| {name} | | | not run: {gone} | {bar} |")
            continue
        ratios = sorted(a / b for a, b in pairs)
        ratio = statistics.median(ratios)
        missed += ratio < bar
        print(f"| {name} | {statistics.median(a for a, _ in pairs):.2f} | {statistics.median(b for _, b in pairs):.2f} "
              f"| {ratio:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) | {bar}{', missed' if ratio < bar else ''} |")
    return missed


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--baton", required=True)
    parser.add_argument("--venv", required=True, help="virtual environment with the peers")
    parser.add_argument("--path", help="folder on the disk to measure (a fresh one in the temporary folder)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1, help="how long a transport is measured in a round")
    args = parser.parse_args()
    if not os.access(os.path.join(args.venv, "bin", "python"), os.X_OK):
        parser.error(f"{args.venv} is no virtual environment: it has no bin/python")
    if args.rounds < 1:
        parser.error("--rounds must be 1 or more")
    absent, rounds, loads = {}, [], []
    with tempfile.TemporaryDirectory(dir=args.path, prefix="bench-peers-") as folder:
        steps = measures(args, folder)
        for number in range(args.rounds):
            loads.append(os.getloadavg()[0])
            rounds.append(one_round(steps if number % 2 == 0 else steps[::-1], absent))
            print(f"round {number + 1}: " + ", ".join(f"{name} {value:.2f}" for name, value in sorted(rounds[-1].items())), file=sys.stderr)
    missed = print_table(rounds, absent)
    print(f"\nThe machine: {os.cpu_count()} cores, load {min(loads):.1f} to {max(loads):.1f} as the rounds began.\n{NOTES}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
