"""Odd but likely input: files saved by other tools, lines that are too deep, servers of other makers, packs of caches carried from one
cluster to another, settings typed where none are taken. What can be done is done; what cannot gets one message, in time."""
import contextlib
import http.server
import json
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time

from cluster import BINARY, ENVIRONMENT, Baton, run_tests
from program import GOLDEN, TINY, Tensors, baton, folder, lines, refused, write_json

STORY = "The relay began at dawn. Each runner carried the baton to the next village and told what the last had seen. "
DEEP = "[" * 200000


# ---- settings ----

def settings_of(text):
    """key → value as it was printed, without comments."""
    found, section = {}, None
    for line in text.splitlines():
        if re.match(r"^\w+:$", line):
            section = line[:-1]
        elif match := re.match(r"^  (\w+): (.*?)  # ", line):
            found[f"{section}.{match[1]}"] = match[2]
    return found


def test_what_is_printed_is_a_config_file():
    draw = random.Random(3)
    words = ["plain", "with space", "a: b", "# no comment", "'single'", "\"double\"", "back\\slash", "caf\u00e9", "{a}", "[b]", "&c", "*d", "-", "~", "null", "true", "", "tab\there"]
    with folder() as here:
        for _ in range(8):
            flags = [f"--model.name={draw.choice(words)}", f"--store.path={draw.choice(words)}", f"--gateway.host={draw.choice(words)}",
                     f"--cluster.roles={draw.choice(['coordinator+gateway,decode', 'a: b,# c', '[x],{y}', 'null,~'])}", f"--engine.kv_bytes={draw.randrange(1 << 20, 1 << 40)}",
                     f"--router.max_wait_s={draw.uniform(0.1, 3600)}", f"--log.json={draw.choice(['true', 'false'])}"]
            first = baton("config", "--print", *flags).out
            (here / "c.yaml").write_text(first)
            second = baton("config", "--print", "--config", here / "c.yaml").out
            assert settings_of(first) == settings_of(second), (flags, first)
            assert len(settings_of(first)) > 40, first
        (here / "dos.yaml").write_bytes(first.replace("\n", "\r\n").encode())
        assert settings_of(baton("config", "--print", "--config", here / "dos.yaml").out) == settings_of(first), "lines that end as on DOS"
        (here / "bom.yaml").write_bytes(b"\xef\xbb\xbf" + first.encode())
        assert settings_of(baton("config", "--print", "--config", here / "bom.yaml").out) == settings_of(first), "a byte order mark"


def test_a_printed_config_gives_away_no_key_and_sets_none():
    secrets = {"BATON_GATEWAY_API_KEYS": "k-one,k-two", "BATON_GATEWAY_ADMIN_KEY": "k-admin", "BATON_CLUSTER_KEY": "k-cluster", "BATON_GATEWAY_TENANTS": "t:k-tenant"}
    with folder() as here:
        printed = baton("config", "--print", environment=secrets).out
        assert "k-" not in printed and printed.count("(hidden)") == len(secrets), printed
        (here / "c.yaml").write_text(printed)
        again = baton("config", "--print", "--config", here / "c.yaml").out
        assert "(hidden)" not in again, "a key that everybody knows is worse than none"
        with Baton(ranks=0, model=TINY, settings=[f"config={here / 'c.yaml'}"]) as server:
            status, _, _ = server.request("GET", "/v1/models")
            assert status == 200, "no key is asked, as the file says"


def test_settings_are_for_commands_that_take_them():
    for command in (["generate", "--model", TINY, "--prompt", "a"], ["tokenize", "--model", TINY], ["store", "ls", "--path", "/x"], ["bench", "engine", "--model", TINY], ["version"]):
        refused(*command, "--model.numerics=fast", words=["--model.numerics", f"`baton {command[0]}`", "serve"])
    baton("simulate", "--help", "--cluster.heartbeat_s=1")


# ---- files and lines ----

