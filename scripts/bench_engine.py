"""Runs `baton bench engine` and llama.cpp's benchmarks in turn and prints medians and ratios (see bench_engine.sh)."""
import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

# What is measured: name, bar (times the peer), prompt, context, answer, streams, numerics.
ROWS = [
    ("decode 64, 1 stream, exact", 1.7, 0, 0, 64, 1, "exact"),
    ("decode 64 at 1,024, exact", 2.5, 0, 1024, 64, 1, "exact"),
    ("decode 64, 8 streams, exact", 4.0, 0, 0, 64, 8, "exact"),
    ("decode 64, 16 streams, exact", 3.5, 0, 0, 64, 16, "exact"),
    ("prefill 512, fast", 4.0, 512, 0, 0, 1, "fast"),
    ("prefill 2,048, fast", 4.5, 2048, 0, 0, 1, "fast"),
    ("prefill 512, exact", 2.5, 512, 0, 0, 1, "exact"),
]
BF16_ROW = ("prefill 512, fast, the peer with BF16", 1.8, 512, 0, 0, 1, "fast")


def run(command):
    """The command's standard output and the CPU seconds it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed with {done.returncode}: {done.stderr[-500:]}")
    return done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def peer_command(args, model, prompt, context, answer, streams):
    if streams > 1:
        return [os.path.join(args.peer, "llama-batched-bench"), "-m", model, "-t", str(args.threads), "-tb", str(args.threads), "-fa", "1",
                "-c", "4096", "-npp", "1", "-ntg", str(answer), "-npl", str(streams), "--output-format", "jsonl"]
    return [os.path.join(args.peer, "llama-bench"), "-m", model, "-t", str(args.threads), "-fa", "1", "-r", "1", "-o", "jsonl",
            "-p", str(prompt), "-n", str(answer), "-d", str(context)] + (["--no-warmup"] if args.cpu_time else [])


def peer_rate(args, model, prompt, context, answer, streams):
    """Tokens a second of llama.cpp, by the wall or by CPU seconds (then the cost of loading is taken off by a run of one token)."""
    out, cpu = run(peer_command(args, model, prompt, context, answer, streams))
    if args.cpu_time:
        _, base = run(peer_command(args, model, min(prompt, 1), context, min(answer, 1), streams))
        return (max(prompt, answer) - 1) * streams / (cpu - base)
    result = json.loads([line for line in out.splitlines() if line.startswith("{")][-1])
    return result["speed_tg"] if streams > 1 else result["avg_ts"]


def baton_rate(args, prompt, context, answer, streams, numerics):
    out, _ = run([args.baton, "bench", "engine", "--model", args.model, "--json", "--threads", str(args.threads), "--numerics", numerics, "--batch", str(streams),
                  "--prompt-tokens", str(max(prompt, 1)), "--context", str(context), "--generate-tokens", str(max(answer, 1)), "--repeats", "3"])
    result = json.loads(out)
    kind = "prefill" if prompt else "decode"
    return 1000 / result[f"{kind}_cpu_ms_per_token"] if args.cpu_time else result[f"{kind}_tokens_per_s"]


def baton_bench(args, *more):
    out, _ = run([args.baton, "bench", "engine", "--model", args.model, "--json", "--threads", str(args.threads), "--repeats", "3", *more])
    return json.loads(out)


def limit_rows(args):
    """The engine's shares of what this machine can do, by CPU time."""
    runs = {numerics: baton_bench(args, "--limits", "--numerics", numerics, "--prompt-tokens", "512", "--context", "0", "--generate-tokens", "64")
            for numerics in ("exact", "fast")}
    return {"decode's share of the memory bandwidth": runs["exact"]["decode_share_of_read"],
            "prefill 512's share of the integer dots, exact": runs["exact"]["prefill_share_of_dots"],
            "prefill 512's share of the integer dots, fast": runs["fast"]["prefill_share_of_dots"]}


