"""Starting, stopping and dying as a user sees it: nothing is left behind, nothing hangs, an error says what to do."""
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time

from cluster import BINARY, ENVIRONMENT, MPIRUN, Baton, demo_model, in_parallel, run_tests


def shm_files():
    return {p.name for p in pathlib.Path("/dev/shm").iterdir() if "baton" in p.name}


def run(*arguments, timeout=60, ranks=0):
    command = [BINARY, *arguments] if ranks == 0 else [*MPIRUN, "-n", str(ranks), BINARY, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=ENVIRONMENT, stdin=subprocess.DEVNULL)


def test_turns_are_cached_and_survive_a_restart():
    with tempfile.TemporaryDirectory(prefix="baton-store-") as store:
        story = "The relay began at dawn. Each runner carried the baton to the next village and told what the last had seen. " * 24
        messages = [{"role": "system", "content": story}]

        def turn(server, question):
            answer = server.ask("/v1/chat/completions", {"messages": messages + [{"role": "user", "content": question}], "max_tokens": 30, "temperature": 0})
            messages.extend([{"role": "user", "content": question}, answer["choices"][0]["message"]])
            messages[-1] = {"role": "assistant", "content": messages[-1]["content"]}
            return answer["usage"]

        with Baton(ranks=4, store=store) as server:
            first = turn(server, "What began at dawn?")
            second = turn(server, "Who carried it?")
            third = turn(server, "Where to?")
            assert first["prompt_tokens_details"]["cached_tokens"] == 0, first
            assert first["prompt_tokens_details"]["cache_write_tokens"] >= first["prompt_tokens"] // 64 * 64, first
            assert second["prompt_tokens_details"]["cached_tokens"] >= first["prompt_tokens"] // 64 * 64, second
            ratio = third["prompt_tokens_details"]["cached_tokens"] / third["prompt_tokens"]
            assert ratio >= 0.9 or third["prompt_tokens"] < 700, f"turn 3: {third}"
        with Baton(ranks=4, store=store) as server:
            del messages[1:]
            again = turn(server, "What began at dawn?")
            assert again["prompt_tokens_details"]["cached_tokens"] >= (again["prompt_tokens"] - 64) // 64 * 64, again
            assert json.loads(server.request("GET", "/admin/cluster")[2])["workers"]


def test_stop_leaves_nothing():
    before = shm_files()
    for transport in ("tcp", "shm"):
        server = Baton(ranks=4, transport=transport)
        with server:
            server.ask("/v1/completions", {"prompt": "one two three", "max_tokens": 4})
        assert server.process.returncode == 0, f"exit code {server.process.returncode}\n"
    assert shm_files() == before


def test_sigterm_at_mpirun_ends_all_within_seconds():
    with Baton(ranks=4) as server:
        server.ask("/v1/completions", {"prompt": "one two three", "max_tokens": 4})
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(20)
        assert not server.ranks()
        assert "draining" in server.log_text()