def test_files_of_ids_and_messages_as_tools_save_them():
    with folder() as here:
        file = here / "in.json"
        want = baton("generate", "--model", TINY, "--tokens", write_json(file, [5, 6, 7]), "--max-tokens", 3, "--json").one()["tokens"]
        for text in (b"\xef\xbb\xbf[5, 6, 7]", b"[5,\r\n6,\r\n7]\r\n", b"  [5 , 6 , 7 ]  \n\n"):
            file.write_bytes(text)
            assert baton("generate", "--model", TINY, "--tokens", file, "--max-tokens", 3, "--json").one()["tokens"] == want, text
        messages = [{"role": "user", "content": "Hello"}]
        want = baton("generate", "--model", TINY, "--messages", write_json(file, messages), "--max-tokens", 3, "--json").one()
        file.write_bytes(b"\xef\xbb\xbf" + json.dumps({"messages": messages, "model": "x", "stream": True}).encode())
        assert baton("generate", "--model", TINY, "--messages", file, "--max-tokens", 3, "--json").one()["tokens"] == want["tokens"], "a request as it is sent"
        for text, word in ((DEEP, "deeper"), ("[5, 6", "line 1"), ("[5,\n6,\n", "line 3"), ("", "in.json"), ("[5, 6, 7] x", "line 1"), ("[\"" + "y" * 300000 + "\"]", "entry 0"), ("[5," + DEEP + "]" * 200000 + "]", "deeper")):
            file.write_text(text)
            refused("generate", "--model", TINY, "--tokens", file, words=["in.json", word])
            refused("logits", "--model", TINY, "--tokens", file, "--out", here / "o", words=["in.json", word])
        file.write_bytes(b'[{"role": "user", "content": "\xff"}]')
        refused("generate", "--model", TINY, "--messages", file, words=["in.json", "UTF-8"])
        done = baton("generate", "--model", TINY, "--tokens", here, code=None)
        assert done.code in (1, 2) and str(here) in done.err and done.out == "", str(done)
        refused("generate", "--model", TINY, "--prompt", "a", "--json-schema", "{\"a\":" * 10000, words=["--json-schema", "deeper"])
        file.write_text("{\"a\":" * 100000)
        refused("generate", "--model", TINY, "--prompt", "a", "--json-schema", file, words=["--json-schema", "deeper"])
        refused("generate", "--model", TINY, "--prompt", "a", "--json-schema", "{\"type\":", words=["--json-schema", "line 1"])


def test_lines_on_stdin():
    good = {"text": "a b", "ids": [1, 2], "messages": [{"role": "user", "content": "x"}]}
    text = "\n".join([json.dumps(good), DEEP, "", " \t", "{\"text\": \"" + "word " * 200000 + "\"}", "{" + ",".join(f"\"k{i}\":{i}" for i in range(6000)) + "}", json.dumps(good)])
    for command, key in (("tokenize", "ids"), ("detokenize", "text"), ("render", "text")):
        rows = baton(command, "--model", TINY, text=text, timeout=60).rows()
        assert len(rows) == 5 and key in rows[0] and rows[0] == rows[4], (command, [str(r)[:100] for r in rows])
        assert "deeper" in rows[1]["error"] and "keys" in rows[3]["error"], (rows[1], rows[3])
        dos = baton(command, "--model", TINY, text=(json.dumps(good) + "\r\n") * 3).rows()
        assert dos == [rows[0]] * 3, dos
        assert baton(command, "--model", TINY, text=b"\xef\xbb\xbf" + json.dumps(good).encode()).rows() == [rows[0]], "a byte order mark"
        assert "error" in baton(command, "--model", TINY, text=b"\x00\x01\n").one()
    assert len(baton("tokenize", "--model", TINY, text=lines([{"text": "word " * 200000}])).one()["ids"]) >= 200000


