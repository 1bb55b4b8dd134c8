"""Cache handles as a user sees them, over four ranks: made, used, cropped, forked, expired, deleted; over a restart, a killed store and a
killed worker; bounded by quotas; and two tenants that never meet."""
import json
import os
import signal
import sys
import tempfile
import time

from cluster import SHARED, Baton, in_parallel, run_tests

MODEL = str(SHARED / "golden/checkpoints/tiny-llama-tied-f32")
BLOCK = 64
BASE = {"max_tokens": 12, "temperature": 0.8, "seed": 5, "ignore_eos": True}


def tokens(n, first=40):
    """A prompt of exactly n tokens."""
    return [first + (7 * i) % 1500 for i in range(n)]


def server(store="", settings=(), **more):
    return Baton(ranks=4, model=MODEL, store=store, settings=settings, **more)


def bits(answer):
    choice = answer["choices"][0]
    return choice["text"], choice["finish_reason"], str(choice["logprobs"])


def complete(baton, body):
    return baton.ask("/v1/completions", dict(BASE, logprobs=2, **body))


def cached(answer):
    return answer["usage"]["prompt_tokens_details"]["cached_tokens"]


def call(baton, method, path, body=None, key=None):
    headers = {"content-type": "application/json"}
    if key:
        headers["authorization"] = f"Bearer {key}"
    status, _, data = baton.request(method, path, body, headers)
    return status, json.loads(data)


def made(baton, body, key=None):
    status, answer = call(baton, "POST", "/v1/caches", body, key)
    assert status == 200, answer
    return answer


def until(what, condition, seconds=30):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {what}")


def cold(baton, prompt):
    """The answer computed without any cache: in a key chain that nobody else has."""
    answer = complete(baton, {"prompt": prompt, "cache_salt": os.urandom(8).hex()})
    assert cached(answer) == 0, answer["usage"]
    return bits(answer)


def metric(baton, name):
    text = baton.request("GET", "/metrics")[2].decode()
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name)}


def test_made_used_and_changed():
    with server() as baton:
        prefix = tokens(300)
        handle = made(baton, {"tokens": prefix, "ttl_s": 600})
        assert handle["tokens"] == 300 and handle["blocks"] == 4 == handle["held_blocks"], handle
        assert handle["bytes"] > 0 and handle["tiers"]["memory"] == 4 and handle["expires_at"] > time.time() + 500, handle
        path = "/v1/caches/" + handle["id"]
        # Used: all its full blocks are found, and nothing else changes.
        prompt = prefix + tokens(50, 900)
        answer = complete(baton, {"prompt": prompt, "cache_id": handle["id"]})
        assert cached(answer) == 4 * BLOCK, answer["usage"]
        assert bits(answer) == cold(baton, prompt), "the cache changed the answer"
        # Without a prompt the request goes on from the handle.
        onwards = complete(baton, {"cache_id": handle["id"]})
        assert bits(onwards) == bits(complete(baton, {"prompt": prefix})) and onwards["usage"]["prompt_tokens"] == 300
        # A prompt that parts from the handle is refused, and told where.
        other = prefix[:150] + [3] + prefix[151:]
        status, error = call(baton, "POST", "/v1/completions", dict(BASE, prompt=other, cache_id=handle["id"]))
        assert status == 422 and "at token 150" in error["error"]["message"], error
        # Cropped where the edited prompt parts, it serves that prompt.
        status, cropped = call(baton, "POST", path + "/crop", {"tokens": other})
        assert status == 200 and cropped["tokens"] == 150 and cropped["blocks"] == 2, cropped
        edited = complete(baton, {"prompt": other, "cache_id": handle["id"]})
        assert cached(edited) >= 2 * BLOCK and bits(edited) == cold(baton, other)
        # A fork goes its own way.
        status, fork = call(baton, "POST", path + "/fork", {"length": 128, "pin": True})
        assert status == 200 and fork["tokens"] == 128 and fork["expires_at"] is None, fork
        status, longer = call(baton, "POST", path + "/extend", {"tokens": tokens(200, 77), "ttl_s": 900})
        assert status == 200 and longer["tokens"] == 350 and longer["held_blocks"] == 5, longer
        assert call(baton, "GET", "/v1/caches/" + fork["id"])[1]["tokens"] == 128
        ids = {c["id"] for c in call(baton, "GET", "/v1/caches")[1]["data"]}
        assert ids == {handle["id"], fork["id"]}
        # Deleted, it is gone, and its fork is not.
        assert call(baton, "DELETE", path)[0] == 200
        assert call(baton, "GET", path)[0] == 404 and call(baton, "DELETE", path)[0] == 404
        status, error = call(baton, "POST", "/v1/completions", dict(BASE, prompt=prompt, cache_id=handle["id"]))
        assert status == 404 and error["error"]["code"] == "cache_not_found", error
        assert complete(baton, {"prompt": tokens(300)[:140], "cache_id": fork["id"]})["usage"]["prompt_tokens"] == 140