def test_a_killed_mpirun_takes_its_ranks_along():
    with Baton(ranks=4) as server:
        pids = server.ranks()
        assert len(pids) >= 4
        os.kill(server.process.pid, signal.SIGKILL)
        deadline = time.monotonic() + 30
        while any(os.path.exists(f"/proc/{p}") for p in pids if p != server.process.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        left = [p for p in pids if p != server.process.pid and os.path.exists(f"/proc/{p}")]
        assert not left, f"ranks left: {left}"


def test_drain_lets_running_answers_end():
    with Baton(ranks=4) as server:
        body = {"prompt": "Count: one, two, three,", "max_tokens": 60, "ignore_eos": True, "temperature": 0}

        def stop_at_the_tenth(index, event):
            if index == 10:
                server.process.send_signal(signal.SIGUSR2)

        events = server.stream("/v1/completions", body, stop_at_the_tenth)
        tokens = sum(1 for e in events if e.get("choices") and e["choices"][0]["finish_reason"] is None)
        assert tokens >= 59, f"{tokens} of 60 tokens came"
        assert server.stop() == 0


def test_blocks_come_back_when_clients_leave():
    with Baton(ranks=4) as server:
        def used():
            return sum(w["load"]["total_blocks"] - w["load"]["free_blocks"] for w in server.cluster()["workers"])

        server.ask("/v1/completions", {"prompt": "warm", "max_tokens": 2})
        baseline = used()
        body = json.dumps({"prompt": "Once upon a time " * 40, "max_tokens": 400, "ignore_eos": True, "stream": True}).encode()

        def leave_early():
            with socket.create_connection((server.host, server.port)) as s:
                s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                s.settimeout(30)
                got = b""
                while got.count(b"data: ") < 4:
                    got += s.recv(4096)

        in_parallel([leave_early] * 8)
        left = time.monotonic()
        while used() > baseline and time.monotonic() < left + 10:
            time.sleep(0.02)
        assert used() <= baseline, f"{used()} blocks are still used, {baseline} before"


def test_a_worker_joins_and_helps():
    with Baton(ranks=3, settings=["cluster.roles=coordinator+gateway,store,decode"]) as server:
        address = [w for w in server.cluster()["workers"] if "coordinator" in w["roles"]][0]["address"]
        joined = subprocess.Popen([BINARY, "cluster", "--join", address, "--role", "prefill", "--model", demo_model(), "--transport.kind=tcp"],
                                  stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT)
        try:
            deadline = time.monotonic() + 30
            while not any("prefill" in w["roles"] for w in server.cluster()["workers"]):
                assert time.monotonic() < deadline and joined.poll() is None, "the worker did not join"
                time.sleep(0.05)
            status, headers, _ = server.request("POST", "/v1/completions", {"prompt": "Far away, " * 200, "max_tokens": 4, "temperature": 0})
            assert status == 200 and "prefill=" in headers["x-baton-route"], headers
        finally:
            joined.send_signal(signal.SIGTERM)
            assert joined.wait(30) == 0


def test_errors_say_what_to_do():
    cases = [
        (["serve", "--model", "/nowhere/model.gguf"], 0, 2, "/nowhere/model.gguf"),
        (["cluster", "--model", demo_model()], 0, 2, "mpirun -n 4"),
        (["cluster", "--model", demo_model(), "--cluster.roles=coordinator,store"], 2, 2, "gateway"),
        (["cluster", "--model", demo_model(), "--cluster.roles=coordinator+gateway,store,prefill,decode"], 2, 2, "mpirun -n 4"),
        (["cluster", "--model", demo_model(), "--cluster.roles=coordinator+gatway,decode"], 2, 2, "gateway"),
        (["serve", "--model", demo_model(), "--gateway.prot=1"], 0, 2, "gateway.port"),
        (["cluster", "--join", "nonsense", "--model", demo_model()], 0, 2, "HOST:PORT"),
    ]
    for arguments, ranks, code, words in cases:
        done = run(*arguments, ranks=ranks)
        assert ranks or done.returncode == code, f"{arguments}: exit {done.returncode}\n{done.stderr}"  # mpirun's own code is its affair
        assert words in done.stderr, f"{arguments}: no {words!r} in:\n{done.stderr}"


def test_port_in_use_and_another_models_store():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        done = run("serve", "--model", demo_model(), f"--gateway.port={s.getsockname()[1]}")
        assert done.returncode in (1, 2) and str(s.getsockname()[1]) in done.stderr, done.stderr
    with tempfile.TemporaryDirectory(prefix="baton-store-") as store:
        with Baton(ranks=0, store=store) as server:
            server.ask("/v1/completions", {"prompt": "x " * 300, "max_tokens": 2})
        done = run("serve", "--model", demo_model(), "--gateway.port=0", f"--store.path={store}", "--model.kv_dtype=f32")
        assert done.returncode == 2 and "f32" in done.stderr and store in done.stderr, done.stderr


def cpu_seconds(pid):
    fields = open(f"/proc/{pid}/stat").read().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_rank_without_work_costs_next_to_nothing():
    for transport in ("auto", "mpi"):
        with Baton(ranks=4, transport=transport) as server:
            server.ask("/v1/completions", {"prompt": "Hello", "max_tokens": 4})
            time.sleep(1)  # what the request left behind is done
            pids = server.ranks()
            before = {pid: cpu_seconds(pid) for pid in pids}
            begin = time.monotonic()
            time.sleep(5)
            shares = {pid: (cpu_seconds(pid) - before[pid]) / (time.monotonic() - begin) for pid in pids}
            print(f"       {transport}: " + ", ".join(f"{100 * share:.1f} %" for share in shares.values()), flush=True)
            limit = 0.01 if transport == "auto" else 0.05  # MPI cannot sleep for a message: it looks
            assert all(share <= limit + 0.004 for share in shares.values()), f"{transport}: {shares} of a core"  # 0.004: two ticks


if __name__ == "__main__":
    run_tests(sys.modules[__name__])
