"""Promise 3: whoever is killed or stopped, and whenever, each open stream goes on and ends with the very tokens of an undisturbed run, each
of them once. One line for each cell of the table in docs/failure.md."""
import collections
import json
import os
import signal
import subprocess
import sys
import threading
import time

from cluster import BINARY, ENVIRONMENT, Baton, JoinedCluster, demo_model, in_parallel, run_tests

VICTIMS = ["coordinator", "store", "prefill", "decode"]
PHASES = ["queued", "prefill", "transfer", "first token", "decode", "drain"]
TOKENS = 32 if os.environ.get("BATON_DEMO_MODEL") else 300  # of the tiny model more: they come fast
ROLES = [("coordinator", "coordinator"), ("gateway", "gateway"), ("store", "store"), ("prefill", "prefill"), ("decode", "decode"), ("decode-2", "decode")]
# Few places and small chunks, so that each phase lasts long enough to be met.
SETTINGS = ["cluster.heartbeat_s=0.05", "engine.max_running=2", "engine.prefill_chunk_tokens=64", "engine.kv_bytes=134217728"]


def prompt(seed, words=330):
    return f"Log {seed}. " + " ".join(f"Station {(seed * 7919 + i * 31) % 997} reports {(i * seed + 13) % 89} birds;" for i in range(words // 5)) + " The next station reports"


def bodies(seed):
    """Every kind of state that a stream carries along."""
    common = {"max_tokens": TOKENS, "ignore_eos": True}
    return [
        {"prompt": prompt(seed), "temperature": 0, "logprobs": 2, **common},
        {"prompt": prompt(seed + 1, 120), "temperature": 0.9, "seed": 7, "n": 2, "presence_penalty": 0.5, "frequency_penalty": 0.3, "logprobs": 1, **common},
        {"prompt": prompt(seed + 2, 120), "temperature": 0.8, "top_p": 0.9, "seed": 11, "repetition_penalty": 1.2, "logprobs": 1, **common},
    ]


def with_a_stop(body, answer):
    """The body with a stop string in the middle of what it answers, cut where no token ends if there is such a place."""
    text = answer["choices"][0]["text"]
    middle = len(text) * 3 // 5
    return dict(body, stop=[text[middle:middle + 5]])


def fingerprint(choice):
    lp = choice["logprobs"]
    return choice["text"], choice["finish_reason"], tuple(lp["tokens"]), tuple(lp["token_logprobs"]), json.dumps(lp["top_logprobs"])


class Reference:
    """What one undisturbed process answers."""

    def __init__(self):
        self.server = Baton(ranks=0, settings=["engine.kv_bytes=134217728"])

    def of(self, seed):
        asked = bodies(seed)
        asked[2] = with_a_stop(asked[2], self.server.ask("/v1/completions", asked[2]))
        return asked, [[fingerprint(c) for c in self.server.ask("/v1/completions", body)["choices"]] for body in asked]


class Stream:
    """A streamed answer on a thread of its own: what came, when, and how it ended."""

    def __init__(self, server, body):
        self.times, self.pieces, self.error = [], collections.defaultdict(list), None
        self.changed = threading.Condition()
        self.thread = threading.Thread(target=self._run, args=(server, body))
        self.thread.start()

    def _run(self, server, body):
        try:
            server.stream("/v1/completions", body, self._on_event)
        except BaseException as e:  # noqa: B902 - reported by answers()
            self.error = e
        with self.changed:
            self.changed.notify_all()

    def _on_event(self, _, event):
        with self.changed:
            if "error" in event:
                self.error = AssertionError(f"an error in the stream: {event}")
            for choice in event.get("choices", []):
                self.times.append(time.monotonic())
                self.pieces[choice["index"]].append(choice)
            self.changed.notify_all()

    def wait_for_tokens(self, count):
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.times) >= count or self.error or not self.thread.is_alive(), 120), "no token came"

    def answers(self):
        self.thread.join(180)
        assert not self.thread.is_alive(), "the stream hangs"
        if self.error:
            raise self.error
        merged = []
        for index in sorted(self.pieces):
            pieces = self.pieces[index]
            lps = [p["logprobs"] for p in pieces if p.get("logprobs")]
            choice = {"text": "".join(p["text"] for p in pieces), "finish_reason": pieces[-1]["finish_reason"],
                      "logprobs": {k: [x for lp in lps for x in lp[k]] for k in ("tokens", "token_logprobs", "top_logprobs")}}
            merged.append(fingerprint(choice))
        return merged

    def largest_gap(self, since):
        """Between two tokens, the second of which came after that time."""
        return max([b - a for a, b in zip(self.times, self.times[1:]) if b > since], default=0)


