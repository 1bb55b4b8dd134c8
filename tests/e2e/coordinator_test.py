"""The coordinator as an administrator sees it: why a request went where it went, roles that switch, workers that leave, and its own restart."""
import json
import signal
import sys
import threading
import time

from cluster import JoinedCluster, in_parallel, run_tests

ROLES = [("coordinator", "coordinator"), ("gateway", "gateway"), ("store", "store"), ("prefill", "prefill"), ("decode", "decode")]
SETTINGS = ["cluster.heartbeat_s=0.05", "engine.kv_bytes=134217728"]
STORY = "The ferry left at six with eleven passengers, two goats and the mail. "


def complete(server, text, max_tokens=8):
    return server.ask("/v1/completions", {"prompt": text, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True})


def test_a_route_is_explained_before_and_after():
    with JoinedCluster(ROLES, settings=SETTINGS) as server:
        complete(server, STORY * 20)  # something was measured
        body = {"prompt": STORY * 30 + "Which?", "max_tokens": 8, "temperature": 0}
        status, _, data = server.request("POST", "/debug/route", body)
        assert status == 200, data
        dry = server.ask("/debug/route", body)
        terms = {"queue_s", "store_load_s", "prefill_s", "transfer_s", "interference_s", "decode_s", "work_s", "total_s"}
        assert len(dry["candidates"]) >= 2 and all(terms <= c.keys() for c in dry["candidates"]), dry
        assert dry["chosen"] in dry["candidates"] and dry["chosen"]["total_s"] == min(c["total_s"] for c in dry["candidates"]), dry
        answer = server.ask("/v1/completions", body)

        def told():
            status, _, data = server.request("GET", "/debug/requests/" + answer["id"])
            assert status == 200, data
            record = json.loads(data)
            return record if "actual" in record["routing"]["predicted_and_actual"]["ttft_s"] else None

        deadline = time.monotonic() + 20
        while not told():
            assert time.monotonic() < deadline, "the end was not told"
            time.sleep(0.01)
        record = told()
        beside = record["routing"]["predicted_and_actual"]
        assert beside["ttft_s"]["predicted"] > 0 and beside["ttft_s"]["actual"] > 0 and beside["ttft_s"]["error"] >= 0
        assert record["routing"]["request"] == answer["id"].split("-")[-1], "one id everywhere"
        assert record["routing"]["decision"]["chosen"]["prefill"] == dry["chosen"]["prefill"], "the dry run took the same way"
        decisions = server.cluster()["decisions"]
        assert all(isinstance(d["request"], str) for d in decisions)
        metrics = server.request("GET", "/metrics")[2].decode()
        assert "baton_coordinator_ttft_error_median" in metrics and "baton_coordinator_ttft_error_p90" in metrics
        assert server.request("GET", "/debug/requests/cmpl-0123456789abcdef")[0] == 404


def test_the_error_of_the_prediction_is_reported():
    """Not a bound: the machine is shared. The figures are printed for the docs."""
    with JoinedCluster(ROLES, settings=SETTINGS) as server:
        for i in range(60):
            complete(server, f"Case {i}. " + STORY * (1 + i * 7 % 23), max_tokens=2)
        seen = server.cluster()["prediction"]
        print(f"       {seen}", flush=True)
        assert seen["samples"] >= 50


def test_roles_switch_while_streams_run():
    with JoinedCluster(ROLES + [("decode-2", "decode")], settings=SETTINGS) as server:
        want = complete(server, "One, two, three,", 60)["choices"][0]["text"]
        workers = server.workers()
        status, _, data = server.request("POST", f"/admin/role/{workers['store']['id']}", {"role": "decode"})
        assert status == 400, data
        running = []

        def switch():
            deadline = time.monotonic() + 30
            while not running and time.monotonic() < deadline:
                time.sleep(0.001)
            for name in ("decode", "decode-2"):
                status, _, data = server.request("POST", f"/admin/role/{workers[name]['id']}", {"role": "prefill"})
                if name == "decode":
                    assert status == 200, data
                    assert server.request("POST", f"/admin/role/{workers[name]['id']}", {"role": "decode"})[0] == 429, "a role is kept for a while"
                else:
                    assert status == 400, f"the last that decodes: {data}"

        def stream():
            events = server.stream("/v1/completions", {"prompt": "One, two, three,", "max_tokens": 60, "temperature": 0, "ignore_eos": True}, lambda *_: running.append(1))
            return "".join(c["text"] for e in events for c in e.get("choices", []))

        assert in_parallel([stream, switch])[0] == want
        assert server.workers()["decode"]["roles"] == ["prefill"]
        assert complete(server, "One, two, three,", 60)["choices"][0]["text"] == want