def test_expiry():
    with server() as baton:
        handle = made(baton, {"tokens": tokens(200), "ttl_s": 1})
        path = "/v1/caches/" + handle["id"]
        until("the handle expires", lambda: call(baton, "GET", path)[0] == 404)
        assert time.time() >= handle["expires_at"]
        status, error = call(baton, "POST", "/v1/completions", dict(BASE, prompt=tokens(220), cache_id=handle["id"]))
        assert status == 404 and "expired" in error["error"]["message"], error
        until("its blocks are free", lambda: sum(metric(baton, "baton_store_pinned_blocks").values()) == 0)
        assert call(baton, "GET", "/v1/caches")[1]["data"] == []


def test_returned_caches_carry_a_conversation():
    with server() as baton:
        prompt = tokens(200)
        first = complete(baton, {"prompt": prompt, "return_cache": True, "max_tokens": 70})
        handle = call(baton, "GET", "/v1/caches/" + first["cache_id"])[1]
        assert handle["tokens"] == 270 and handle["held_blocks"] == 4, handle
        # The next turn goes on from prompt and answer, neither computed again.
        second = complete(baton, {"cache_id": first["cache_id"], "return_cache": True})
        assert second["usage"]["prompt_tokens"] == 270 and cached(second) == 4 * BLOCK, second["usage"]
        events = baton.stream("/v1/completions", dict(BASE, logprobs=2, cache_id=second["cache_id"], return_cache=True, stream_options={"include_usage": True}))
        assert "cache_id" in events[-1] and events[-1]["cache_id"] == events[-2]["cache_id"], events[-2:]
        assert not any("cache_id" in e for e in events[:-2])
        # What three requests said is what one says.
        text = first["choices"][0]["text"] + second["choices"][0]["text"]
        ids = baton.ask("/v1/completions", dict(BASE, prompt=prompt, max_tokens=82, return_token_ids=True, cache_salt="whole"))["choices"][0]["token_ids"]
        assert len(ids) == 82
        assert handle["tokens"] == len(prompt) + 70 and text
        # One cold request of the very tokens that the last handle holds continues with the same bits.
        last = call(baton, "GET", "/v1/caches/" + events[-1]["cache_id"])[1]
        assert last["tokens"] == 270 + 12 + 12
        chat = baton.ask("/v1/completions", dict(BASE, cache_id=events[-1]["cache_id"]))
        assert chat["usage"]["prompt_tokens"] == 294 and cached(chat) == 4 * BLOCK


def test_a_restart_keeps_handles_and_blocks():
    with tempfile.TemporaryDirectory(prefix="baton-caches-") as folder:
        store = folder + "/store"
        prefix, prompt = tokens(260), tokens(260) + tokens(30, 1000)
        with server(store) as baton:
            handle = made(baton, {"tokens": prefix, "pin": True})
            deleted = made(baton, {"tokens": tokens(100, 500)})
            want = cold(baton, prompt)
            assert call(baton, "DELETE", "/v1/caches/" + deleted["id"])[0] == 200
        with server(store) as baton:
            after = call(baton, "GET", "/v1/caches/" + handle["id"])[1]
            assert after["tokens"] == 260 and after["held_blocks"] == 4 and after["tiers"]["disk"] == 4 and after["expires_at"] is None, after
            assert [c["id"] for c in call(baton, "GET", "/v1/caches")[1]["data"]] == [handle["id"]]
            answer = complete(baton, {"prompt": prompt, "cache_id": handle["id"]})
            assert cached(answer) == 4 * BLOCK and bits(answer) == want
            baton.kill()  # -9, all of them
        with server(store) as baton:
            assert call(baton, "GET", "/v1/caches/" + handle["id"])[1]["held_blocks"] == 4
            assert call(baton, "DELETE", "/v1/caches/" + handle["id"])[0] == 200
        with server(store) as baton:
            assert call(baton, "GET", "/v1/caches")[1]["data"] == []