def test_corpora_as_tools_save_them():
    with folder() as here:
        corpus = here / "corpus.jsonl"
        good = {"tokens": [5, 6, 7] * 60}
        corpus.write_bytes(b"\xef\xbb\xbf" + json.dumps(good).encode() + b"\r\n\r\n" + DEEP.encode() + b"\r\n" + json.dumps({"tokens": [[[1]]]}).encode() + b"\r\n" +
                           json.dumps({"prompt": STORY * 10}).encode())
        done = baton("warm", "--model", TINY, "--input", corpus, f"--store.path={here / 's'}", "--json", code=1, timeout=60)
        report = done.one()
        assert report["lines"] == 4 and report["bad_lines"] == 2 and report["prefixes"] == 2, str(done)
        assert "corpus.jsonl:3: " in done.err and "corpus.jsonl:4: tokens: entry 0 is [[1]]" in done.err, str(done)
        for path in (here, here / "none", "/dev/null"):
            done = baton("warm", "--model", TINY, "--input", path, f"--store.path={here / 't'}", "--json", code=None, timeout=60)
            assert done.code in (0, 1, 2) and (done.code == 0) == (str(path) == "/dev/null"), str(done)
            assert done.code == 0 or str(path) in done.err, str(done)


def test_traces_with_other_clocks():
    def trace(first):
        return lines([{"timestamp": first + 400 * i, "input_length": 600, "output_length": 5, "hash_ids": [i, i + 50]} for i in range(20)])
    with folder() as here:
        file = here / "t.jsonl"
        file.write_text(trace(0))
        want = baton("simulate", "--trace", file, "--json", timeout=60).one()
        file.write_text(trace(1_700_000_000_000))
        got = baton("simulate", "--trace", file, "--json", timeout=60).one()
        assert got["completed"] == want["completed"] == 20 and abs(got["seconds"] - want["seconds"]) < 0.01, "milliseconds since 1970"
        for flags in (["--rate-scale", "1e-300"], ["--rate-scale", "nan"], ["--fail", "decode0@1+inf"], ["--transfer-latency-s", "nan"], ["--step-s", "-1"]):
            refused("simulate", "--trace", file, "--json", *flags, timeout=60)
        file.write_text(lines([{"timestamp": 0, "input_length": 1, "output_length": 1, "hash_ids": [0]}, {"timestamp": 10 ** 13, "input_length": 1, "output_length": 1, "hash_ids": [0]}]))
        refused("simulate", "--trace", file, words="--rate-scale", timeout=60)


# ---- packs of caches from one cluster to another ----

def test_a_cache_goes_from_one_cluster_to_another():
    with folder() as here:
        prompt = [(7 * i) % 2000 for i in range(300)]
        body = {"prompt": prompt, "max_tokens": 6, "temperature": 0, "return_token_ids": True, "logprobs": 1}
        dtype = ["model.kv_dtype=f32"]
        with Baton(ranks=0, model=TINY, store=str(here / "a"), settings=dtype) as first:
            cold = first.ask("/v1/completions", body)
        ends = [r for r in baton("store", "ls", "--path", here / "a", "--json").rows()]
        assert ends and all(r["tokens"] == 64 for r in ends), ends
        ids = write_json(here / "ids.json", prompt)
        packed = baton("store", "export", "--path", here / "a", "--tokens", ids, here / "pack.safetensors", "--json").one()
        assert packed["blocks"] == 4 and packed["tokens"] == 256, packed
        assert json.loads(Tensors(here / "pack.safetensors").metadata["token_ids"]) == prompt[:256]

        took = baton("store", "import", "--path", here / "b", "--model", TINY, "--kv-dtype", "f32", here / "pack.safetensors", "--json").one()
        assert took["blocks"] == 4 and took["key"] == packed["key"], "the same blocks, the same names"
        with Baton(ranks=0, model=TINY, store=str(here / "b"), settings=dtype) as second:
            warm = second.ask("/v1/completions", body)
        assert warm["usage"]["prompt_tokens_details"]["cached_tokens"] == 256, warm["usage"]
        assert cold["usage"]["prompt_tokens_details"]["cached_tokens"] == 0, cold["usage"]
        assert warm["choices"][0]["token_ids"] == cold["choices"][0]["token_ids"]
        assert warm["choices"][0]["logprobs"]["token_logprobs"] == cold["choices"][0]["logprobs"]["token_logprobs"], "to the bit"
        again = baton("store", "export", "--path", here / "b", "--tokens", ids, here / "again.safetensors", "--json").one()
        assert again["blocks"] == 4 and Tensors(here / "again.safetensors").raw("layers.0.key") == Tensors(here / "pack.safetensors").raw("layers.0.key")

        refused("store", "import", "--path", here / "c", "--kv-dtype", "int8", here / "pack.safetensors", words="int8")
        refused("store", "import", "--path", here / "c", "--numerics", "roughly", here / "pack.safetensors", words="roughly")
        assert not (here / "c").exists(), "a refused pack leaves a folder behind"
        whole = (here / "pack.safetensors").read_bytes()
        (here / "cut.safetensors").write_bytes(whole[:-100])
        refused("store", "import", "--path", here / "b", here / "cut.safetensors", words="cut.safetensors")
        assert baton("store", "verify", "--path", here / "b", "--json").rows()[-1]["corrupt"] == 0
        other = str(GOLDEN / "checkpoints/tiny-llama-tied-f32")
        refused("store", "import", "--path", here / "d", "--model", other, here / "pack.safetensors", words="another model")
        assert not (here / "d").exists()


