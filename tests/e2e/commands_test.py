"""Every command of the program as a user types it: help, exit codes, JSON with all its fields and nothing else on stdout."""
import json
import math
import os
import pathlib
import re
import socket
import subprocess
import sys

from cluster import BINARY, ENVIRONMENT, SHARED, Baton, run_tests
from program import GOLDEN, TINY, baton, folder, largest_difference, lines, load_json, refused, Tensors, write_json

COMMANDS = ["serve", "cluster", "chat", "generate", "logits", "tokenize", "detokenize", "render", "warm", "store", "simulate", "bench", "top", "doctor",
            "config", "version"]
BENCHES = ["engine", "transfer", "store", "router", "load"]
STORES = ["ls", "stat", "verify", "gc", "export", "import", "rm"]
TRACE = "".join(json.dumps({"timestamp": 500 * i, "input_length": 1024 + 300 * (i % 5), "output_length": 20 + i,
                            "hash_ids": [0, *range(100 * (i % 7) + 1, 100 * (i % 7) + 1 + math.ceil((1024 + 300 * (i % 5)) / 512) - 1)]}) + "\n" for i in range(40))


def all_commands():
    return [[c] for c in COMMANDS] + [["bench", b] for b in BENCHES] + [["store", s] for s in STORES]


def test_help_of_everything():
    top = baton("--help").out
    for name in COMMANDS:
        assert re.search(rf"^  {name}\s+\S", top, re.M), f"{name} is not in `baton --help`"
    for command in all_commands():
        done = baton(*command, "--help")
        assert done.err == "" and "--help" in done.out and command[-1] in done.out, str(done)
        short = baton(*command, "-h")
        assert short.out == done.out, command
    for command in [c for c in all_commands() if c not in (["serve"], ["cluster"], ["config"], ["store"], ["bench"])]:
        assert "--json" in baton(*command, "--help").out, f"{command} prints results but takes no --json"
    for command in (["generate"], ["logits"], ["bench", "engine"]):
        text = baton(*command, "--help").out
        for flag in ("--model", "--numerics", "--kv-dtype", "--threads", "--device"):
            assert flag in text, f"{command} has no {flag}"
    text = baton("generate", "--help").out
    for flag in ("--prompt", "--messages", "--tokens", "--max-tokens", "--temperature", "--seed", "--ignore-eos", "--top-k", "--top-p", "--min-p",
                 "--repetition-penalty", "--stop"):
        assert flag in text, f"generate has no {flag}"


def test_wrong_usage_is_two_and_names_the_nearest():
    for command in [c for c in all_commands() if c != ["doctor"] and c != ["version"] and c != ["chat"] and c != ["top"]]:
        if command[0] == "bench" and command[-1] not in ("engine", "store", "bench"):
            continue  # these have a default for everything
        refused(*command)
    cases = [(["generat"], "generate"), (["benhc"], "bench"), (["bench", "enginee"], "engine"), (["store", "lss", "--path", "/x"], "ls"),
             (["generate", "--modle", "x", "--prompt", "y"], "--model"), (["generate", "--model", TINY, "--prompt", "y", "--max-token", "3"], "--max-tokens"),
             (["tokenize", "--model", TINY, "--plian"], "--plain"), (["doctor", "--jsno"], "--json"), (["config", "--prnt"], "--print"),
             (["serve", "--gateway.prot=1", "--model", TINY], "gateway.port"), (["config", "--print", "--engine.max_runing=3"], "engine.max_running"),
             (["logits", "--model", TINY, "--tokens", "x", "--out", "y", "--hiden"], "--hidden")]
    for arguments, near in cases:
        refused(*arguments, words=near)
    refused(words="--help")
    refused("generate", "--model", TINY, "--prompt", "a", "--tokens", "b", words=["--tokens"])
    refused("generate", "--model", TINY, "--prompt", "a", "--max-tokens", "many", words="--max-tokens")
    refused("generate", "--model", TINY, "--prompt", "a", "--threads", "-1", words="--threads")
    refused("config", "--print", "--gateway.port", words="gateway.port")
    refused("bench", "transfer", "--transport", "pigeon", words="--transport")


