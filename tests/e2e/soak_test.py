"""Everything at once, for a while: clients that ask, stream, leave and carry conversations on, while workers are killed, stopped and started
again. Every answer that is waited for has the bits of an undisturbed process; afterwards nothing is held, and nothing grew.
BATON_SOAK_S (25) is how long the load lasts, BATON_SOAK_SEED (1) what is asked and hit."""
import http.client
import json
import os
import random
import signal
import sys
import time

from cluster import Baton, JoinedCluster, in_parallel, run_tests

SECONDS = float(os.environ.get("BATON_SOAK_S", 25))
SEED = int(os.environ.get("BATON_SOAK_SEED", 1))
CLIENTS = 5
ROLES = [("coordinator", "coordinator"), ("gateway", "gateway"), ("store", "store"), ("prefill", "prefill"), ("prefill-2", "prefill"), ("decode", "decode"), ("decode-2", "decode")]
VICTIMS = ["coordinator", "store", "prefill", "prefill-2", "decode", "decode-2"]
SETTINGS = ["cluster.heartbeat_s=0.1", "engine.kv_bytes=134217728", "engine.prefill_chunk_tokens=128"]
SCHEMA = {"type": "object", "properties": {"bird": {"type": "string", "maxLength": 12}, "count": {"type": "integer", "minimum": 0, "maximum": 99}}, "required": ["bird", "count"],
          "additionalProperties": False}


def story(seed, sentences):
    return f"Log {seed}. " + " ".join(f"Station {(seed * 7919 + i * 31) % 997} saw {(i * seed + 13) % 89} birds." for i in range(sentences))


def bodies():
    """Path and body of each thing that is asked: every kind of state a request carries along."""
    plain = {"max_tokens": 24, "logprobs": 2, "ignore_eos": True}
    sampled = {"temperature": 0.9, "top_p": 0.95, "seed": 5}
    chat = {"messages": [{"role": "user", "content": "Which birds did you see? " + story(3, 6)}], "max_tokens": 24, "seed": 9}
    completions = [
        {"prompt": story(1, 8), "temperature": 0, **plain},
        {"prompt": story(1, 8) + " Station 12", **sampled, **plain},  # shares blocks with the one before
        {"prompt": story(2, 60), "temperature": 0, **plain},
        {"prompt": story(2, 90), **sampled, **plain, "n": 2},
        {"prompt": [story(4, 4), story(5, 20)], "temperature": 0, **plain},
        {"prompt": story(6, 10), **sampled, **plain, "presence_penalty": 0.6, "frequency_penalty": 0.4, "repetition_penalty": 1.1},
        {"prompt": story(7, 10), **sampled, **plain, "min_p": 0.05, "top_k": 40, "logit_bias": {"30": 4, "31": -100}},
        {"prompt": story(8, 5), **sampled, "max_tokens": 12, "n": 2, "best_of": 3, "logprobs": 1},
        {"prompt": story(9, 12) + " " + story(9, 12), "temperature": 0, **plain},  # repeats itself: guesses pay
    ]
    chats = [
        {**chat, "temperature": 0, "logprobs": True, "top_logprobs": 2},
        {**chat, "temperature": 1, "n": 3, "logprobs": True},
        {**chat, "temperature": 0, "max_tokens": 40, "response_format": {"type": "json_schema", "json_schema": {"name": "sighting", "schema": SCHEMA, "strict": True}}},
    ]
    return [("/v1/completions", b) for b in completions] + [("/v1/chat/completions", b) for b in chats]


def bits(answer):
    """What must not change: text, end and logprobs of every choice."""
    return json.dumps([[c.get("text"), c.get("message", {}).get("content"), c["finish_reason"], c.get("logprobs")] for c in answer["choices"]])


def text_of(choice):
    return choice["text"] if "text" in choice else choice.get("delta", choice.get("message", {})).get("content") or ""


def with_a_stop(path, body, answer):
    text = text_of(answer["choices"][0])
    middle = len(text) // 2
    return path, dict(body, stop=[text[middle:middle + 4] or text])


class Cases:
    """What is asked, and what one undisturbed process answers."""

    def __init__(self):
        with Baton(ranks=0, settings=["engine.kv_bytes=134217728"]) as server:
            asked = bodies()
            asked += [with_a_stop(path, body, server.ask(path, body)) for path, body in asked[:2]]
            self.all = [(path, body, server.ask(path, body)) for path, body in asked]
            self.turns = self._conversation(server)

    def _conversation(self, server):
        messages, turns = [{"role": "system", "content": story(10, 30)}], []
        for question in ("How many stations are there?", "Which saw the most?", "And the least?"):
            messages.append({"role": "user", "content": question})
            body = {"messages": list(messages), "max_tokens": 20, "temperature": 0, "logprobs": True}
            answer = server.ask("/v1/chat/completions", body)
            turns.append(("/v1/chat/completions", body, answer))
            messages.append({"role": "assistant", "content": answer["choices"][0]["message"]["content"]})
        return turns


