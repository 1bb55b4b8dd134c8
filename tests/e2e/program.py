"""Runs the program as a user types it, and reads what it prints and writes. Used by the tests beside it."""
import array
import contextlib
import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile

from cluster import BINARY, ENVIRONMENT, SHARED

GOLDEN = SHARED / "golden"
TINY = str(GOLDEN / "checkpoints/tiny-qwen2-f32")
DEMO = os.environ.get("BATON_DEMO_MODEL")


class Done:
    """A command that has ended: its exit code, stdout and stderr (text; bytes that are no UTF-8 are replaced)."""

    def __init__(self, command, code, out, err):
        self.command, self.code, self.out, self.err = command, code, out, err

    def __str__(self):
        return f"`baton {' '.join(self.command)[:300]}` ended with {self.code}\n--- stdout\n{self.out[:1500]}\n--- stderr\n{self.err[:1500]}"

    def rows(self):
        """Stdout as JSON lines; anything else there is a failure."""
        rows = []
        for line in self.out.removesuffix("\n").split("\n") if self.out else []:
            try:
                rows.append(json.loads(line))
            except ValueError:
                raise AssertionError(f"not a JSON line: {line[:200]!r}\n{self}") from None
            assert isinstance(rows[-1], dict), f"not one object a line: {line[:200]!r}\n{self}"
        return rows

    def one(self):
        rows = self.rows()
        assert len(rows) == 1, f"{len(rows)} objects instead of one\n{self}"
        return rows[0]


def baton(*arguments, code=0, text="", timeout=240, environment=None, folder=None):
    """Runs it; an exit code other than `code` is a failure (None: any that is not a signal)."""
    command = [str(a) for a in arguments]
    data = text if isinstance(text, bytes) else text.encode()
    done = subprocess.run([BINARY, *command], input=data, capture_output=True, timeout=timeout, env=dict(ENVIRONMENT, **(environment or {})), cwd=folder)
    result = Done(command, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))
    assert result.code >= 0 and result.code < 128, f"died of a signal: {result}"
    assert "CHECK failed" not in result.err and "Sanitizer" not in result.err, str(result)
    assert code is None or result.code == code, f"wanted {code}: {result}"
    return result


def refused(*arguments, words=(), code=2, **more):
    """Runs what must be refused: nothing on stdout, and a message on stderr with all the words."""
    done = baton(*arguments, code=code, **more)
    assert done.out == "", f"something on stdout: {done}"
    assert done.err.startswith("baton: ") or "\nbaton: " in done.err, f"no message: {done}"
    assert len(done.err) < 4000, f"a message of {len(done.err)} bytes: {done}"
    for word in [words] if isinstance(words, str) else words:
        assert word in done.err, f"no {word!r} in the message: {done}"
    return done


def lines(values):
    return "".join(json.dumps(v) + "\n" for v in values)


class Tensors:
    """A safetensors file, read without any package."""

    TYPES = {"F32": "f", "I32": "i", "F64": "d", "I64": "q", "U8": "B", "F16": "H", "BF16": "H"}

    def __init__(self, path):
        self.path = pathlib.Path(path)
        with open(path, "rb") as file:
            size = struct.unpack("<Q", file.read(8))[0]
            self.header = json.loads(file.read(size))
        self.begin = 8 + size
        self.metadata = self.header.pop("__metadata__", {})

    def __contains__(self, name):
        return name in self.header

    def shape(self, name):
        return self.header[name]["shape"]

    def read(self, name, first=0, count=None):
        """`count` elements from `first` on, row by row."""
        entry = self.header[name]
        values = array.array(self.TYPES[entry["dtype"]])
        begin, end = entry["data_offsets"]
        total = (end - begin) // values.itemsize
        with open(self.path, "rb") as file:
            file.seek(self.begin + begin + first * values.itemsize)
            values.fromfile(file, total - first if count is None else count)
        return values

    def raw(self, name):
        begin, end = self.header[name]["data_offsets"]
        with open(self.path, "rb") as file:
            file.seek(self.begin + begin)
            return file.read(end - begin)


def largest_difference(a, b):
    assert len(a) == len(b), f"{len(a)} values against {len(b)}"
    return max((abs(x - y) for x, y in zip(a, b)), default=0.0)


def load_json(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


@contextlib.contextmanager
def folder():
    with tempfile.TemporaryDirectory(prefix="baton-test-") as name:
        yield pathlib.Path(name)


def need(condition, why):
    """Ends the test as skipped where what it needs is not there."""
    if not condition:
        raise Skipped(why)


class Skipped(Exception):
    pass


def write_json(path, value):
    path.write_text(json.dumps(value))
    return path


if not pathlib.Path(BINARY).exists():
    sys.exit(f"there is no program at BATON_BINARY={BINARY}: build it first")
