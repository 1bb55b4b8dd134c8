"""Bad input to the gateway, over real sockets against one server: whatever a client sends, it gets a clear error or a closed connection,
nobody else is harmed, and after each case the server still gives the very answer it gave before."""
import contextlib
import json
import socket
import struct
import sys
import threading
import time

from cluster import Baton, in_parallel, run_tests
from program import TINY

SERVER = None
BASELINE = None
PROBE = {"prompt": "The river came down from the hills", "max_tokens": 12, "temperature": 0, "return_token_ids": True, "ignore_eos": True}
CHAT = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}


def answers_as_before():
    """The proof of health: the probe's answer, nothing left running, no pool block left over."""
    status, _, data = SERVER.request("POST", "/v1/completions", PROBE, timeout=30)
    assert status == 200, (status, data[:300])
    assert json.loads(data)["choices"][0]["token_ids"] == BASELINE, "the answer has changed"
    assert SERVER.request("GET", "/health", timeout=10)[0] == 200
    deadline = time.monotonic() + 15
    while metric("baton_gateway_running_answers") > 0:
        assert time.monotonic() < deadline, "answers of clients that are gone run on"
        time.sleep(0.02)


def metric(name):
    for line in SERVER.request("GET", "/metrics")[2].decode().splitlines():
        if line.startswith(name + " "):
            return float(line.rsplit(" ", 1)[1])
    return 0.0