def paging_row(args):
    """How much more CPU time decode at 2,048 takes with blocks in any place than with one piece a sequence."""
    where = ["--prompt-tokens", "1", "--context", "2048", "--generate-tokens", "64"]
    paged, whole = (baton_bench(args, *where, *more)["decode_cpu_ms_per_token"] for more in ([], ["--contiguous"]))
    return {"price of paged KV at 2,048": paged / whole - 1}


def cold_row(args):
    """Seconds from the start of a process to the end of its only token; the repacked weights are there already."""
    begin = time.monotonic()
    run([args.baton, "generate", "--model", args.model, "--prompt", "The capital of France is", "--max-tokens", "1"])
    return {"a cold process's first token, s": time.monotonic() - begin}


def neighbour_row(args):
    """What decode keeps of its speed with two threads while one other process is always busy."""
    where = ["--prompt-tokens", "1", "--context", "0", "--generate-tokens", "64"]
    alone = baton_bench(args, *where)["decode_tokens_per_s"]
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as neighbour:
        try:
            beside = baton_bench(args, *where)["decode_tokens_per_s"]
        finally:
            neighbour.kill()
    return {"decode keeps, beside one busy process": beside / alone}


OWN_BARS = {"decode's share of the memory bandwidth": ">= 0.65", "prefill 512's share of the integer dots, exact": ">= 0.55",
            "prefill 512's share of the integer dots, fast": ">= 0.55", "price of paged KV at 2,048": "<= 0.03", "a cold process's first token, s": "<= 0.5",
            "decode keeps, beside one busy process": ">= 0.40"}


def own_table(args):
    found = {name: [] for name in OWN_BARS}
    for _ in range(args.rounds):
        for rows in (limit_rows, paging_row, cold_row, neighbour_row):
            for name, value in rows(args).items():
                found[name].append(value)
    print(f"| what (medians of {args.rounds}; {args.threads} threads) | measured | bar |\n|---|---|---|")
    missed = 0
    for name, bar in OWN_BARS.items():
        median, (relation, limit) = statistics.median(found[name]), bar.split()
        missed += median < float(limit) if relation == ">=" else median > float(limit)
        print(f"| {name} | {median:.3f} | {bar} |")
    return 1 if missed else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--baton", required=True)
    parser.add_argument("--peer", help="folder of llama-bench and llama-batched-bench")
    parser.add_argument("--bf16", help="the same model as BF16 (make_bench_model.py bf16), for the peer's best prefill")
    parser.add_argument("--own", action="store_true", help="the engine alone: shares of the machine's limits, prices, a cold start, a busy neighbour")
    parser.add_argument("--model", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu-time", action="store_true", help="one thread, tokens a CPU second")
    args = parser.parse_args()
    if args.cpu_time:
        args.threads = 1
    if args.own:
        return own_table(args)
    if not args.peer:
        parser.error("give --peer or --own")
    rows = ROWS + ([BF16_ROW] if args.bf16 else [])
    ours, theirs = {row[0]: [] for row in rows}, {row[0]: [] for row in rows}
    for number in range(args.rounds):
        for name, _, prompt, context, answer, streams, numerics in rows:
            theirs[name].append(peer_rate(args, args.bf16 if name == BF16_ROW[0] else args.model, prompt, context, answer, streams))
            ours[name].append(baton_rate(args, prompt, context, answer, streams, numerics))
            print(f"round {number + 1}: {name}: {ours[name][-1]:.0f} / {theirs[name][-1]:.0f}", file=sys.stderr)
    unit = "tokens a CPU second, 1 thread" if args.cpu_time else f"tokens/s, {args.threads} threads"
    print(f"| what ({unit}; medians of {args.rounds}) | Baton | llama.cpp | ratio | bar |\n|---|---|---|---|---|")
    missed = 0
    for name, bar, *_ in rows:
        ratio = statistics.median(a / b for a, b in zip(ours[name], theirs[name]))
        missed += ratio < bar
        print(f"| {name} | {statistics.median(ours[name]):.0f} | {statistics.median(theirs[name]):.0f} | {ratio:.2f} | {bar} |")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