# ---- servers of other makers ----

class OddServer:
    """Speaks HTTP as the test says: `answer(path)` gives the bytes of the body in pieces, sent as they come."""

    def __init__(self, answer, content_type="text/event-stream"):
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.do_POST()

            def do_POST(self):
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.send_response(200)
                self.send_header("Content-Type", "application/json" if self.path == "/v1/models" else content_type)
                self.send_header("Connection", "close")
                self.end_headers()
                for piece in answer(self.path):
                    if piece is None:  # silent until the test ends
                        outer.ended.wait(60)
                        return
                    self.wfile.write(piece)
                    self.wfile.flush()
                self.close_connection = True

            def log_message(self, *_):
                pass

        self.ended = threading.Event()
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def delta(text, **more):
    return {"choices": [{"index": 0, "delta": {"content": text, **more}, "finish_reason": None}]}


def test_chat_speaks_to_other_servers():
    for end in ("\n", "\r\n", "\r"):
        for role in ({}, {"role": "assistant"}):
            events = [delta("", role="assistant"), delta("Hello", **role), delta(" w\u00f6rld", **role), {"error": None, "choices": [{"delta": {}, "finish_reason": "stop"}]}]
            stream = "".join(f": ping{end}{end}data: {json.dumps(e, ensure_ascii=False)}{end}{end}" for e in events) + f"data:[DONE]{end}{end}"
            data = stream.encode()
            for pieces in ([data], [data[i:i + 1] for i in range(len(data))]):
                with OddServer(lambda _, pieces=pieces: pieces) as server:
                    done = baton("chat", "--url", server.url, text="hi\n", timeout=60)
                    assert done.out == "Hello w\u00f6rld\n" and done.err == "", (end, role, str(done))


def test_streams_that_break_are_said():
    said = f"data: {json.dumps(delta('Hello'))}\n\n".encode()
    cases = [([said], "[DONE]"), ([said, b"data: {\"error\": {\"message\": \"out of memory\"}}\n\n"], "out of memory"), ([said, b"data: {\"error\": {\"message\": \"\"}}\n\n", b"data: [DONE]\n\n"], "error"),
             ([said, b"data: " + DEEP.encode() + b"\n\n"], "not JSON"), ([said, b"data: {\"error\": " + DEEP.encode() + b"}\n\ndata: [DONE]\n\n"], "not JSON"), ([said, b"data: \xff\n\n"], "not JSON")]
    for pieces, word in cases:
        with OddServer(lambda _, pieces=pieces: pieces) as server:
            done = baton("chat", "--url", server.url, text="hi\nmore\n", code=1, timeout=60)
            assert done.out == "Hello\n" and word in done.err and len(done.err) < 3000, str(done)


