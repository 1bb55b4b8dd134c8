"""Runs `baton bench engine` and llama.cpp's benchmarks in turn and prints medians and ratios (see bench_engine.sh)."""
import argparse
import json
import os
import resource
import statistics
import subprocess
import sys

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


def run(command):
    """The command's standard output and the CPU seconds it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed with {done.returncode}: {done.stderr[-500:]}")
    return done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def peer_command(args, prompt, context, answer, streams):
    if streams > 1:
        return [os.path.join(args.peer, "llama-batched-bench"), "-m", args.model, "-t", str(args.threads), "-tb", str(args.threads), "-fa", "1",
                "-c", "4096", "-npp", "1", "-ntg", str(answer), "-npl", str(streams), "--output-format", "jsonl"]
    return [os.path.join(args.peer, "llama-bench"), "-m", args.model, "-t", str(args.threads), "-fa", "1", "-r", "1", "-o", "jsonl",
            "-p", str(prompt), "-n", str(answer), "-d", str(context)] + (["--no-warmup"] if args.cpu_time else [])


def peer_rate(args, prompt, context, answer, streams):
    """Tokens a second of llama.cpp, by the wall or by CPU seconds (then the cost of loading is taken off by a run of one token)."""
    out, cpu = run(peer_command(args, prompt, context, answer, streams))
    if args.cpu_time:
        _, base = run(peer_command(args, min(prompt, 1), context, min(answer, 1), streams))
        return (max(prompt, answer) - 1) * streams / (cpu - base)
    result = json.loads([line for line in out.splitlines() if line.startswith("{")][-1])
    return result["speed_tg"] if streams > 1 else result["avg_ts"]


def baton_rate(args, prompt, context, answer, streams, numerics):
    out, _ = run([args.baton, "bench", "engine", "--model", args.model, "--json", "--threads", str(args.threads), "--numerics", numerics, "--batch", str(streams),
                  "--prompt-tokens", str(max(prompt, 1)), "--context", str(context), "--generate-tokens", str(max(answer, 1)), "--repeats", "3"])
    result = json.loads(out)
    kind = "prefill" if prompt else "decode"
    return 1000 / result[f"{kind}_cpu_ms_per_token"] if args.cpu_time else result[f"{kind}_tokens_per_s"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--baton", required=True)
    parser.add_argument("--peer", required=True, help="folder of llama-bench and llama-batched-bench")
    parser.add_argument("--model", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu-time", action="store_true", help="one thread, tokens a CPU second")
    args = parser.parse_args()
    if args.cpu_time:
        args.threads = 1
    ours, theirs = {row[0]: [] for row in ROWS}, {row[0]: [] for row in ROWS}
    for number in range(args.rounds):
        for name, _, prompt, context, answer, streams, numerics in ROWS:
            theirs[name].append(peer_rate(args, prompt, context, answer, streams))
            ours[name].append(baton_rate(args, prompt, context, answer, streams, numerics))
            print(f"round {number + 1}: {name}: {ours[name][-1]:.0f} / {theirs[name][-1]:.0f}", file=sys.stderr)
    unit = "tokens a CPU second, 1 thread" if args.cpu_time else f"tokens/s, {args.threads} threads"
    print(f"| what ({unit}; medians of {args.rounds}) | Baton | llama.cpp | ratio | bar |\n|---|---|---|---|---|")
    missed = 0
    for name, bar, *_ in ROWS:
        ratio = statistics.median(a / b for a, b in zip(ours[name], theirs[name]))
        missed += ratio < bar
        print(f"| {name} | {statistics.median(ours[name]):.0f} | {statistics.median(theirs[name]):.0f} | {ratio:.2f} | {bar} |")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