def test_version():
    done = baton("version", "--json")
    version = done.one()
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", version["version"]), version
    assert version["isa"] in ("scalar", "avx2", "avx512"), version
    assert isinstance(version["features"], list) and all(isinstance(f, str) for f in version["features"]), version
    assert version["version"] in baton("version").out


def test_config():
    page = baton("config", "--doc").out
    committed = (pathlib.Path(__file__).resolve().parents[2] / "docs/config.md").read_text()
    assert page == committed, "docs/config.md is not what `baton config --doc` prints"
    schema = json.loads(baton("config", "--schema").out)
    printed = baton("config", "--print", "--gateway.port=1234", environment={"BATON_ENGINE_MAX_RUNNING": "7"}).out
    for section, value in schema["properties"].items():
        assert f"\n{section}:\n" in "\n" + printed, section
        for key in value["properties"]:
            assert re.search(rf"^  {key}: ", printed, re.M), f"{section}.{key} is not printed"
            assert f"`{section}.{key}`" in page, f"{section}.{key} is not on the page"
    assert re.search(r"^  port: 1234 .*flag", printed, re.M) and re.search(r"^  max_running: 7 .*environment BATON_ENGINE_MAX_RUNNING", printed, re.M)
    with folder() as here:
        file = here / "c.yaml"
        file.write_text("gateway:\n  port: 1\nengine:\n  max_running: 2\nlog:\n  level: debug\n")
        printed = baton("config", "--print", "--config", file, "--gateway.port", "3", environment={"BATON_ENGINE_MAX_RUNNING": "4"}).out
        assert re.search(r"^  port: 3 .*flag", printed, re.M), "a flag wins over the file"
        assert re.search(r"^  max_running: 4 ", printed, re.M), "the environment wins over the file"
        assert re.search(rf"^  level: \"debug\" .*{re.escape(str(file))}:6", printed, re.M), "the file's line is named"
        again = here / "again.yaml"
        again.write_text(printed)
        second = baton("config", "--print", "--config", again).out
        def strip(text):
            return [line.split("  # ")[0] for line in text.splitlines()]
        assert strip(second) == strip(printed), "what is printed reads back the same"


def test_doctor():
    with folder() as here:
        done = baton("doctor", "--json", "--gateway.port=0", f"--store.path={here}/s", "--store.disk_bytes=1000", f"--model.path={TINY}")
        rows = done.rows()
        for row in rows:
            assert set(row) >= {"check", "verdict", "found", "advice"} and row["verdict"] in ("ok", "warning", "failed"), row
            assert row["verdict"] == "ok" or row["advice"], f"nothing to do is said: {row}"
        checks = {row["check"]: row for row in rows}
        for check in ("cores", "isa", "memory", "open files", "mpi", "transports", "shared memory", "gpu", "port", "store", "model"):
            assert check in checks, f"no check {check}"
        assert checks["model"]["verdict"] == "ok" and "qwen2" in checks["model"]["found"], checks["model"]
        assert not (here / "s").exists(), "a check changed the disk"
        with socket.socket() as busy:
            busy.bind(("127.0.0.1", 0))
            busy.listen()
            bad = {row["check"]: row for row in baton("doctor", "--json", f"--gateway.port={busy.getsockname()[1]}", f"--model.path={here}/none.gguf", code=1).rows()}
        assert bad["port"]["verdict"] == "failed" and bad["model"]["verdict"] == "failed" and f"{here}/none.gguf" in bad["model"]["found"], bad
        assert len(baton("doctor", "--gateway.port=0").out.splitlines()) >= 11


def test_generate_prints_the_contracts_object():
    answer = baton("generate", "--model", TINY, "--prompt", "The river", "--max-tokens", "5", "--json", "--ignore-eos").one()
    assert set(answer) >= {"prompt_tokens", "tokens", "logprobs", "text", "finish_reason", "timings"}, answer
    assert all(isinstance(t, int) for t in answer["prompt_tokens"] + answer["tokens"]) and len(answer["tokens"]) == len(answer["logprobs"]) == 5
    assert all(p <= 0 for p in answer["logprobs"]) and answer["finish_reason"] == "length"
    assert answer["timings"]["prefill_ms"] > 0 and answer["timings"]["decode_ms"] > 0
    plain = baton("generate", "--model", TINY, "--prompt", "The river", "--max-tokens", "5", "--ignore-eos")
    assert plain.out == answer["text"] + "\n", "without --json the answer's text, and times on stderr"
    assert "prompt tokens" in plain.err


