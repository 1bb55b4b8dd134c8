"""The warming job as a user runs it: what it computed is found by the server's first request, and it can be killed at any time."""
import contextlib
import json
import os
import pathlib
import pty
import re
import signal
import subprocess
import sys
import tempfile
import time

from cluster import BINARY, ENVIRONMENT, MPIRUN, SHARED, Baton, run_tests

MODEL = str(SHARED / "golden/checkpoints/tiny-llama-tied-f32")
BLOCK = 64
STORY = "The relay began at dawn. Each runner carried the baton to the next village and told what the last had seen. " * 8
TOOLS = [{"type": "function", "function": {"name": "find", "description": "finds a village", "parameters": {"type": "object", "properties": {}}}}]


@contextlib.contextmanager
def folder():
    with tempfile.TemporaryDirectory(prefix="baton-warm-") as name:
        yield pathlib.Path(name)


def write_corpus(path, lines):
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def numbered(count, tokens=640):
    """Prompts that share nothing: each of `tokens` ids."""
    return [{"tokens": [(i * 7919 + j * 31 + (j == 0) * i) % 1700 for j in range(tokens)]} for i in range(count)]


def command(store, corpus, *options, ranks=0):
    warm = [BINARY, "warm", "--model", MODEL, f"--store.path={store}", "--input", str(corpus), "--json", *options]
    return warm if ranks == 0 else [*MPIRUN, "-n", str(ranks), *warm]


def warm(store, corpus, *options, ranks=0, code=0):
    """The job's report."""
    done = subprocess.run(command(store, corpus, *options, ranks=ranks), capture_output=True, text=True, timeout=120, env=ENVIRONMENT, stdin=subprocess.DEVNULL)
    assert done.returncode == code, f"exit {done.returncode}, not {code}:\n{done.stdout}\n{done.stderr}"
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(reports) == 1, f"one report, on standard output alone:\n{done.stdout}"
    return reports[0], done.stderr


