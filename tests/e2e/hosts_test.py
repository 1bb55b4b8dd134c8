"""Three hosts (scripts/three_hosts.sh): one mpirun spans them, the same bits come out, workers join from another host, and a
cluster key guards what other machines can reach. Skipped (77) where the kernel forbids namespaces."""
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

from cluster import BINARY, Baton, demo_model, run_tests

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "scripts/three_hosts.sh"
BODIES = [
    {"prompt": "The capital of France is", "max_tokens": 16, "logprobs": 2, "ignore_eos": True, "temperature": 0},
    {"prompt": "".join(f"{i} plus {i} is {2 * i}. " for i in range(60)), "max_tokens": 16, "logprobs": 2, "ignore_eos": True, "temperature": 0.9, "seed": 7},
]
SETTINGS = ["cluster.bind_host=eth0", "model.threads=1"]


def fingerprint(answer):
    choice = answer["choices"][0]
    return choice["text"], tuple(choice["logprobs"]["token_logprobs"])


def ask_all(server):
    return [fingerprint(server.ask("/v1/completions", body)) for body in BODIES]


def on(host, *command, **more):
    return subprocess.Popen([os.environ["BATON_HOSTS_ON"], host, *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)


_reference = []


def reference():
    if not _reference:
        with Baton(ranks=0) as server:
            _reference.extend(ask_all(server))
    return _reference


def across(ranks=4, settings=()):
    return Baton(ranks=ranks, settings=[*SETTINGS, *settings], mpirun=os.environ["BATON_HOSTS_MPIRUN"].split())


def test_one_mpirun_over_three_hosts_gives_the_same_bits():
    want = reference()
    with across(ranks=6) as server:
        hosts = {w["host"] for w in server.cluster()["workers"]}
        assert hosts == {"host1", "host2", "host3"}, hosts
        for what in ("cold", "cached"):
            assert ask_all(server) == want, what
        metrics = server.request("GET", "/metrics")[2].decode()
        remote = sum(float(line.split()[-1]) for line in metrics.splitlines() if line.startswith("baton_worker_prefill_remote_total"))
        assert remote > 0, "no prompt was handed from one host to another"


def listening_ports(pid):
    """Ports on which that process listens for others."""
    inodes = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd") if os.path.exists(f"/proc/{pid}/fd/{fd}")}
    rows = [line.split() for line in open(f"/proc/{pid}/net/tcp").read().splitlines()[1:]]
    return [int(r[1].split(":")[1], 16) for r in rows if r[3] == "0A" and f"socket:[{r[9]}]" in inodes]


def test_strangers_from_another_host_are_refused_within_a_second():
    with across(ranks=4) as server:
        worker = next(w for w in server.cluster()["workers"] if w["host"] == "host1" and "gateway" not in w["roles"])
        pid = worker["pid"]
        ports = listening_ports(pid)
        assert len(ports) >= 2, f"a control and a data port, not {ports}"
        for port in ports:
            for words in (b"", b"GET / HTTP/1.1\r\n\r\n", bytes(200), bytes(range(256)) * 8):
                begin = time.monotonic()
                with socket.create_connection(("10.77.0.1", port), timeout=5) as stranger:
                    stranger.sendall(words)
                    heard = b""
                    try:
                        while chunk := stranger.recv(4096):
                            heard += chunk
                    except ConnectionResetError:
                        pass
                took = time.monotonic() - begin
                assert took < 3, f"port {port}: closed after {took:.1f} s"  # one second, and what a busy machine adds
        assert ask_all(server) == reference()
        assert re.search("refused a connection", server.log_text()), "the log says so"


def test_a_worker_joins_from_another_host_and_one_without_the_key_does_not():
    key = "a key of this test"
    with across(ranks=3, settings=[f"cluster.key={key}", "cluster.roles=coordinator+gateway,store,prefill+decode"]) as server:
        coordinator = next(w for w in server.cluster()["workers"] if "coordinator" in w["roles"] or "gateway" in w["roles"])
        address = coordinator["address"]
        assert address.startswith("10.77.0.1:"), coordinator
        command = [BINARY, "cluster", "--model", demo_model(), "--join", address, "--role", "prefill+decode", "--cluster.bind_host=eth0", "--cluster.name=late"]
        for settings, reason in ((["--cluster.key=another"], "wrong cluster key"), ([], "needs the cluster's key")):
            refused = on("host3", *command, *settings)
            text = refused.communicate(timeout=60)[0]
            assert refused.returncode != 0 and reason in text, text
        joined = on("host3", *command, f"--cluster.key='{key}'")
        try:
            deadline = time.monotonic() + 60
            while not any(w["name"] == "late" for w in server.cluster()["workers"]):
                assert time.monotonic() < deadline and joined.poll() is None, joined.communicate(timeout=5)[0] if joined.poll() is not None else "it never joined"
                time.sleep(0.05)
            late = next(w for w in server.cluster()["workers"] if w["name"] == "late")
            assert late["host"] == "host3", late
            assert ask_all(server) == reference()
            os.kill(late["pid"], signal.SIGTERM)
            joined.wait(60)
        finally:
            if joined.poll() is None:
                joined.kill()


def test_loopback_over_several_hosts_is_explained():
    mpirun = os.environ["BATON_HOSTS_MPIRUN"].split()
    run = subprocess.run([*mpirun, "-n", "3", BINARY, "cluster", "--model", demo_model(), "--gateway.port=0"], stdin=subprocess.DEVNULL,
                         capture_output=True, text=True, timeout=60)
    assert "bind_host=eth0" in run.stdout + run.stderr, run.stdout + run.stderr


if __name__ == "__main__":
    if "BATON_HOSTS_ON" not in os.environ:
        sys.exit(subprocess.run([str(SCRIPT), sys.executable, os.path.abspath(__file__), *sys.argv[1:]]).returncode)
    run_tests(sys.modules[__name__])