def test_a_killed_store_and_a_killed_worker():
    with server() as baton:
        prefix, prompt = tokens(260), tokens(260) + tokens(30, 1000)
        handle = made(baton, {"tokens": prefix})
        want = cold(baton, prompt)
        os.kill(baton.pid_of_role("prefill"), signal.SIGKILL)
        answer = complete(baton, {"prompt": prompt, "cache_id": handle["id"]})
        assert bits(answer) == want and cached(answer) == 4 * BLOCK, answer["usage"]
        os.kill(baton.pid_of_role("store"), signal.SIGKILL)
        answer = complete(baton, {"prompt": prompt, "cache_id": handle["id"]})
        assert bits(answer) == want, "computed again, or from a worker's own pool"
        until("the store counts as gone", lambda: call(baton, "POST", "/v1/caches", {"tokens": tokens(70)})[0] == 503)
        status, error = call(baton, "POST", "/v1/caches", {"tokens": tokens(70)})
        assert status == 503 and "store" in error["error"]["message"], error
        seen = call(baton, "GET", "/v1/caches/" + handle["id"])
        assert seen[0] == 200 and seen[1]["held_blocks"] == 0, seen
        status, error = call(baton, "POST", "/v1/completions", dict(BASE, prompt=prompt, return_cache=True))
        assert status == 503, error
        assert bits(complete(baton, {"prompt": prompt, "cache_id": handle["id"]})) == want
        assert call(baton, "DELETE", "/v1/caches/" + handle["id"])[0] == 200


def test_held_blocks_outlive_a_flood_and_quotas_are_told():
    block_bytes = 2 * 4 * 2 * 16 * BLOCK * 2  # K and V, layers, heads, head_dim, tokens, f16
    settings = [f"store.memory_bytes={40 * block_bytes}", f"store.tenant_hold_bytes={6 * block_bytes}", f"engine.kv_bytes={max(80 * block_bytes, 1 << 20)}"]
    with server(settings=settings) as baton:
        prefix = tokens(300)
        handle = made(baton, {"tokens": prefix, "pin": True})
        assert handle["bytes"] == 4 * block_bytes, handle
        status, error = call(baton, "POST", "/v1/caches", {"tokens": tokens(500, 9)})
        assert status == 422 and "store.tenant_hold_bytes" in error["error"]["message"], error
        status, error = call(baton, "POST", "/v1/caches", {"tokens": tokens(200, 9)})
        assert status == 429 and error["error"]["code"] == "cache_no_room", error
        status, error = call(baton, "POST", "/v1/completions", dict(BASE, prompt=tokens(500, 9), return_cache=True))
        assert status == 422, error
        in_parallel([lambda i=i: complete(baton, {"prompt": tokens(400, 100 + i)}) for i in range(24)])
        assert call(baton, "GET", "/v1/caches/" + handle["id"])[1]["held_blocks"] == 4
        assert sum(metric(baton, "baton_store_evictions").values()) > 0, "the flood was none"
        held = metric(baton, "baton_store_held_bytes")
        assert list(held.values()) == [4 * block_bytes], held
        prompt = prefix + tokens(30, 1000)
        answer = complete(baton, {"prompt": prompt, "cache_id": handle["id"]})
        assert cached(answer) == 4 * BLOCK and bits(answer) == cold(baton, prompt)


def test_two_tenants_never_meet():
    keys = {"alice": "ka", "bob": "kb"}
    settings = ["gateway.tenants=alice:ka,bob:kb,alice:ka2", "gateway.tenant_secret=s", "store.tenant_bytes=100000000"]
    with server(settings=settings) as baton:
        def ask(key, body):
            return call(baton, "POST", "/v1/completions", dict(BASE, logprobs=2, **body), key)

        prompt = tokens(300)
        assert ask(None, {"prompt": prompt})[0] == 401 and ask("wrong", {"prompt": prompt})[0] == 401
        handle = made(baton, {"tokens": tokens(260)}, "ka")
        status, alices = ask("ka", {"prompt": prompt})
        assert status == 200 and cached(alices) == 4 * BLOCK, alices
        # The same prompt of another tenant finds nothing, neither in the store nor in a worker, and the answer is the same.
        status, bobs = ask("kb", {"prompt": prompt})
        assert status == 200 and cached(bobs) == 0 and bits(bobs) == bits(alices), bobs["usage"]
        assert cached(ask("kb", {"prompt": prompt})[1]) == 4 * BLOCK, "his own he finds"
        assert cached(ask("ka2", {"prompt": prompt})[1]) == 4 * BLOCK, "another key of the same tenant"
        path = "/v1/caches/" + handle["id"]
        for method, where, body in [("GET", path, None), ("DELETE", path, None), ("POST", path + "/crop", {"length": 10}), ("POST", path + "/fork", {}),
                                    ("POST", path + "/extend", {})]:
            assert call(baton, method, where, body, "kb")[0] == 404, (method, where)
        assert ask("kb", {"prompt": prompt, "cache_id": handle["id"]})[0] == 404
        assert call(baton, "GET", "/v1/caches", None, "kb")[1]["data"] == []
        assert [c["id"] for c in call(baton, "GET", "/v1/caches", None, "ka2")[1]["data"]] == [handle["id"]]
        until("each is counted for itself", lambda: len([v for k, v in metric(baton, "baton_store_tenant_bytes").items() if v > 0 and ("alice" in k or "bob" in k)]) == 2)
        assert keys