def test_a_silent_server_is_given_up_in_time():
    models = json.dumps({"data": [{"id": "m", "vocab_size": 1000, "max_model_len": 2048}]}).encode()

    def answer(path):
        return [models] if path == "/v1/models" else [f"data: {json.dumps(delta('a'))}\n\n".encode(), None]
    with OddServer(answer) as server:
        begin = time.monotonic()
        done = baton("bench", "load", "--url", server.url, "--requests", 2, "--concurrency", 2, "--prompt-tokens", 4, "--max-tokens", 2, "--timeout-s", "1", "--json", code=1, timeout=60)
        assert time.monotonic() - begin < 30 and done.one()["failed"] == 2, str(done)
        assert any("in time" in error for error in done.one()["errors"]), str(done)


def test_top_ends_with_its_server_and_with_ctrl_c():
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(Baton(ranks=0, model=TINY))
        for command in (["top", "--interval-s", "0.05", "--json"], ["top", "--interval-s", "3600", "--json"]):
            top = subprocess.Popen([BINARY, *command, "--url", server.url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT, text=True)
            stack.callback(top.kill)
            assert json.loads(top.stdout.readline())["ready"] is True
            top.send_signal(signal.SIGINT)
            top.communicate(timeout=30)
            assert top.returncode == -signal.SIGINT, "Ctrl-C ends it, also while it waits"
        watched = subprocess.Popen([BINARY, "top", "--interval-s", "0.05", "--json", "--url", server.url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT, text=True)
        stack.callback(watched.kill)
        assert json.loads(watched.stdout.readline())["cluster"]["workers"]
        server.stop()
        out, err = watched.communicate(timeout=60)
        assert watched.returncode == 1 and f":{server.port}" in err and all(json.loads(line) for line in out.splitlines()), err


def test_addresses_that_are_none():
    for command in (["chat"], ["top", "--once"], ["bench", "load", "--requests", 1]):
        for url, word in (("https://127.0.0.1", "https"), ("ftp://127.0.0.1", "port"), ("127.0.0.1:99999", "65535"), ("::1", "brackets"), ("http://u:p@h", "http://HOST:PORT"), ("http://h/\r\nX: y", "may not"), ("", "host")):
            refused(*command, "--url", url, words=word, text="hi\n", timeout=60)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, so that nobody else listens there
        port = closed.getsockname()[1]
        done = baton("chat", "--url", f"127.0.0.1:{port}", text="hi\n", code=1, timeout=60)
        assert str(port) in done.err, str(done)


# ---- the machine ----

def test_doctor_on_a_bare_machine():
    with folder() as here:
        for environment in ({"PATH": "/nowhere:::"}, {"TMPDIR": str(here / "none"), "HOME": "/nowhere", "XDG_CACHE_HOME": "/nowhere"}):
            rows = baton("doctor", "--json", "--gateway.port=0", environment=environment, timeout=120).rows()
            checks = {row["check"]: row for row in rows}
            assert len(checks) == len(rows) >= 11 and all(row["verdict"] != "failed" for row in rows), rows
            if not environment.get("PATH", "/usr").startswith("/usr"):
                assert checks["mpi"]["verdict"] == "warning" and "mpirun" in checks["mpi"]["found"] + checks["mpi"]["advice"], checks["mpi"]
        done = baton("doctor", "--json", "--gateway.port=0", "--transport.kind=mpi", code=None, timeout=120)
        assert "Sanitizer" not in done.err and {row["check"] for row in done.rows()} >= {"transports", "transfer speed"}, str(done)
        (here / "file").write_text("x")
        for path in (here / "file" / "store", "/proc/store"):
            done = baton("doctor", "--json", "--gateway.port=0", f"--store.path={path}", code=None, timeout=120)
            assert done.code in (0, 1), str(done)
            store = next(row for row in done.rows() if row["check"] == "store")
            assert store["verdict"] != "ok" and store["advice"], f"a store that cannot be made there: {store}"


if __name__ == "__main__":
    run_tests(sys.modules[__name__])