def stored(store):
    done = subprocess.run([BINARY, "store", "verify", "--path", str(store), "--json"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["corrupt"] == 0, report
    return report["checked"]


def check_served(store, corpus_lines, ranks=0):
    """The first request with each prompt finds all of its full blocks but the last token's."""
    with Baton(ranks=ranks, model=MODEL, store=str(store)) as server:
        for line in corpus_lines:
            if "messages" in line:
                usage = server.ask("/v1/chat/completions", dict(line, max_tokens=1))["usage"]
            else:
                usage = server.ask("/v1/completions", {"prompt": line.get("prompt", line.get("tokens")), "max_tokens": 1})["usage"]
            want = (usage["prompt_tokens"] - 1) // BLOCK * BLOCK
            assert usage["prompt_tokens_details"]["cached_tokens"] == want > 0, f"{str(line)[:80]}: {usage}"


FORMS = [  # the first one's blocks are the beginning of the second one's
    {"prompt": STORY + "What?"},
    {"prompt": STORY + "Who carried it to the next village, and what did they tell the people who were waiting there for so long? " * 3},
    {"messages": [{"role": "system", "content": STORY}, {"role": "user", "content": "Where to?"}]},
    {"messages": [{"role": "user", "content": STORY}], "tools": TOOLS},
    numbered(1)[0],
]


def forms_are_served(ranks):
    with folder() as d:
        corpus = write_corpus(d / "corpus.jsonl", FORMS + [FORMS[0]])
        report, _ = warm(d / "store", corpus, ranks=ranks)
        assert report["prefixes"] == len(FORMS) - 1 and report["complete"] and report["skipped"] == report["failed"] == report["left_out"] == 0, report
        assert report["blocks"] == stored(d / "store"), report
        assert report["bytes"] == report["blocks"] * 32768, report
        check_served(d / "store", FORMS)
        served = stored(d / "store")
        again, _ = warm(d / "store", corpus, ranks=ranks)
        assert again["blocks"] == again["bytes"] == 0 and again["skipped"] == report["blocks"] and again["complete"], again
        assert stored(d / "store") == served


def test_alone():
    forms_are_served(ranks=0)


def test_under_mpirun():
    forms_are_served(ranks=3)


def test_one_warms_what_the_other_serves():
    """A store filled under mpirun, with its ranks and another transport, is the same store."""
    with folder() as d:
        warm(d / "store", write_corpus(d / "corpus.jsonl", FORMS), "--transport.kind=shm", ranks=4)
        check_served(d / "store", FORMS, ranks=4)


def test_shared_prefixes_are_computed_once():
    with folder() as d:
        shared = numbered(1)[0]["tokens"]  # 10 blocks
        lines = [{"tokens": shared + [i] * BLOCK} for i in range(20)]
        report, _ = warm(d / "store", write_corpus(d / "corpus.jsonl", lines))
        assert report["prefixes"] == 20 and report["blocks"] == 30 == stored(d / "store"), report
        more = lines + [{"tokens": shared + [1] * BLOCK + [2] * (BLOCK + 5)}]
        report, _ = warm(d / "store", write_corpus(d / "corpus.jsonl", more))
        assert report["blocks"] == 1 and report["skipped"] == 30, report


def test_broken_lines_are_reported_and_the_rest_is_done():
    with folder() as d:
        good = numbered(2)
        lines = [good[0], "not json", "", {"prompt": 7}, {"tokens": [99999999]}, {"tokens": [1] * 5000}, good[1], {"prompt": "short"}]
        report, errors = warm(d / "store", write_corpus(d / "corpus.jsonl", lines), code=1)
        assert report["lines"] == 7 and report["bad_lines"] == 4 and report["prefixes"] == 2 and report["blocks"] == 20, report
        for number in (2, 4, 5, 6):
            assert f"corpus.jsonl:{number}: " in errors, errors
        check_served(d / "store", good)


def kill_and_go_on(ranks):
    with folder() as d:
        lines = numbered(60)
        corpus = write_corpus(d / "corpus.jsonl", lines)
        job = subprocess.Popen(command(d / "store", corpus, "--limit-tokens-per-s=6400", "--log.level=off", ranks=ranks), stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, env=ENVIRONMENT, start_new_session=True)
        deadline = time.monotonic() + 60
        try:
            while sum(f.stat().st_size for f in (d / "store").glob("extents/*")) < 40 * 32768:
                assert time.monotonic() < deadline and job.poll() is None, "the job wrote nothing"
                time.sleep(0.02)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(job.pid, signal.SIGKILL)
        assert job.communicate()[0] == b""
        while True:  # the ranks of a killed mpirun leave by themselves
            before = subprocess.run([BINARY, "store", "gc", "--path", str(d / "store")], capture_output=True, text=True, timeout=60)
            if before.returncode == 0:
                break
            assert time.monotonic() < deadline, before.stderr
            time.sleep(0.1)
        held = stored(d / "store")
        assert 0 < held < 600, held
        report, _ = warm(d / "store", corpus, ranks=ranks)
        assert report["complete"] and report["skipped"] == held and report["blocks"] == 600 - held, report
        check_served(d / "store", lines[::20])


def test_killed_and_run_again():
    kill_and_go_on(ranks=0)


def test_killed_under_mpirun_and_run_again():
    kill_and_go_on(ranks=3)


def test_ctrl_c_ends_with_a_partial_report():
    with folder() as d:
        lines = numbered(60)
        corpus = write_corpus(d / "corpus.jsonl", lines)
        for number in (signal.SIGINT, signal.SIGTERM):
            job = subprocess.Popen(command(d / "store", corpus, "--limit-tokens-per-s=6400"), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   stdin=subprocess.DEVNULL, env=ENVIRONMENT, text=True)
            for line in job.stderr:
                if "is worker" in line:
                    break
            time.sleep(0.5)
            job.send_signal(number)
            out, errors = job.communicate(timeout=30)
            report = json.loads(out)
            assert job.returncode == 1 and not report["complete"] and "run it again" in errors, f"{job.returncode}: {report}\n{errors}"
            assert stored(d / "store") >= report["skipped"] + report["blocks"], report
        report, _ = warm(d / "store", corpus)
        assert report["complete"] and report["skipped"] + report["blocks"] == 600, report


def test_the_rate_is_limited():
    with folder() as d:
        report, _ = warm(d / "store", write_corpus(d / "corpus.jsonl", numbered(5, tokens=320)), "--limit-tokens-per-s=800")
        assert report["blocks"] == 25 and report["seconds"] >= 4 * 320 / 800, report  # the fifth begins when the budget of four is spent


def test_a_small_disk_gets_the_most_used_prefixes():
    with folder() as d:
        lines = numbered(60)
        corpus = write_corpus(d / "corpus.jsonl", lines + [lines[41]] * 3)
        report, errors = warm(d / "store", corpus, "--store.disk_bytes=4194304", code=1)
        assert report["left_out"] > 0 and 0 < report["blocks"] < 600 and report["blocks"] + report["left_out"] == 600, report
        assert "store.disk_bytes" in errors
        assert stored(d / "store") == report["blocks"], "nothing was evicted for what came later"
        check_served(d / "store", [lines[41]])


def test_a_prompt_that_no_worker_can_hold_fails_alone():
    with folder() as d:
        corpus = write_corpus(d / "corpus.jsonl", numbered(1, tokens=2000) + numbered(3)[1:])
        report, errors = warm(d / "store", corpus, "--engine.kv_bytes=1048576", "--model.kv_dtype=f32", "--requests=2", code=1)
        assert report["failed"] == 31 and report["blocks"] == 20 and not report["complete"], report
        assert "engine.kv_bytes" in errors, errors


def test_tenants_have_blocks_of_their_own():
    with folder() as d:
        line = numbered(1)[0]
        report, _ = warm(d / "store", write_corpus(d / "corpus.jsonl", [line, dict(line, tenant="a"), dict(line, tenant="b")]))
        assert report["prefixes"] == 3 and report["blocks"] == 30, report


def test_the_bar_is_for_terminals_only():
    with folder() as d:
        corpus = write_corpus(d / "corpus.jsonl", numbered(4))
        _, errors = warm(d / "first", corpus)
        assert "blocks/s" not in errors and "\r" not in errors
        mine, theirs = pty.openpty()
        job = subprocess.Popen(command(d / "second", corpus), stdout=subprocess.PIPE, stderr=theirs, stdin=subprocess.DEVNULL, env=ENVIRONMENT)
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # the terminal's end
            while chunk := os.read(mine, 4096):
                shown += chunk
        os.close(mine)
        assert json.loads(job.communicate(timeout=60)[0])["blocks"] == 40 and job.returncode == 0
        assert re.search(r"\[#{30}\] 100 %  40/40 blocks", shown.decode()), shown


def test_errors_say_what_to_do():
    with folder() as d:
        corpus = write_corpus(d / "corpus.jsonl", numbered(1))
        cases = [
            (["warm", "--model", MODEL, "--input", str(corpus)], "store.path"),
            (["warm", "--input", str(corpus), f"--store.path={d}/s"], "--model"),
            (["warm", "--model", MODEL, f"--store.path={d}/s"], "--input"),
            (["warm", "--model", MODEL, f"--store.path={d}/s", "--input", f"{d}/nowhere.jsonl"], "nowhere.jsonl"),
            (["warm", "--model", f"{d}/nothing.gguf", f"--store.path={d}/s", "--input", str(corpus)], "nothing.gguf"),
            (["warm", "--model", MODEL, f"--store.path={d}/s", "--input", str(corpus), "--limit-tokens-per-s=-1"], "limit-tokens-per-s"),
        ]
        for arguments, words in cases:
            done = subprocess.run([BINARY, *arguments], capture_output=True, text=True, timeout=60, env=ENVIRONMENT)
            assert done.returncode == 2 and words in done.stderr and not done.stdout, f"{arguments}: {done.returncode}\n{done.stderr}"
        done = subprocess.run(command(d / "s", d / "nowhere.jsonl", ranks=3), capture_output=True, text=True, timeout=60, env=ENVIRONMENT)
        assert done.stderr.count("nowhere.jsonl: No such file") == 1, done.stderr
        done = subprocess.run(command(d / "s", corpus, "--cluster.roles=coordinator+gateway,prefill+decode", ranks=2), capture_output=True, text=True,
                              timeout=60, env=ENVIRONMENT)
        assert "add store to cluster.roles" in done.stderr, done.stderr
        with Baton(ranks=0, model=MODEL, store=str(d / "live")):
            done = subprocess.run(command(d / "live", corpus), capture_output=True, text=True, timeout=60, env=ENVIRONMENT)
            assert done.returncode == 1 and str(d / "live") in done.stderr, done.stderr


if __name__ == "__main__":
    run_tests(sys.modules[__name__])