def test_logits_writes_what_it_says():
    with folder() as here:
        ids = write_json(here / "ids.json", [291, 1860, 696])
        out = baton("logits", "--model", TINY, "--tokens", ids, "--out", here / "o.safetensors", "--kv", "--hidden", "--json").one()
        assert out["tokens"] == 3 and out["vocab"] == 2432 and len(out["argmax"]) == 3, out
        file = Tensors(here / "o.safetensors")
        assert file.shape("logits") == [3, 2432]
        layers = load_json(GOLDEN / "checkpoints/tiny-qwen2-f32/config.json")["num_hidden_layers"]
        for i in range(layers):
            assert file.shape(f"layers.{i}.key") == file.shape(f"layers.{i}.value") == [2, 3, 16]
        for i in range(layers + 1):
            assert file.shape(f"hidden.{i}")[0] == 3
        assert f"hidden.{layers + 1}" not in file and f"layers.{layers}.key" not in file
        for row in range(3):
            values = file.read("logits", row * 2432, 2432)
            assert values.index(max(values)) == out["argmax"][row]
        bare = baton("logits", "--model", TINY, "--tokens", ids, "--out", here / "b.safetensors")
        assert "b.safetensors" in bare.out
        assert list(Tensors(here / "b.safetensors").header) == ["logits"], "--kv and --hidden were not asked for"
        assert Tensors(here / "b.safetensors").raw("logits") == file.raw("logits"), "asking for more changed the logits"


def test_text_commands_answer_a_line_each():
    for command, request, key in (("tokenize", {"text": "a b"}, "ids"), ("detokenize", {"ids": [1, 2]}, "text"), ("render", {"messages": [{"role": "user", "content": "x"}]}, "text")):
        rows = baton(command, "--model", TINY, text=lines([request] * 3)).rows()
        assert len(rows) == 3 and all(list(row) == [key] for row in rows), rows
        assert baton(command, "--model", TINY, text="").out == ""
        assert baton(command, "--model", TINY, "--json", text=lines([request])).rows() == rows[:1]
        without_end = baton(command, "--model", TINY, text=json.dumps(request)).rows()
        assert without_end == rows[:1], "the last line needs no newline"


def test_bench_engine_router_store():
    engine = baton("bench", "engine", "--model", TINY, "--prompt-tokens", 32, "--generate-tokens", 8, "--batch", 2, "--threads", 1, "--repeats", 1, "--json").one()
    assert engine["prefill_tokens_per_s"] > 0 and engine["decode_tokens_per_s"] > 0 and engine["peak_rss_bytes"] > 1 << 20, engine
    router = baton("bench", "router", "--workers", 4, "--blocks", 2000, "--json").one()
    assert router["decisions_per_s"] > 0 and router["p99_us"] >= router["p50_us"] > 0 and router["bytes_per_block"] > 0, router
    with folder() as here:
        (here / "t.jsonl").write_text(TRACE)
        traced = baton("bench", "router", "--workers", 4, "--blocks", 2000, "--trace", here / "t.jsonl", "--json").one()
        assert traced["decisions_per_s"] > 0
        rows = baton("bench", "store", "--path", here / "s", "--block-bytes", 65536, "--bytes", 1 << 20, "--json").rows()
        ops = {row["op"]: row for row in rows}
        assert list(ops) == ["get_other_proc", "put_memory", "get_memory", "put_full", "put_written", "put_synced", "get_disk_hot", "get_disk_cold", "lookup", "start"], ops
        for row in rows:
            if "mb_per_s" in row:
                assert row["mb_per_s"] > 0 and row["limit_mb_per_s"] > 0 and abs(row["ratio"] - row["mb_per_s"] / row["limit_mb_per_s"]) < 0.05 * row["ratio"], row