class Raw:
    """A socket on which every byte is ours."""

    def __init__(self, timeout=20):
        self.socket = socket.create_connection((SERVER.host, SERVER.port), timeout=timeout)
        self.held = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        with contextlib.suppress(ConnectionError):  # it may have answered and closed already: the answer is still to be read
            self.socket.sendall(data)

    def reset(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def fill(self):
        try:
            data = self.socket.recv(65536)
        except ConnectionError:
            return False
        self.held += data
        return bool(data)

    def answer(self):
        """Status, headers, body of the next answer; None where the connection ended without one."""
        while b"\r\n\r\n" not in self.held:
            if not self.fill():
                return None
        head, self.held = self.held.split(b"\r\n\r\n", 1)
        first, *rest = head.decode("latin-1").split("\r\n")
        headers = {k.lower(): v.strip() for k, v in (h.split(":", 1) for h in rest)}
        status = int(first.split(" ")[1])
        if status == 100:
            return self.answer()
        if "content-length" in headers:
            while len(self.held) < int(headers["content-length"]):
                assert self.fill(), "the answer is cut"
            body, self.held = self.held[:int(headers["content-length"])], self.held[int(headers["content-length"]):]
            return status, headers, body
        body = b""
        while True:  # chunks
            while b"\r\n" not in self.held:
                if not self.fill():
                    return status, headers, body
            size, self.held = self.held.split(b"\r\n", 1)
            while len(self.held) < int(size, 16) + 2:
                assert self.fill(), "a chunk is cut"
            body += self.held[:int(size, 16)]
            self.held = self.held[int(size, 16) + 2:]
            if int(size, 16) == 0:
                return status, headers, body

    def closed(self):
        """Reads on until the end; True once it is there, False after the socket's timeout."""
        try:
            while self.fill():
                pass
            return True
        except TimeoutError:
            return False


def post(path, body, headers=""):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return f"POST {path} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n{headers}Content-Length: {len(data)}\r\n\r\n".encode() + data


def error_of(status, data):
    """The error object, whole and well-formed."""
    error = json.loads(data)["error"]
    assert set(error) == {"message", "type", "param", "code"}, error
    assert isinstance(error["message"], str) and error["message"] and isinstance(error["type"], str), error
    assert error["param"] is None or isinstance(error["param"], str), error
    assert error["code"] is None or isinstance(error["code"], str), error
    assert {400: "invalid_request_error", 404: "invalid_request_error", 413: "invalid_request_error", 405: "invalid_request_error"}.get(status, error["type"]) == error["type"], error
    return error


WRONG = {
    "temperature": ["hot", -0.1, 2.01, True, [], {}], "top_p": ["x", -1, 1.1, [1]], "min_p": ["x", -0.5, 3], "top_k": ["x", 1.5, -2, 2 ** 40], "n": [0, -1, "2", 1.5, 129, [1]],
    "max_tokens": [-1, "many", 1.5, [], 2 ** 40], "seed": ["x", 1.5, [], 2 ** 70], "stop": [5, [5], [""], "", {"a": 1}, [["a"]], ["x"] * 100, "x" * 2000], "stream": ["yes", 1, []],
    "presence_penalty": ["x", 3, -2.5], "frequency_penalty": ["x", 3, -2.5], "repetition_penalty": ["x", 0, -1], "logit_bias": [5, [], {"x": 1}, {"1": "x"}, {"-1": 1}, {"99999": 1}, {"1": 101}, {"1": None}],
    "ignore_eos": ["x", 1], "stop_token_ids": ["x", [-1], [99999], [1.5], [[1]]], "model": [5, [], {}], "response_format": ["x", {}, {"type": 5}, {"type": "no_such_form"}], "cache_salt": [5, []],
    "priority": ["x", 1.5], "include_stop_str_in_output": ["x"], "return_token_ids": ["x"]}


def test_wrong_types_and_values_of_every_field():
    for path, base in (("/v1/chat/completions", CHAT), ("/v1/completions", {"prompt": "a", "max_tokens": 2})):
        for name, values in WRONG.items():
            for value in values:
                status, _, data = SERVER.request("POST", path, dict(base, **{name: value}), timeout=30)
                assert status == 400, f"{path} {name}={value!r}: {status} {data[:200]}"
                error = error_of(status, data)
                assert error["param"] == name and name in error["message"], f"{path} {name}={value!r}: {error}"
    more = [("/v1/chat/completions", CHAT, "logprobs", 1), ("/v1/chat/completions", CHAT, "top_logprobs", 5), ("/v1/chat/completions", dict(CHAT, logprobs=True), "top_logprobs", 21),
            ("/v1/chat/completions", CHAT, "tools", 5), ("/v1/chat/completions", CHAT, "stream_options", {"include_usage": True}), ("/v1/chat/completions", dict(CHAT, stream=True), "stream_options", 5),
            ("/v1/completions", {"prompt": "a"}, "logprobs", 21), ("/v1/completions", {"prompt": "a"}, "logprobs", -1), ("/v1/completions", {"prompt": "a"}, "best_of", 0),
            ("/v1/completions", {"prompt": "a"}, "echo", "x"), ("/v1/completions", {"prompt": "a"}, "suffix", "x"), ("/v1/responses", {"input": "a"}, "max_output_tokens", -1),
            ("/v1/responses", {"input": "a"}, "instructions", 5), ("/v1/responses", {}, "input", 5), ("/tokenize", {}, "prompt", 5), ("/tokenize", {"prompt": "a"}, "add_special_tokens", "x"),
            ("/detokenize", {}, "tokens", "x"), ("/detokenize", {}, "tokens", [99999]), ("/detokenize", {}, "tokens", [-1]), ("/detokenize", {}, "tokens", [None])]
    for path, base, name, value in more:
        status, _, data = SERVER.request("POST", path, dict(base, **{name: value}), timeout=30)
        assert status == 400 and error_of(status, data)["param"], f"{path} {name}={value!r}: {status} {data[:200]}"


def test_prompts_and_messages_of_wrong_forms():
    for prompt in (None, 5, "", [], [""], [[]], ["a", 5], [1, "a"], [-1], [99999], [[1, 99999]], {"a": 1}, [None], [True], ["a"] * 5000):
        status, _, data = SERVER.request("POST", "/v1/completions", {"prompt": prompt, "max_tokens": 1})
        assert status == 400 and error_of(status, data)["param"] == "prompt", f"{str(prompt)[:60]}: {status} {data[:200]}"
    forms = [5, [], [5], ["a"], [None], [[]], [{}], [{"role": "user"}], [{"content": "x"}], [{"role": 5, "content": "x"}], [{"role": "", "content": "x"}], [{"role": "user", "content": 5}],
             [{"role": "user", "content": {}}], [{"role": "user", "content": [5]}], [{"role": "user", "content": [{}]}], [{"role": "user", "content": [{"type": "text"}]}],
             [{"role": "user", "content": [{"type": "text", "text": 5}]}], [{"role": "user", "content": [{"type": "no_such_part"}]}], [{"role": "assistant", "content": None}],
             [{"role": "user", "content": "a"}, 7]]
    for path in ("/v1/chat/completions", "/apply-template", "/tokenize"):
        for form in forms:
            status, _, data = SERVER.request("POST", path, {"messages": form, "max_tokens": 1})
            assert status == 400, f"{path} {form!r}: {status} {data[:200]}"
            assert (error_of(status, data)["param"] or "messages").startswith("messages"), (path, form, data)
    odd = [{"messages": [{"role": "no_such_role", "content": "x"}]}, {"messages": [{"role": "user", "content": "x", "tool_calls": 5}]}, {"messages": [{"role": "tool", "content": "x", "tool_call_id": 5}]},
           {"messages": [{"role": "assistant", "content": "x", "tool_calls": [{"function": {"arguments": "{"}}]}]}, dict(CHAT, tools=[5]), dict(CHAT, tools=[{"type": "function"}]),
           dict(CHAT, chat_template_kwargs=5), dict(CHAT, documents=5), dict(CHAT, add_generation_prompt="x")]
    for body in odd:
        status, _, data = SERVER.request("POST", "/v1/chat/completions", dict(body, max_tokens=1))
        assert status in (200, 400), f"{body}: {status} {data[:300]}"
        assert status == 200 or error_of(status, data)


def test_bodies_that_are_no_json_objects():
    bad = [b"", b" ", b"{", b"}", b"[]", b"5", b"null", b'"x"', b"{} {}", b"{}x", b"{'a': 1}", b'{"a": NaN}', b'{"a": 1e999}', b'{"a": 01}', b'{"a": 1,}', b'{"prompt": "\xff\xfe"}', b'{"prompt": "\\ud800"}',
           b'{"prompt": "a\nb"}', b"\xef\xbb\xbf[]", b"\x00\x01\x02", b"{" * 100000, b"[" * 100000, b'{"a":' * 5000, b'{"prompt": "' + b"x" * 100, b'{"prompt"' + b" " * 100000,
           b"{" + b",".join(b'"k%d":0' % i for i in range(5000)) + b"}", b'{"a":[' + b"0," * 1200000 + b"0]}"]
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/tokenize", "/detokenize", "/apply-template"):
        for body in bad if path == "/v1/completions" else bad[:17]:
            with Raw() as raw:
                raw.send(post(path, body))
                status, headers, data = raw.answer()
                assert status == 400, f"{path} {body[:40]!r}: {status} {data[:200]}"
                error_of(status, data)
                assert "x-request-id" in headers
                raw.send(b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n")
                assert raw.answer()[0] == 200, "the connection goes on after an error"
    twice = SERVER.ask("/v1/completions", b'{"prompt": "a", "prompt": "The river", "max_tokens": 1, "max_tokens": 2, "ignore_eos": true}')
    assert twice["usage"]["completion_tokens"] == 2, "of equal keys the last counts"


def test_unknown_models_paths_and_methods():
    status, _, data = SERVER.request("POST", "/v1/chat/completions", dict(CHAT, model="no-such-model"))
    error = error_of(status, data)
    assert status == 404 and error["code"] == "model_not_found" and "no-such-model" in error["message"] and "tiny-qwen2-f32" in error["message"], error
    assert SERVER.request("GET", "/v1/models/no-such-model")[0] == 404
    for path in ("/v1", "/v1/", "/v1/nothing", "/v1/models/", "//", "/../etc/passwd", "/%2e%2e/etc/passwd", "/v1/completions/", "/V1/completions", "/admin", "/debug/requests/", "/x" * 2000, "/%", "/%zz", "/%00"):
        status, _, data = SERVER.request("GET", path)
        assert status in (400, 404, 405), f"{path[:60]}: {status}"
        error_of(status, data)
    for method, path, allowed in (("GET", "/v1/completions", "POST"), ("PUT", "/v1/completions", "POST"), ("DELETE", "/health", "GET"), ("POST", "/health", "GET"), ("PATCH", "/v1/models", "GET"),
                                  ("DELETE", "/v1/chat/completions", "POST"), ("POST", "/metrics", "GET")):
        status, headers, data = SERVER.request(method, path)
        assert status == 405 and allowed in headers["allow"], f"{method} {path}: {status} {headers}"
        error_of(status, data)


def test_prompts_that_do_not_fit():
    models = json.loads(SERVER.request("GET", "/v1/models")[2])
    context = models["data"][0]["max_model_len"]
    for body in ({"prompt": [5] * context, "max_tokens": 1}, {"prompt": [5] * (context + 1)}, {"prompt": "a", "max_tokens": context}, {"prompt": [5] * (context - 10), "max_tokens": 11},
                 {"prompt": "word " * 400000, "max_tokens": 1}):
        status, _, data = SERVER.request("POST", "/v1/completions", body)
        error = error_of(status, data)
        assert status == 400 and error["code"] == "context_length_exceeded" and str(context) in error["message"], error
    status, _, data = SERVER.request("POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": "long " * 200000}]})
    assert status == 400 and error_of(status, data)["code"] == "context_length_exceeded"