def test_a_drained_workers_blocks_are_in_the_store():
    with JoinedCluster(ROLES, settings=SETTINGS) as server:
        text = STORY * 40
        first = complete(server, text, 80)
        tokens = first["usage"]["prompt_tokens"]
        for name in ("decode", "prefill"):
            server.request("POST", f"/admin/drain/{server.workers()[name]['id']}")
        for name in ("decode", "prefill"):
            assert server.processes[name].wait(40) == 0, name
        server.wait_for(lambda ws: "decode" not in ws and "prefill" not in ws, "both have left")
        server.start("decode")
        server.wait_for(lambda ws: "decode" in ws and ws["decode"]["state"] == "ready", "a fresh worker")
        server.start("prefill")
        server.wait_for_all()
        cached = complete(server, text, 80)
        assert cached["choices"][0]["text"] == first["choices"][0]["text"]
        assert cached["usage"]["prompt_tokens_details"]["cached_tokens"] >= (tokens - 1) // 64 * 64, cached["usage"]
        longer = complete(server, text + first["choices"][0]["text"], 4)
        assert longer["usage"]["prompt_tokens_details"]["cached_tokens"] >= tokens, f"what the decode worker wrote: {longer['usage']}"


def test_a_restarted_coordinator_knows_what_the_old_one_knew():
    with JoinedCluster(ROLES, settings=SETTINGS + ["gateway.wait_for_cluster_s=8"]) as server:
        want = complete(server, STORY * 40)["choices"][0]["text"]
        long_want = complete(server, "Count:", 150)["choices"][0]["text"]
        before = server.wait_for(lambda ws: ws and server.cluster()["index"]["holder_blocks"] >= 20, "blocks in the index")
        blocks = server.cluster()["index"]["holder_blocks"]
        begun, long_got = threading.Event(), []

        def long_stream():
            events = server.stream("/v1/completions", {"prompt": "Count:", "max_tokens": 150, "temperature": 0, "ignore_eos": True}, lambda *_: begun.set())
            long_got.append("".join(c["text"] for e in events for c in e.get("choices", [])))

        thread = threading.Thread(target=long_stream)
        thread.start()
        assert begun.wait(60)
        server.signal("coordinator", signal.SIGKILL)
        begin = time.monotonic()
        status, headers, data = server.request("POST", "/v1/completions", {"prompt": "Nobody is there", "max_tokens": 1})
        assert status == 503 and int(headers["retry-after"]) >= 1, (status, headers, data)
        assert 4 < time.monotonic() - begin < 60, "it waits for a while, but not for ever"
        assert server.request("GET", "/admin/cluster")[0] == 503
        server.start("coordinator")

        def ask_early():
            return server.request("POST", "/v1/completions", {"prompt": STORY * 40, "max_tokens": 8, "temperature": 0, "ignore_eos": True})

        status, _, data = ask_early()  # waits for it
        assert status == 200, data
        up = time.monotonic()
        after = server.wait_for(lambda ws: set(ws) == set(before) and all(w["state"] == "ready" and w["synced"] for w in ws.values()), "all are back")
        print(f"       all back {time.monotonic() - up:.2f} s after the first answer", flush=True)
        for name in before:
            if name != "coordinator":
                assert after[name]["id"] == before[name]["id"], f"{name} keeps its number"
                assert after[name]["incarnation"] == before[name]["incarnation"], f"{name} did not die, its peers' connections stay"
        server.wait_for(lambda ws: server.cluster()["index"]["holder_blocks"] >= blocks, "the index is refilled")
        thread.join(120)
        assert long_got == [long_want]
        assert "failed after" not in server.log_text(), "a stream that has its workers needs no coordinator, nor a move when one is back"
        again = complete(server, STORY * 40)
        assert again["choices"][0]["text"] == want and again["usage"]["prompt_tokens_details"]["cached_tokens"] > 0


def test_a_worker_that_joins_later_gets_a_fresh_number_and_work():
    with JoinedCluster(ROLES, settings=SETTINGS) as server:
        server.roles["late"] = "prefill+decode"
        server.start("late")
        server.wait_for_all()
        ids = [w["id"] for w in server.workers().values()]
        assert len(set(ids)) == len(ids)
        server.signal("decode", signal.SIGKILL)
        server.wait_for(lambda ws: "decode" not in ws, "the other is gone")
        answer = complete(server, "Now the late one decodes.")
        status, headers, _ = server.request("POST", "/v1/completions", {"prompt": "x", "max_tokens": 1})
        assert status == 200 and f"decode={server.workers()['late']['id']}" in headers["x-baton-route"], headers
        assert answer["usage"]["completion_tokens"] == 8


if __name__ == "__main__":
    run_tests(sys.modules[__name__])