def test_bench_transfer():
    result = baton("bench", "transfer", "--transport", "tcp", "--bytes", 5000, "--depth", 2, "--rounds", 1, "--seconds", "0.01", "--json").one()
    assert result["gb_per_s"] > 0 and result["memcpy_gb_per_s"] > 0 and result["ratio"] > 0, result


def test_simulate():
    with folder() as here:
        (here / "t.jsonl").write_text(TRACE)
        command = ["simulate", "--trace", here / "t.jsonl", "--prefill", 2, "--decode", 2, "--json"]
        first = baton(*command)
        report = first.one()
        assert baton(*command).out == first.out, "virtual time: the same every time"
        text = json.dumps(report)
        for word in ("p50", "p90", "p99", "hit", "goodput"):
            assert word in text, f"no {word} in {report}"
        assert report["requests"] == 40, report
        faster = baton(*command, "--requests", 10).one()
        assert faster["requests"] == 10, faster
        config = here / "c.yaml"
        config.write_text("cluster:\n  roles: [coordinator+gateway, store, prefill, decode, decode]\n")
        assert baton("simulate", "--trace", here / "t.jsonl", "--config", config, "--json").one()["requests"] == 40
        dead = baton(*command, "--fail", "prefill0@1+2").one()
        assert dead["requests"] == 40, "a death loses no request"
        refused(*command, "--fail", "prefill0", words="--fail")
        refused(*command, "--fail", "nobody7@1", words="nobody7")


def test_warm_fills_a_store_and_goes_on():
    with folder() as here:
        store, corpus = here / "store", here / "corpus.jsonl"
        corpus.write_text(lines([{"prompt": "The river came down from the hills and into the valley. " * 12}, {"tokens": [5, 6, 7] * 60},
                                 {"messages": [{"role": "user", "content": "Tell me of the river. " * 30}]}]))
        command = ["warm", "--model", TINY, "--input", corpus, f"--store.path={store}", "--json"]
        first = baton(*command).one()
        assert set(first) >= {"prefixes", "blocks", "bytes", "skipped", "seconds"}, first
        assert first["prefixes"] == 3 and first["blocks"] > 3 and first["bytes"] > 0 and first["skipped"] == 0, first
        again = baton(*command).one()
        assert again["blocks"] == 0 and again["skipped"] == first["blocks"], again
        held = baton("store", "stat", "--path", store, "--json").one()
        assert held["blocks"] == first["blocks"], (held, first)
        config = here / "c.yaml"
        config.write_text(f"model:\n  path: {TINY}\nstore:\n  path: {store}\n")
        assert baton("warm", "--config", config, "--input", corpus, "--json").one()["skipped"] == first["blocks"]
        corpus.write_text(lines([{"prompt": "x"}]) + "no json\n")
        bad = baton(*command, code=1)
        assert "corpus" in bad.err or "line" in bad.err, str(bad)
        refused("warm", "--model", TINY, "--input", corpus, words="store.path")
        refused("warm", "--model", TINY, "--input", here / "none", f"--store.path={store}", words=str(here / "none"))


def test_store_administration():
    golden = GOLDEN / "cache/tiny-qwen2-f32_turn1.safetensors"
    with folder() as here:
        store, out = here / "store", here / "out.safetensors"
        imported = baton("store", "import", "--path", store, "--block-tokens", 16, golden, "--json").one()
        rows = baton("store", "ls", "--path", store, "--json").rows()
        assert len(rows) == imported["blocks"] == 4 and sum(r["tokens"] for r in rows) == 57, rows
        assert all(re.fullmatch("[0-9a-f]{64}", r["key"]) for r in rows)
        assert [r["depth"] for r in rows] == [0, 1, 2, 3] and [r["parent"] for r in rows][1:] == [r["key"] for r in rows][:3]
        stat = baton("store", "stat", "--path", store, "--json").one()
        assert stat["blocks"] == 4 and stat["chains"] == 1 and stat["tokens"] == 57, stat
        assert baton("store", "verify", "--path", store, "--json").rows()[-1]["corrupt"] == 0
        baton("store", "export", "--path", store, out, "--json").one()
        a, b = Tensors(golden), Tensors(out)
        assert sorted(a.header) == sorted(b.header)
        assert all(a.raw(name) == b.raw(name) for name in a.header), "import then export gives the same bytes"
        assert baton("store", "gc", "--path", store, "--json").one()["expired"] == 0
        removed = baton("store", "rm", "--path", store, "--key", rows[2]["key"], "--json").one()
        assert removed["removed"] == 2, "a block goes with what follows it"
        assert len(baton("store", "ls", "--path", store, "--json").rows()) == 2
        refused("store", "rm", "--path", store, "--key", "f" * 64, words="f" * 64)
        refused("store", "rm", "--path", store, "--key", "xyz", words="64 hex digits")
        refused("store", "rm", "--path", store, words="--all")
        baton("store", "rm", "--path", store, "--all")
        assert baton("store", "ls", "--path", store, "--json").out == ""


