"""scripts/bench_peers.sh with programs that answer fixed figures: which of them meet in a row, what a missing peer's row says, the exit code."""
import os
import pathlib
import subprocess
import sys
import tempfile

from cluster import run_tests

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "scripts" / "bench_peers.sh"
# As `baton bench store` and `bench transfer` print; a megabyte is 10^6 bytes there. The shm rate comes from the environment.
BATON = """#!/bin/sh
case "$*" in
  *"bench store"*"--block-bytes 1048576"*) for op in get_other_proc:6000 get_disk_hot:4194.304 put_written:1000; do
    echo "{\\"op\\":\\"${op%:*}\\",\\"mb_per_s\\":${op#*:},\\"limit_mb_per_s\\":1,\\"ratio\\":1}"; done; echo '{"op":"lookup","us":1}';;
  *"bench store"*) echo '{"op":"put_full","mb_per_s":900}';;
  *"--transport shm --bytes 1048576 --depth 16"*--digests*) echo "{\\"gb_per_s\\":$SHM}";;
  *"--transport tcp"*--digests*) echo '{"gb_per_s":1.0}';;
  *) echo "unexpected: $*" >&2; exit 1;;
esac
"""
# The peers' Python: NIXL answers 2 GB/s, LMCache 0.5 and 1 GiB/s (its MB are 2^20 bytes), Mooncake is not installed.
PEERS = """#!/bin/sh
case "$*" in
  *" nixl 1048576 16 "*) echo "NIXL INFO up"; echo '{"write": 2.0}';;
  *lmcache*) echo '{"op_0": {"operation": "Store", "throughput_avg_mbps": 512.0}, "op_1": {"operation": "Load", "throughput_avg_mbps": 1000.0}}';;
  *) echo "AttributeError: no mooncake here" >&2; exit 1;;
esac
"""


def program(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def bench(shm, *arguments, baton=BATON, peers=PEERS):
    with tempfile.TemporaryDirectory() as name:
        here = pathlib.Path(name)
        program(here / "baton", baton)
        if peers:
            program(here / "venv" / "bin" / "python", peers)
        (here / "disk").mkdir()
        done = subprocess.run([SCRIPT, "--venv", here / "venv", "--path", here / "disk", *arguments], capture_output=True, text=True, timeout=60, check=False,
                              env={**os.environ, "BATON_BINARY": str(here / "baton"), "SHM": str(shm)})
        assert not list((here / "disk").iterdir()), "something was left on the measured disk"
    rows = {}
    for line in done.stdout.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and len(cells) == 5:
            rows[cells[0]] = cells[1:]
    return done, rows


def row(rows, *words):
    found = [cells for name, cells in rows.items() if all(word in name for word in words)]
    assert len(found) == 1, (words, rows)
    return found[0]


def test_ratios_stand_beside_their_bars():
    done, rows = bench(3.5, "--rounds", "2")
    assert row(rows, "shm", "NIXL") == ["3.50", "2.00", "1.75 (1.75 to 1.75)", "1.5"], rows
    assert row(rows, "disk", "LMCache") == ["4.19", "1.05", "4.00 (4.00 to 4.00)", "3.0"], rows
    assert row(rows, "un-synced", "LMCache") == ["1.00", "0.54", "1.86 (1.86 to 1.86)", "4.0, missed"], rows
    assert done.returncode == 1, "a bar was missed"
    assert "digest" in done.stdout and "load" in done.stdout, "it says where the sides differ and how busy the machine was"
    assert done.stderr.count("round ") == 2, done.stderr


def test_a_bar_that_is_just_missed():
    for shm, missed in ((2.98, True), (3.0, False)):
        _, rows = bench(shm, "--rounds", "1")
        assert row(rows, "shm", "NIXL")[3].endswith("missed") == missed, (shm, rows)


def test_a_peer_that_is_not_there_is_a_row_that_says_why():
    done, rows = bench(3.5, "--rounds", "2")
    for words in (("another process", "Mooncake"), ("64 KiB", "Mooncake Store"), ("1 MiB x 16", "Mooncake TE"), ("64 KiB x 16", "Mooncake TE")):
        cells = row(rows, *words)
        assert "not run" in cells[2] and "no mooncake here" in cells[2], cells
    nobody, rows = bench(3.5, "--rounds", "1", peers="#!/bin/sh\nexit 3\n")
    assert len(rows) == 9 and nobody.returncode == 0, "no bar was missed where nothing was compared"  # a head, a rule and seven rows
    assert "Traceback" not in done.stderr + nobody.stderr


def test_refusals():
    done, _ = bench(3.5, peers=None)
    assert done.returncode == 2 and "no virtual environment" in done.stderr, done.stderr
    done, _ = bench(3.5, "--rounds", "0")
    assert done.returncode == 2 and "--rounds" in done.stderr, done.stderr
    done, _ = bench(3.5, "--rounds", "1", baton="#!/bin/sh\necho 'error: no disk' >&2\nexit 1\n")
    assert done.returncode == 1 and "no disk" in done.stderr and "Traceback" not in done.stderr, done.stderr
    helped = subprocess.run([SCRIPT, "--help"], capture_output=True, text=True, timeout=20, check=False)
    assert helped.returncode == 0 and "--venv" in helped.stdout and not helped.stdout.startswith("#"), helped.stdout


if __name__ == "__main__":
    run_tests(sys.modules[__name__])