def loads(workers, role):
    return [w["load"] for w in workers.values() if role in w["roles"]]


def name_of(server, victim):
    """The process to hit; of two decode workers the one with more to lose."""
    if victim != "decode":
        return victim
    workers = server.wait_for(lambda ws: "decode" in ws and "decode-2" in ws, "the decode workers")
    routed = [d for d in server.cluster()["decisions"] if not d.get("total_s")]  # those that run; the longest prompt is the first stream's
    first = max(routed, key=lambda d: d["prompt_tokens"], default={"route": ""})
    chosen = [n for n in ("decode", "decode-2") if first["route"].startswith(f"decode={workers[n]['id']} ")]
    return (chosen or ["decode"])[0]


def reach(server, phase, asked):
    """Starts the cell's streams; comes back in the middle of the phase, with the time when it is surely met by the first of them."""
    if phase == "queued":  # others hold all places when the first comes; it waits at a worker or, for its turn, at the coordinator
        streams = [Stream(server, body) for body in asked[1:]]
        streams.insert(0, Stream(server, asked[0]))
        waits = lambda ws: server.cluster()["admission"]["held"] or any(load["waiting"] for load in loads(ws, "prefill") + loads(ws, "decode"))  # noqa: E731
        server.wait_for(lambda ws: waits(ws) or streams[0].times, "a queue")
        return streams
    streams = [Stream(server, body) for body in asked]
    whole = max(len(asked[0]["prompt"]) // 8, 1)  # tokens of the prompt, at the least
    queued = lambda ws: sum(load["queued_prefill_tokens"] for load in loads(ws, "prefill"))  # noqa: E731
    if phase in ("prefill", "transfer"):
        server.wait_for(lambda ws: queued(ws) > 0 or streams[0].times, "a prompt being computed")
    if phase == "transfer":  # the blocks of its first chunks are under way
        server.wait_for(lambda ws: 0 < queued(ws) < whole or streams[0].times, "blocks under way")
    if phase == "first token":
        streams[0].wait_for_tokens(1)
    if phase in ("decode", "drain"):
        streams[0].wait_for_tokens(8)
    return streams


def drain(server, name):
    """Asks the process to leave, and comes back when it has begun to."""
    worker = server.workers()[name]
    status, _, data = server.request("POST", f"/admin/drain/{worker['id']}")
    assert status == 200, (status, data)
    server.wait_for(lambda ws: name not in ws or ws[name]["state"] == "draining", f"{name} draining")


def run_cell(server, reference, victim, phase, number, seed):
    asked, want = reference.of(seed)
    streams = reach(server, phase, asked)
    name = name_of(server, victim)
    if phase == "drain":
        drain(server, name if victim != "coordinator" else name_of(server, "decode"))
    begun = sum(len(s.times) for s in streams)
    hit = time.monotonic()
    server.signal(name, number)
    if victim == "coordinator" and number == signal.SIGKILL:
        server.start(name)  # as a supervisor does; those that wait for it would wait gateway.wait_for_cluster_s
    got = [s.answers() for s in streams]
    for i, (a, b) in enumerate(zip(got, want)):
        assert a == b, f"{victim}, {phase}: stream {i} differs\n  got  {a}\n  want {b}"
    gap = max(s.largest_gap(hit) for s in streams)
    print(f"       {victim:12} {phase:12} hit after {begun:3} tokens, {time.monotonic() - hit:5.2f} s before the end: equal; largest gap {gap:.2f} s", flush=True)
    return gap


def restore(server):
    """Starts again whoever is gone or going."""

    def everybody(workers):
        for name, process in server.processes.items():
            if process.poll() is not None:
                server.start(name)
        return set(workers) == set(server.roles) and all(w["state"] == "ready" for w in workers.values())

    server.wait_for(everybody, "all are there again", 120)


def matrix(victims, number=signal.SIGKILL):
    reference = Reference()
    try:
        with JoinedCluster(ROLES, settings=SETTINGS) as server:
            seed = 1
            for victim in victims:
                for phase in PHASES:
                    run_cell(server, reference, victim, phase, number, seed)
                    if number == signal.SIGSTOP:
                        for process in server.processes.values():
                            process.send_signal(signal.SIGCONT)
                    restore(server)
                    seed += 10
    finally:
        reference.server.stop()


def test_killed_coordinator_in_every_phase():
    matrix(["coordinator"])


def test_killed_store_in_every_phase():
    matrix(["store"])


def test_killed_prefill_worker_in_every_phase():
    matrix(["prefill"])


def test_killed_decode_worker_in_every_phase():
    matrix(["decode"])


def test_a_stopped_worker_is_left_and_not_believed_when_it_wakes():
    reference = Reference()
    try:
        with JoinedCluster(ROLES, settings=SETTINGS) as server:
            gaps = []
            for seed, victim, phase in ((501, "decode", "decode"), (511, "decode", "first token"), (521, "prefill", "prefill"), (531, "store", "decode")):
                before = {n: w["incarnation"] for n, w in server.workers().items()}
                gaps.append(run_cell(server, reference, victim, phase, signal.SIGSTOP, seed))
                gone = server.wait_for(lambda ws: len(ws) == len(ROLES) - 1, "one that is declared dead")
                name = next(n for n in before if n not in gone)
                server.signal(name, signal.SIGCONT)
                now = server.wait_for(lambda ws: name in ws and ws[name]["state"] == "ready", "it is back")
                assert now[name]["incarnation"] > before[name], "it must come back as another"
                asked, want = reference.of(seed + 5)
                assert [s.answers() for s in [Stream(server, b) for b in asked]] == want, "wrong after it woke"
            print(f"       largest gap {max(gaps):.2f} s", flush=True)
    finally:
        reference.server.stop()


def forty(server, reference, number, seed):
    """40 streams, a quarter of them with two choices; the busier decode worker is hit in the middle."""
    tokens = 300 if os.environ.get("BATON_DEMO_MODEL") else 1500
    asked = []
    for i in range(40):
        style = {"temperature": 0} if i % 2 else {"temperature": 0.8, "seed": i, "presence_penalty": 0.2}
        asked.append({"prompt": prompt(seed + i, 40), "max_tokens": tokens, "ignore_eos": True, "logprobs": 0, "n": 2 if i % 4 == 0 else 1, **style})
    want = in_parallel([lambda b=b: [fingerprint(c) for c in reference.server.ask("/v1/completions", b, timeout=900)["choices"]] for b in asked])
    streams = [Stream(server, body) for body in asked]
    if os.environ.get("BATON_DEMO_MODEL"):
        for stream in streams:
            stream.wait_for_tokens(tokens // 10)
    workers = server.wait_for(lambda ws: sum(load["running"] for load in loads(ws, "decode")) >= 10, "streams that run")
    running = {n: w["load"]["running"] for n, w in workers.items() if "decode" in w["roles"]}
    name, hit = max(running, key=running.get), time.monotonic()
    server.signal(name, number)
    equal = sum(s.answers() == w for s, w in zip(streams, want))
    print(f"       {running[name]} of {sum(running.values())} sequences ran at {name}; {equal} of 40 equal; "
          f"largest gap {max(s.largest_gap(hit) for s in streams):.2f} s", flush=True)
    assert equal == 40
    assert running[name] > 0, "nothing was hit"


def test_forty_streams_one_of_two_decode_workers_killed():
    reference = Reference()
    try:
        with JoinedCluster(ROLES, settings=["cluster.heartbeat_s=0.05", "engine.kv_bytes=536870912"]) as server:
            forty(server, reference, signal.SIGKILL, 1000)
    finally:
        reference.server.stop()


def test_forty_streams_one_of_two_decode_workers_stopped():
    reference = Reference()
    try:
        with JoinedCluster(ROLES, settings=["cluster.heartbeat_s=0.05", "engine.kv_bytes=536870912"]) as server:
            forty(server, reference, signal.SIGSTOP, 2000)
    finally:
        reference.server.stop()


def test_the_coordinators_rank_is_killed_under_mpirun():
    """The gateway is on another rank, so that streams go on; a successor is started at the same address."""
    reference = Reference()
    asked, want = reference.of(3001)
    reference.server.stop()
    with Baton(ranks=5, settings=["cluster.roles=coordinator,gateway,store,prefill,decode"]) as server:
        coordinator = next(w for w in server.cluster()["workers"] if "coordinator" in w["roles"])
        streams = [Stream(server, body) for body in asked]
        streams[0].wait_for_tokens(4)
        os.kill(coordinator["pid"], signal.SIGKILL)
        assert [s.answers() for s in streams] == want
        successor = subprocess.Popen([BINARY, "cluster", "--join", coordinator["address"], "--role", "coordinator", "--model", demo_model()],
                                     stdin=subprocess.DEVNULL, stdout=server.out, stderr=server.log, env=ENVIRONMENT)
        try:
            again = [Stream(server, body) for body in asked]  # wait until it is there
            assert [s.answers() for s in again] == want
            deadline = time.monotonic() + 30  # it counts itself in once the others had their second
            while [w["state"] for w in server.cluster()["workers"]] != ["ready"] * 5:
                assert time.monotonic() < deadline, server.cluster()["workers"]
                time.sleep(0.02)
        finally:
            successor.terminate()
            assert successor.wait(60) == 0


if __name__ == "__main__":
    run_tests(sys.modules[__name__])