def test_an_exported_cache_is_that_of_the_model():
    golden = Tensors(GOLDEN / "cache/tiny-qwen2-f32_turn1.safetensors")
    with folder() as here:
        ids = write_json(here / "ids.json", json.loads(golden.metadata["token_ids"])[:57])
        baton("logits", "--model", TINY, "--kv-dtype", "f32", "--tokens", ids, "--out", here / "o.safetensors", "--kv")
        own = Tensors(here / "o.safetensors")
        for name in golden.header:
            assert largest_difference(golden.read(name), own.read(name)) <= 1e-4, name


def test_clients_against_a_server():
    with Baton(ranks=0, model=TINY) as server:
        url = ["--url", server.url]
        top = baton("top", *url, "--once", "--json").one()
        assert top["ready"] is True and top["cluster"]["workers"], top
        assert server.url in baton("top", *url, "--once").out
        chat = baton("chat", *url, "--max-tokens", 4, "--temperature", 0, "--json", text="Hello\n/stats\n/reset\nAgain\n/quit\nnever\n").rows()
        assert len(chat) == 3 and chat[0] == chat[1], "an answer, its /stats, another answer"
        assert chat[0]["completion_tokens"] <= 4 and chat[0]["ttft_ms"] > 0 and chat[0]["route"], chat[0]
        again = baton("chat", *url, "--max-tokens", 4, "--temperature", 0, "--seed", 3, "--system", "Be kind.", text="Hello\n")
        assert again.out.endswith("\n") and again.err == "", str(again)
        load = baton("bench", "load", *url, "--concurrency", 3, "--requests", 6, "--prompt-tokens", 20, "--max-tokens", 5, "--json").one()
        assert load["requests"] == 6 and load["failed"] == 0 and load["generated_tokens"] == 30, load
        for name in ("ttft_ms", "itl_ms", "total_ms"):
            assert load[name]["p50"] <= load[name]["p90"] <= load[name]["p99"] <= load[name]["max"], load
        with folder() as here:
            (here / "t.jsonl").write_text(TRACE)
            traced = baton("bench", "load", *url, "--trace", here / "t.jsonl", "--limit", 5, "--block-tokens", 16, "--speed", 1000, "--json").one()
            assert traced["requests"] == 5 and traced["failed"] == 0, traced
        refused("bench", "load", *url, "--prompt-tokens", 1000000, words="context")
        refused("bench", "load", *url, "--trace", "/nowhere", words="/nowhere")


def test_serve_takes_its_port_and_says_where_it_is():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    process = subprocess.Popen([BINARY, "serve", "--model", TINY, "--port", str(port)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=ENVIRONMENT, text=True)
    try:
        line = process.stdout.readline()
        assert f":{port}" in line, line
        health = subprocess.run(["curl", "-sS", "-m", "20", f"http://127.0.0.1:{port}/health"], capture_output=True, text=True)
        assert health.returncode == 0 and json.loads(health.stdout)["status"] == "ok", health
    finally:
        process.terminate()
        assert process.wait(60) == 0
        process.stdout.close()


if __name__ == "__main__":
    assert SHARED.exists() and os.path.exists(TINY), "no reference data: set BATON_SHARED_DIR"
    run_tests(sys.modules[__name__])
