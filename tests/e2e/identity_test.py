"""Promise 1: the same tokens and the same bits of every logprob, wherever and however a request runs."""
import os
import signal
import sys
import tempfile

from cluster import Baton, in_parallel, run_tests

STORY = ("The lighthouse keeper wrote a line each evening: the wind, the ships, the colour of the sea. On the ninth of March the lamp failed, "
         "and he rowed out with a lantern to warn a schooner off the rocks. ")
PROMPTS = [
    "The capital of France is",
    STORY * 4 + "The schooner was called",                                  # several blocks and a part
    "Question: what is a relay race? Answer:",
    "".join(f"{i} plus {i} is {2 * i}. " for i in range(60)) + "60 plus 60 is",  # many blocks
]
STYLES = [
    {"temperature": 0},
    {"temperature": 0.9, "top_p": 0.95, "seed": 7, "presence_penalty": 0.3},
]
TOKENS = 24


def bodies():
    return [{"prompt": p, "max_tokens": TOKENS, "logprobs": 3, "ignore_eos": True, **s} for p in PROMPTS for s in STYLES]


def fingerprint(answer):
    """What must be equal: text, finish reason, and every logprob exactly (JSON carries the shortest form that reads back to the same bits)."""
    choice = answer["choices"][0]
    lp = choice["logprobs"]
    return choice["text"], choice["finish_reason"], tuple(lp["tokens"]), tuple(lp["token_logprobs"]), str(lp["top_logprobs"])


def ask_all(server):
    return [fingerprint(server.ask("/v1/completions", b)) for b in bodies()]


def check(name, got, want):
    for i, (a, b) in enumerate(zip(got, want)):
        assert a == b, f"{name}: request {i} differs:\n  got  {a}\n  want {b}"


_reference = []


def reference():
    """Cold, one process, one request at a time."""
    if not _reference:
        with Baton(ranks=0, settings=["engine.prefill_chunk_tokens=64"]) as server:
            _reference.extend(ask_all(server))
            check("cached in the pool", ask_all(server), _reference)
    return _reference


def test_one_process_threads_and_chunks():
    want = reference()
    for settings in (["model.threads=1", "engine.prefill_chunk_tokens=16"], ["model.threads=2", "engine.prefill_chunk_tokens=512"]):
        with Baton(ranks=0, settings=settings) as server:
            check(str(settings), ask_all(server), want)


def test_batches():
    want = reference()
    with Baton(ranks=0) as server:
        for size in (2, 8, 16):
            calls = [lambda b=bodies()[i % len(bodies())]: fingerprint(server.ask("/v1/completions", b)) for i in range(size)]
            got = in_parallel(calls)
            check(f"batch of {size}", got, [want[i % len(want)] for i in range(size)])


def guesses(usage):
    details = usage["completion_tokens_details"]
    return details["accepted_prediction_tokens"], details["rejected_prediction_tokens"]


def test_speculation_changes_no_bit():
    want = reference()
    with Baton(ranks=0, settings=["engine.speculative_tokens=0"]) as server:
        check("without speculation", ask_all(server), want)
        assert guesses(server.ask("/v1/completions", bodies()[6])["usage"]) == (0, 0)
    for most in (1, 4, 16):
        with Baton(ranks=0, settings=[f"engine.speculative_tokens={most}"]) as server:
            check(f"up to {most} guesses", ask_all(server), want)
            accepted = rejected = 0
            for i, body in enumerate(bodies()):
                # The true answer as prediction, then one that is wrong half way.
                for text in (want[i][0], want[i][0][:20] + " no, never " + want[i][0][20:]):
                    answer = server.ask("/v1/completions", body | {"prediction": {"type": "content", "content": text}})
                    check(f"predicted, up to {most} guesses", [fingerprint(answer)], [want[i]])
                    right, wrong = guesses(answer["usage"])
                    assert right < answer["usage"]["completion_tokens"]
                    accepted, rejected = accepted + right, rejected + wrong
            assert accepted > 0 and rejected > 0, f"{accepted} guesses accepted, {rejected} rejected"
            choices = server.ask("/v1/completions", bodies()[2] | {"n": 3, "temperature": 0.9, "seed": 7, "stop": ["zzz"]})["choices"]
            alone = server.ask("/v1/completions", bodies()[2] | {"temperature": 0.9, "seed": 7, "stop": ["zzz"]})["choices"][0]
            assert choices[0]["text"] == alone["text"], "the first of three choices differs"


def test_four_ranks_over_each_transport():
    want = reference()
    for transport in (None, "tcp", "shm", "mpi"):  # None: the default, auto
        with Baton(ranks=4, transport=transport) as server:
            check(f"{transport} cold", ask_all(server), want)
            check(f"{transport} cached", ask_all(server), want)
            metrics = server.request("GET", "/metrics")[2].decode()
            remote = [line for line in metrics.splitlines() if line.startswith("baton_worker_prefill_remote_total")]
            assert any(float(line.split()[-1]) > 0 for line in remote), f"no prompt went over {transport}: {remote}"


def test_from_disk_and_after_a_restart():
    want = reference()
    with tempfile.TemporaryDirectory(prefix="baton-store-") as store:
        with Baton(ranks=4, store=store) as server:
            check("store cold", ask_all(server), want)
        with Baton(ranks=4, store=store) as server:
            check("from disk", ask_all(server), want)
            answer = server.ask("/v1/completions", dict(bodies()[6]))
            cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
            assert cached >= 128, f"only {cached} tokens were cached after the restart"


def test_decode_worker_killed_mid_stream():
    want = reference()
    with Baton(ranks=5, settings=["cluster.roles=coordinator+gateway,store,prefill,decode,decode"]) as server:
        for i, body in enumerate(bodies()[2:6]):
            killed = []

            def kill_at_the_fifth(index, event):
                if index == 5 and not killed and i == 0:
                    running = [w for w in server.cluster()["workers"] if "decode" in w["roles"]]
                    busiest = max(running, key=lambda w: w["load"]["running"])
                    os.kill(busiest["pid"], signal.SIGKILL)
                    killed.append(busiest["pid"])

            events = server.stream("/v1/completions", body, kill_at_the_fifth)
            choices = [e["choices"][0] for e in events if e.get("choices")]
            text = "".join(c["text"] for c in choices)
            logprobs = [x for c in choices if c.get("logprobs") for x in c["logprobs"]["token_logprobs"]]
            assert text == want[2 + i][0], f"{text!r} is not {want[2 + i][0]!r}"
            assert tuple(logprobs) == want[2 + i][3], "logprobs differ after the move"
        assert "moved" in server.log_text() or "failed after" in server.log_text()


def test_prefill_worker_killed():
    want = reference()
    with Baton(ranks=4) as server:
        os.kill(server.pid_of_role("prefill"), signal.SIGKILL)
        check("prefill worker killed", ask_all(server), want)


if __name__ == "__main__":
    run_tests(sys.modules[__name__])