class Client:
    """Asks until the time is up. `done` counts what it did by kind; a wrong or failed answer raises."""

    def __init__(self, server, cases, seed, until):
        self.server, self.cases, self.random, self.until = server, cases, random.Random(seed), until
        self.done = {"whole": 0, "stream": 0, "left": 0, "conversation": 0, "told to wait": 0}

    def run(self):
        while time.monotonic() < self.until:
            kind = self.random.choice(["whole", "stream", "left", "conversation"])
            if kind == "conversation":
                for case in self.cases.turns:
                    self.whole(*case)
            else:
                {"whole": self.whole, "stream": self.stream, "left": self.leave}[kind](*self.random.choice(self.cases.all))
            self.done[kind] += 1
        return self.done

    def post(self, path, body):
        """A connection and its answer; waits and asks again while the cluster says that it is too busy."""
        for _ in range(100):
            connection = http.client.HTTPConnection(self.server.host, self.server.port, timeout=120)
            connection.request("POST", path, json.dumps(body).encode(), {"content-type": "application/json"})
            answer = connection.getresponse()
            if answer.status == 200:
                return connection, answer
            data = answer.read()
            connection.close()
            assert answer.status in (429, 503) and answer.getheader("retry-after"), f"{path}: {answer.status} {data[:300]!r}"
            self.done["told to wait"] += 1
            time.sleep(min(float(answer.getheader("retry-after")), 0.5))
        raise AssertionError(f"{path}: refused a hundred times")

    def whole(self, path, body, want):
        connection, answer = self.post(path, body)
        got = json.loads(answer.read())
        connection.close()
        assert bits(got) == bits(want), f"{body}\n  got  {bits(got)}\n  want {bits(want)}"
        assert got["usage"]["completion_tokens"] == want["usage"]["completion_tokens"], (got["usage"], want["usage"])

    def stream(self, path, body, want):
        if body.get("best_of"):
            return self.whole(path, body, want)  # cannot be streamed
        connection, answer = self.post(path, dict(body, stream=True))
        texts, ends, done = {}, {}, False
        for line in answer:
            if not line.startswith(b"data: "):
                continue
            done = line.strip() == b"data: [DONE]"
            event = {} if done else json.loads(line[6:])
            assert "error" not in event, event
            for choice in event.get("choices", []):
                texts[choice["index"]] = texts.get(choice["index"], "") + text_of(choice)
                ends[choice["index"]] = choice["finish_reason"] or ends.get(choice["index"])
        connection.close()
        assert done, f"{body}: the stream was cut"
        for choice in want["choices"]:
            index = choice["index"]
            assert (texts[index], ends[index]) == (text_of(choice), choice["finish_reason"]), f"{body}\n  got  {texts[index]!r} {ends[index]}\n  want {choice}"

    def leave(self, path, body, _):
        body = {k: v for k, v in body.items() if k != "best_of"}
        connection, answer = self.post(path, dict(body, stream=True, max_tokens=200))
        for _ in range(self.random.randrange(6)):
            answer.readline()
        connection.close()


class Chaos:
    """Hits one process after the other until the time is up; each is there again before the next is hit."""

    def __init__(self, server, seed, until):
        self.server, self.random, self.until, self.hits = server, random.Random(seed), until, []

    def run(self):
        while time.monotonic() < self.until - 3:
            name, number = self.random.choice(VICTIMS), self.random.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGSTOP])
            self.hits.append(f"{number.name} {name}")
            self.server.signal(name, number)
            time.sleep(self.random.uniform(0.1, 2))
            if number == signal.SIGSTOP:
                self.server.signal(name, signal.SIGCONT)
            everybody_is_back(self.server)
            time.sleep(self.random.uniform(0.5, 3))
        return self.hits


def everybody_is_back(server):
    """Starts who is gone (a worker that was stopped for long may find itself replaced, and ends)."""

    def all_ready(workers):
        for name, process in server.processes.items():
            if process.poll() is not None:
                server.start(name)
        return set(workers) == set(server.roles) and all(w["state"] == "ready" for w in workers.values())

    server.wait_for(all_ready, "all are back", 90)


def held(server):
    """Blocks, sequences and answers that somebody holds, over the whole cluster."""
    names = ('baton_worker_kv_blocks{state="referenced"}', "baton_worker_running_sequences", "baton_worker_waiting_requests", "baton_gateway_running_answers")
    total = {name: 0.0 for name in names}
    for line in server.request("GET", "/metrics")[2].decode().splitlines():
        for name in names:
            if line.startswith(name.rstrip("}")) and not line.startswith("#"):
                total[name] += float(line.split()[-1])
    return total


def handles(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def memory(pid):
    with open(f"/proc/{pid}/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_everything_at_once():
    print(f"       BATON_SOAK_S={SECONDS:g} BATON_SOAK_SEED={SEED}", flush=True)
    cases = Cases()
    with JoinedCluster(ROLES, settings=SETTINGS) as server:
        in_parallel([lambda case=case: Client(server, cases, 0, 0).whole(*case) for case in cases.all])  # warm, undisturbed
        gateway = server.processes["gateway"].pid
        before = handles(gateway), memory(gateway)
        until = time.monotonic() + SECONDS
        chaos = Chaos(server, SEED, until)
        results = in_parallel([chaos.run] + [Client(server, cases, SEED + 1 + i, until).run for i in range(CLIENTS)])
        done = {kind: sum(r[kind] for r in results[1:]) for kind in results[1]}
        print(f"       {done}; {', '.join(chaos.hits)}", flush=True)
        assert chaos.hits and done["whole"] + done["stream"] + done["conversation"] > CLIENTS, done
        deadline = time.monotonic() + 20
        while any(held(server).values()) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(held(server).values()), held(server)
        after = handles(gateway), memory(gateway)
        assert after[0] <= before[0] + 16, f"the gateway's file handles: {before[0]}, then {after[0]}"
        assert after[1] <= before[1] + (96 << 20), f"the gateway's memory: {before[1] >> 20} MiB, then {after[1] >> 20} MiB"


if __name__ == "__main__":
    run_tests(sys.modules[__name__])