def test_huge_bodies():
    limit = 16 << 20
    for chunked in (False, True):
        with Raw(timeout=60) as raw:
            if chunked:
                raw.send(b"POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
                piece = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
                for _ in range(18):
                    raw.send(piece)
                raw.send(b"0\r\n\r\n")
            else:
                raw.send(b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (limit + 1) + b" " * (limit + 1))
            status, _, data = raw.answer()
            assert status == 413 and error_of(status, data)["code"] == "request_too_large", (status, data[:200])
    for length in (limit + 1, 10 ** 15, 2 ** 63 - 1):
        with Raw() as raw:
            raw.send(b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % length)
            answer = raw.answer()
            assert answer[0] == 413, answer
    assert SERVER.ask("/tokenize", {"prompt": "river " * 200000})["count"] > 200000, "what is below the limit is served"


def test_broken_http():
    broken = [b"garbage\r\n\r\n", b"\0\0\0\0\r\n\r\n", b"GET\r\n\r\n", b"GET /\r\n\r\n", b"BREW /pot HTTP/1.1\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\nno colon here\r\n\r\n", b"\r\n\r\n\r\n",
              b"GET / HTTP/1.1\r\n : empty name\r\n\r\n", b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n", b"GET / HTTP/1.1\r\nA: \xff\xfe\x00\r\n\r\n", b"get / http/1.1\r\n\r\n",
              b"POST /tokenize HTTP/1.1\r\nContent-Length: x\r\n\r\n", b"POST /tokenize HTTP/1.1\r\nContent-Length: -5\r\n\r\n", b"POST /tokenize HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 7\r\n\r\nabcdefg",
              b"POST /tokenize HTTP/1.1\r\nContent-Length: 5, 7\r\n\r\nabcdefg", b"POST /tokenize HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n",
              b"POST /tokenize HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", b"POST /tokenize HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"POST /tokenize HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
              b"POST /tokenize HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", b"POST /tokenize HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
              b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET " + b"/a" * 200000 + b" HTTP/1.1\r\n\r\n", b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n",
              b"GET http://other.example/health HTTP/1.1\r\nHost: other.example\r\n\r\n", b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", b"TRACE / HTTP/1.1\r\nHost: x\r\n\r\n"]
    for data in broken:
        begin = time.monotonic()
        with Raw() as raw:
            raw.send(data)
            try:
                raw.socket.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # the server was faster and has closed already
            answer = raw.answer()
            assert time.monotonic() - begin < 10, f"{data[:60]!r} held the connection"
            if answer is not None:
                assert 200 <= answer[0] <= 505 and answer[0] != 500, (data[:60], answer)
                assert answer[0] < 400 or error_of(answer[0], answer[2]), (data[:60], answer)
        answers_as_before()


def test_header_floods():
    floods = [b"".join(b"X-%d: y\r\n" % i for i in range(5000)), b"X: " + b"y" * (1 << 20) + b"\r\n", b"X-Request-Id: " + b"a" * 100000 + b"\r\n", b"Authorization: Bearer " + b"k" * 60000 + b"\r\n",
              b"Cookie: a=b\r\n" * 20000, b"X" * 70000 + b": y\r\n"]
    for flood in floods:
        with Raw() as raw:
            raw.send(b"GET /health HTTP/1.1\r\nHost: x\r\n" + flood + b"\r\n")
            answer = raw.answer()
            assert answer is None or answer[0] in (200, 400, 413, 431), answer
    with Raw() as raw:
        raw.send(b"GET /live HTTP/1.1\r\nHost: x\r\nX-Request-Id: abc\x01\xe9\"<script>\r\n\r\n")
        answer = raw.answer()
        assert answer is None or all(" " <= c <= "~" for c in answer[1].get("x-request-id", "")), answer


def test_half_requests():
    whole = post("/v1/completions", dict(PROBE, stream=True))
    for cut in (1, 5, 20, 60, whole.index(b"\r\n\r\n"), whole.index(b"\r\n\r\n") + 4, len(whole) - 1):
        for how in ("close", "reset", "half"):
            raw = Raw()
            raw.send(whole[:cut])
            if how == "reset":
                raw.reset()
                continue
            if how == "half":
                raw.socket.shutdown(socket.SHUT_WR)
                assert raw.closed(), f"after {cut} bytes and an end of stream the connection stays"
            raw.socket.close()
    answers_as_before()


def test_clients_that_leave_at_any_moment():
    body = dict(PROBE, max_tokens=200, stream=True)
    def leave(after, how):
        with Raw() as raw:
            raw.send(post("/v1/completions", body))
            while len(raw.held) < after and raw.fill():
                pass
            if how == "reset":
                raw.reset()
    in_parallel([lambda a=a, h=h: leave(a, h) for a in (0, 1, 100, 500, 2000, 8000) for h in ("close", "reset")])
    with Raw() as raw:  # one that leaves before a whole answer
        raw.send(post("/v1/completions", dict(PROBE, max_tokens=400)))
    answers_as_before()


def test_a_client_that_reads_nothing_stops_only_itself():
    sleepers = [Raw() for _ in range(8)]
    try:
        for raw in sleepers:
            raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            raw.send(post("/v1/completions", dict(PROBE, max_tokens=1500, stream=True, logprobs=5)))
        begin = time.monotonic()
        for _ in range(3):
            assert json.loads(SERVER.request("POST", "/v1/completions", PROBE, timeout=60)[2])["choices"][0]["token_ids"] == BASELINE
        assert time.monotonic() - begin < 60
    finally:
        for raw in sleepers:
            raw.socket.close()
    answers_as_before()


def test_pipelining():
    with Raw(timeout=60) as raw:
        count = 30
        data = b""
        for i in range(count):
            kind = i % 5
            header = f"X-Request-Id: {i}\r\n"
            data += (post("/v1/completions", dict(PROBE, max_tokens=2), header) if kind == 0 else post("/v1/completions", dict(PROBE, max_tokens=2, stream=True), header) if kind == 1
                     else post("/v1/completions", b"{", header) if kind == 2 else post("/tokenize", {"prompt": "a"}, header) if kind == 3 else f"GET /nothing HTTP/1.1\r\nHost: x\r\n{header}\r\n".encode())
        sender = threading.Thread(target=raw.send, args=(data,))
        sender.start()
        wanted = {0: 200, 1: 200, 2: 400, 3: 200, 4: 404}
        for i in range(count):
            answer = raw.answer()
            assert answer is not None and answer[0] == wanted[i % 5] and answer[1]["x-request-id"] == str(i), (i, answer)
            assert i % 5 != 1 or answer[2].endswith(b"data: [DONE]\n\n")
        sender.join()


def test_smuggling_is_not_possible():
    """A body is never read as the next request."""
    inner = b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n"
    with Raw(timeout=10) as raw:
        raw.send(post("/tokenize", json.dumps({"prompt": inner.decode()}).encode()) + b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert raw.answer()[0] == 200
        assert b"ok" in raw.answer()[2]
    with Raw(timeout=10) as raw:  # 404: its body is skipped
        raw.send(post("/nothing", inner) + b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert raw.answer()[0] == 404
        answer = raw.answer()
        assert answer is None or b"ok" in answer[2], answer


def test_many_connections():
    idle = []
    try:
        for _ in range(400):
            idle.append(Raw())
        answers_as_before()
        for raw in idle[:200]:
            raw.send(b"GET /he")  # and no more
        answers_as_before()
    finally:
        for raw in idle:
            raw.socket.close()
    answers_as_before()


def test_slow_senders_are_served_or_ended():
    with Raw(timeout=30) as raw:  # a body that drips in is waited for
        data = post("/tokenize", {"prompt": "a"})
        for byte in data[:-1]:
            raw.send(bytes([byte]))
        raw.send(data[-1:])
        assert raw.answer()[0] == 200
    loris = [Raw(timeout=40) for _ in range(50)]
    begin = time.monotonic()
    for raw in loris:
        raw.send(b"POST /tokenize HTTP/1.1\r\nHost: x\r\nX-Slow:")
    answers_as_before()
    for raw in loris:
        assert raw.closed(), "headers that never end hold a connection for ever"
        raw.socket.close()
    assert time.monotonic() - begin < 35, "all of them at once, not one after another"


def test_expect_continue():
    with Raw() as raw:
        body = json.dumps({"prompt": "a"}).encode()
        raw.send(b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body))
        while b"100" not in raw.held:
            assert raw.fill(), "no 100 Continue"
        raw.send(body)
        assert raw.answer()[0] == 200


def test_a_storm_of_bad_and_good():
    bad = [b"garbage\r\n\r\n", post("/v1/completions", b"{"), post("/v1/completions", dict(PROBE, temperature=-1)), b"POST /tokenize HTTP/1.1\r\nContent-Length: 50\r\n\r\n{"]
    def worker(i):
        for round in range(12):
            if i % 2:
                with Raw() as raw:
                    raw.send(bad[(i + round) % len(bad)])
                    if round % 3 == 0:
                        raw.reset()
            else:
                got = json.loads(SERVER.request("POST", "/v1/completions", PROBE, timeout=60)[2])
                assert got["choices"][0]["token_ids"] == BASELINE, got
    in_parallel([lambda i=i: worker(i) for i in range(8)])


def with_health(test):
    def run():
        test()
        answers_as_before()
    return run


if __name__ == "__main__":
    module = sys.modules[__name__]
    for name in [n for n in vars(module) if n.startswith("test_")]:
        setattr(module, name, with_health(getattr(module, name)))
    code = 1
    with Baton(ranks=0, model=TINY, settings=["engine.kv_bytes=67108864"]) as SERVER:
        BASELINE = SERVER.ask("/v1/completions", PROBE)["choices"][0]["token_ids"]
        try:
            run_tests(module)
        except SystemExit as end:
            code = end.code
        assert "CHECK failed" not in SERVER.log_text(), SERVER.log_text()[-3000:]
    sys.exit(code)