def test_a_chat_in_one_process():
    with Baton(ranks=0, model=MODEL) as baton:
        system = {"role": "system", "content": "You answer in rhymes. " * 40}
        handle = made(baton, {"messages": [system]})
        assert handle["blocks"] >= 2 and handle["held_blocks"] == handle["blocks"], handle
        for question in ("What is the sea?", "Who keeps the light?"):
            body = {"messages": [system, {"role": "user", "content": question}], "max_tokens": 8, "temperature": 0, "logprobs": True}
            answer = baton.ask("/v1/chat/completions", dict(body, cache_id=handle["id"]))
            assert cached(answer) >= handle["blocks"] * BLOCK, answer["usage"]
            reference = baton.ask("/v1/chat/completions", dict(body, cache_salt=question))
            assert answer["choices"] == reference["choices"] and cached(reference) == 0
        status, error = call(baton, "POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "cache_id": handle["id"]})
        assert status == 422 and error["error"]["code"] == "cache_mismatch", error


def test_many_at_once_use_one_handle():
    with server() as baton:
        prefix = tokens(270)
        handle = made(baton, {"tokens": prefix})
        prompts = [prefix + tokens(20 + i, 300 + i) for i in range(12)]
        answers = in_parallel([lambda p=p: complete(baton, {"prompt": p, "cache_id": handle["id"], "return_cache": True}) for p in prompts])
        for prompt, answer in zip(prompts, answers):
            assert cached(answer) == 4 * BLOCK, answer["usage"]
            assert bits(answer) == cold(baton, prompt)
        ids = {a["cache_id"] for a in answers}
        assert len(ids) == 12
        held = {c["id"]: c for c in call(baton, "GET", "/v1/caches")[1]["data"]}
        assert ids | {handle["id"]} == set(held) and all(c["held_blocks"] == c["blocks"] for c in held.values()), held
        in_parallel([lambda i=i: call(baton, "DELETE", "/v1/caches/" + i) for i in held])
        assert call(baton, "GET", "/v1/caches")[1]["data"] == []
        until("nothing is pinned", lambda: sum(metric(baton, "baton_store_pinned_blocks").values()) == 0)


def test_explain():
    with tempfile.TemporaryDirectory(prefix="baton-explain-") as folder:
        import subprocess
        store, file = folder + "/store", folder + "/tokens.json"
        with server(store) as baton:
            made(baton, {"tokens": tokens(300)})
            asked = tokens(300)
            asked[200] = 3
            live = baton.ask("/debug/explain", {"tokens": asked})["blocks"]
            assert [b["reason"] for b in live] == ["hit", "hit", "hit", "token_differs"] and live[3]["position"] == 200, live
        with open(file, "w") as out:
            json.dump(asked, out)

        def explain(*more):
            command = [os.environ["BATON_BINARY"], "store", "explain", "--path", store, "--model", MODEL, "--tokens", file, "--json", *more]
            return [json.loads(line) for line in subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.splitlines()]

        rows = explain()
        assert [r["reason"] for r in rows] == ["hit", "hit", "hit", "token_differs"], rows
        assert rows[3]["position"] == 200 and rows[3]["asked"] == 3 and rows[3]["stored"] == tokens(300)[200]
        assert {r["reason"] for r in explain("--kv-dtype", "bf16")} == {"dtype"}
        assert {r["reason"] for r in explain("--block-tokens", "32")} == {"block_tokens"}
        assert explain("--tenant", "alice")[0]["reason"] == "salt"


if __name__ == "__main__":
    run_tests(sys.modules[__name__])
