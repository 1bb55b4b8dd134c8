"""Bad input to the program: files that are broken or hostile, settings that are wrong, disks that are full, stores of others. Each gets one
message that names the file or key and says what to do, and an exit code; nothing dies of a signal, hangs or prints half a result."""
import contextlib
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time

from cluster import BINARY, ENVIRONMENT, Baton, run_tests
from program import GOLDEN, TINY, Tensors, baton, folder, lines, load_json, need, refused, write_json

GGUF = GOLDEN / "gguf/tiny-qwen2-q8_0.gguf"
PROMPT = ["--prompt", "a", "--max-tokens", 2]


def loads(path, *, code=2, words=()):
    """The model must be refused by each command that loads one, with the path in the message."""
    name = pathlib.Path(path).name
    for command in (["generate", *PROMPT], ["tokenize"]):
        done = baton(*command[:1], "--model", path, *command[1:], code=None, text=lines([{"text": "a"}]), timeout=60)
        if command[0] == "generate":
            assert done.code in (1, 2) and (code is None or done.code == code), str(done)
            assert done.out == "" and name in done.err, f"the file is not named: {done}"
            assert len(done.err) < 2000, str(done)
            for word in [words] if isinstance(words, str) else words:
                assert word in done.err, f"no {word!r}: {done}"
        else:
            assert done.code in (0, 1, 2), str(done)


# ---- GGUF ----

def gguf(path, *, magic=b"GGUF", version=3, tensors=None, keys=None, counts=None, tail=b"\0" * 4096, alignment=32):
    """A GGUF file of these keys [(name, type, value bytes)] and tensors [(name, dims, type, offset)]."""
    keys, tensors = keys or [], tensors or []
    out = magic + struct.pack("<I", version) + struct.pack("<QQ", *(counts or (len(tensors), len(keys))))
    for name, kind, value in keys:
        out += struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", kind) + value
    for name, dims, kind, offset in tensors:
        out += struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", len(dims)) + b"".join(struct.pack("<Q", d) for d in dims) + struct.pack("<IQ", kind, offset)
    out += b"\0" * (-len(out) % alignment) + tail
    path.write_bytes(out)
    return path


def text_value(text):
    return struct.pack("<Q", len(text)) + text.encode()


def u32(value):
    return struct.pack("<I", value)


ARCHITECTURE = ("general.architecture", 8, text_value("llama"))


def test_gguf_headers():
    with folder() as here:
        whole = GGUF.read_bytes()
        for size in (0, 1, 4, 7, 8, 15, 16, 23, 24, 100, 1000, 5000, 50000, len(whole) // 2, len(whole) - 1):
            file = here / f"cut{size}.gguf"
            file.write_bytes(whole[:size])
            loads(file)
        loads(gguf(here / "magic.gguf", magic=b"GGML"), words="GGUF")
        loads(gguf(here / "v1.gguf", version=1), words="version")
        loads(gguf(here / "v99.gguf", version=99), words="version")
        loads(gguf(here / "bigendian.gguf", version=3 << 24), words="endian")
        loads(gguf(here / "empty.gguf"))
        for counts in ((2 ** 64 - 1, 0), (0, 2 ** 64 - 1), (2 ** 63, 2 ** 63), (10 ** 12, 1), (1, 10 ** 12)):
            loads(gguf(here / "counts.gguf", counts=counts))


def test_gguf_keys():
    with folder() as here:
        huge = struct.pack("<Q", 2 ** 63)
        cases = {"nameless architecture": [("general.name", 8, text_value("x"))], "architecture of a number": [("general.architecture", 4, u32(7))],
                 "string longer than the file": [("general.architecture", 8, huge)], "string of 2^64-1": [("general.architecture", 8, struct.pack("<Q", 2 ** 64 - 1))],
                 "unknown type": [ARCHITECTURE, ("x", 77, b"")], "array longer than the file": [ARCHITECTURE, ("x", 9, u32(4) + huge)],
                 "array whose bytes overflow": [ARCHITECTURE, ("x", 9, u32(10) + struct.pack("<Q", 2 ** 61))],
                 "array of strings too many": [ARCHITECTURE, ("x", 9, u32(8) + struct.pack("<Q", 10 ** 9))],
                 "array of arrays of arrays": [ARCHITECTURE, ("x", 9, (u32(9) + struct.pack("<Q", 1)) * 500 + u32(0) + struct.pack("<Q", 0))],
                 "the same key twice": [ARCHITECTURE, ARCHITECTURE], "an alignment of 0": [ARCHITECTURE, ("general.alignment", 4, u32(0))],
                 "an alignment of 3": [ARCHITECTURE, ("general.alignment", 4, u32(3))], "an alignment of 2^31": [ARCHITECTURE, ("general.alignment", 4, u32(2 ** 31))],
                 "an alignment of text": [ARCHITECTURE, ("general.alignment", 8, text_value("x"))]}
        for name, keys in cases.items():
            file = gguf(here / (name.replace(" ", "-") + ".gguf"), keys=keys)
            loads(file)
        other = gguf(here / "mamba.gguf", keys=[("general.architecture", 8, text_value("mamba"))])
        loads(other, words="mamba")


def llama_keys(**more):
    keys = {"llama.block_count": 1, "llama.embedding_length": 32, "llama.attention.head_count": 2, "llama.attention.head_count_kv": 2, "llama.feed_forward_length": 32,
            "llama.context_length": 64, "llama.vocab_size": 4}
    keys.update(more)
    return [ARCHITECTURE] + [(k, 4, u32(v)) for k, v in keys.items()] + [("llama.attention.layer_norm_rms_epsilon", 6, struct.pack("<f", 1e-5))]


def test_gguf_sizes():
    with folder() as here:
        for key in ("block_count", "embedding_length", "attention.head_count", "attention.head_count_kv", "feed_forward_length", "context_length"):
            for value in (0, 3, 2 ** 31, 2 ** 32 - 1):
                loads(gguf(here / f"{key}-{value}.gguf", keys=llama_keys(**{f"llama.{key}": value})))
        shapes = {"no dims": [], "zero": [0], "overflow": [2 ** 32, 2 ** 32], "overflow of bytes": [2 ** 62, 1], "huge": [2 ** 63], "five": [2, 2, 2, 2, 2], "many": [1] * 1000}
        for name, dims in shapes.items():
            loads(gguf(here / f"dims-{name.replace(' ', '-')}.gguf", keys=llama_keys(), tensors=[("token_embd.weight", dims, 0, 0)]))
        for kind in (4, 5, 31, 32, 33, 99, 2 ** 32 - 1):
            loads(gguf(here / f"type-{kind}.gguf", keys=llama_keys(), tensors=[("token_embd.weight", [32, 4], kind, 0)]))
        for offset in (1, 33, 2 ** 40, 2 ** 64 - 32):
            loads(gguf(here / f"offset-{offset}.gguf", keys=llama_keys(), tensors=[("token_embd.weight", [32, 4], 0, offset)]))
        loads(gguf(here / "twice.gguf", keys=llama_keys(), tensors=[("token_embd.weight", [32, 4], 0, 0)] * 2), words="token_embd.weight")
        loads(gguf(here / "nothing.gguf", keys=llama_keys(), tensors=[("token_embd.weight", [32, 4], 0, 0)]))
        loads(gguf(here / "short.gguf", keys=llama_keys(), tensors=[("token_embd.weight", [32, 4], 0, 0)], tail=b"\0" * 100))


def test_gguf_flipped_bits():
    """Hundreds of copies with bytes changed in header and tensors: loaded or refused, never a crash."""
    whole, draw = bytearray(GGUF.read_bytes()), random.Random(7)
    with folder() as here:
        for i in range(60):
            copy = bytearray(whole)
            for _ in range(draw.choice((1, 3, 20))):
                copy[draw.randrange(24 if i % 3 == 0 else 60000 if i % 3 == 1 else len(copy))] = draw.randrange(256)
            (here / "flip.gguf").write_bytes(copy)
            done = baton("generate", "--model", here / "flip.gguf", "--weights-cache", "none", *PROMPT, "--json", code=None, timeout=60)
            assert done.code in (0, 1, 2), f"copy {i}: {done}"
            assert (done.code == 0) == bool(done.out) and (done.code == 0 or "baton: " in done.err), f"copy {i}: {done}"


# ---- safetensors and the folder around them ----

@contextlib.contextmanager
def checkpoint(name="tiny-qwen2-f32"):
    """A copy of a checkpoint to spoil."""
    with folder() as here:
        shutil.copytree(GOLDEN / "checkpoints" / name, here / "spoiled", dirs_exist_ok=True)
        for file in (here / "spoiled").iterdir():
            file.chmod(0o644)
        yield here / "spoiled"


def spoil_header(path, change):
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    text = change(header)
    text = json.dumps(text if isinstance(text, dict) else header).encode() if not isinstance(text, bytes) else text
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size:])


def test_safetensors_files():
    with checkpoint() as model:
        file = model / "model.safetensors"
        whole = file.read_bytes()
        size = struct.unpack("<Q", whole[:8])[0]
        for cut in (0, 7, 8, 100, 8 + size, len(whole) // 2, len(whole) - 1):
            file.write_bytes(whole[:cut])
            loads(model, words="model.safetensors")
        for length in (0, 1, 2 ** 63, 2 ** 64 - 1, len(whole), 10 ** 9):
            file.write_bytes(struct.pack("<Q", length) + whole[8:])
            loads(model, words="model.safetensors")
        file.write_bytes(whole)
        first = next(k for k in Tensors(file).header if "embed" in k)

        def entry(header, **more):
            header[first].update(more)
        changes = {"offsets that go back": lambda h: entry(h, data_offsets=[100, 0]), "offsets past the end": lambda h: entry(h, data_offsets=[0, 2 ** 60]),
                   "negative offsets": lambda h: entry(h, data_offsets=[-8, 8]), "offsets of text": lambda h: entry(h, data_offsets=["0", "8"]), "one offset": lambda h: entry(h, data_offsets=[0]),
                   "another shape": lambda h: entry(h, shape=[7]), "a shape that overflows": lambda h: entry(h, shape=[2 ** 40, 2 ** 40]), "a negative shape": lambda h: entry(h, shape=[-1, 4]),
                   "an unknown type": lambda h: entry(h, dtype="F8_X"), "no type": lambda h: h[first].pop("dtype") and None, "no shape": lambda h: h[first].pop("shape") and None,
                   "a tensor gone": lambda h: h.pop(first) and None, "two tensors in one place": lambda h: entry(h, data_offsets=h[next(k for k in h if k not in (first, "__metadata__"))]["data_offsets"]),
                   "no JSON": lambda h: b"{" * 64, "a list": lambda h: b"[1, 2]", "deep": lambda h: b'{"a":' * 20000, "the same tensor twice": lambda h: json.dumps(h)[:-1].encode() + (", \"%s\": %s}" % (first, json.dumps(h[first]))).encode(),
                   "bad UTF-8": lambda h: b'{"\xff\xfe": {}}'}
        for name, change in changes.items():
            file.write_bytes(whole)
            spoil_header(file, change)
            done = baton("generate", "--model", model, *PROMPT, code=None, timeout=60)
            assert done.code == 2 and done.out == "" and "model.safetensors" in done.err, f"{name}: {done}"


def test_checkpoint_folders():
    with checkpoint() as model:
        config = model / "config.json"
        whole = load_json(config)
        bad = {"vocab_size": [-1, "x", 0, 2 ** 40, None], "hidden_size": [0, -64, 63, "64", 2 ** 31], "num_attention_heads": [0, 3, -1], "num_key_value_heads": [0, 3, 99],
               "num_hidden_layers": [0, 400, -1, "4"], "intermediate_size": [0, 1, "a"], "head_dim": [0, 7, -16, "x"], "rms_norm_eps": ["x", -1], "model_type": ["mamba", 5],
               "max_position_embeddings": [0, -1, "x"], "rope_theta": ["x", 0, -5]}
        for key, values in bad.items():
            for value in values:
                write_json(config, dict(whole, **{key: value}))
                done = baton("generate", "--model", model, *PROMPT, code=None, timeout=60)
                assert done.code in (0, 1, 2), f"{key}={value}: {done}"
                assert done.code == 0 or (done.out == "" and "baton: " in done.err and len(done.err) < 2000), f"{key}={value}: {done}"
                if key in ("vocab_size", "hidden_size", "num_attention_heads", "num_hidden_layers") and value is not None:
                    assert done.code == 2, f"{key}={value} was taken: {done}"
        for text in (b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"a":' * 100000):
            config.write_bytes(text)
            loads(model, words="config.json")
        config.unlink()
        loads(model, words="config.json")
        write_json(config, whole)
        tokenizer = model / "tokenizer.json"
        text = tokenizer.read_bytes()
        for broken in (b"", b"{", text[:len(text) // 2], b"[]", b'{"model": 5}', b'{"model": {"type": "BPE", "vocab": 5, "merges": []}}', b'{"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}',
                       b'{"model": {"type": "BPE", "vocab": {"a": 99999999999}, "merges": []}}', b'{"model": {"type": "Magic"}}'):
            tokenizer.write_bytes(broken)
            for command in (["generate", *PROMPT], ["tokenize"], ["detokenize"]):
                done = baton(command[0], "--model", model, *command[1:], code=None, timeout=60)
                assert done.code == 2 and done.out == "" and "tokenizer.json" in done.err, f"{broken[:40]}: {done}"
        tokenizer.unlink()
        refused("generate", "--model", model, *PROMPT, words="tokenizer")
        for name in ("model.safetensors",):
            (model / name).unlink()
        tokenizer.write_bytes(text)
        loads(model, words="safetensors")


def test_sharded_checkpoints():
    with checkpoint("tiny-llama-untied-f32-sharded") as model:
        index = model / "model.safetensors.index.json"
        whole = load_json(index)
        shards = sorted(set(whole["weight_map"].values()))
        some = next(iter(whole["weight_map"]))
        for name, change in {"a shard that is not there": {some: "model-9.safetensors"}, "a path out of the folder": {some: "../../etc/passwd"}, "an absolute path": {some: "/etc/passwd"},
                             "another shard": {some: next(s for s in shards if s != whole["weight_map"][some])}, "a number": {some: 5}}.items():
            write_json(index, dict(whole, weight_map=dict(whole["weight_map"], **change)))
            done = baton("generate", "--model", model, *PROMPT, code=None, timeout=60)
            assert done.code == 2 and done.out == "", f"{name}: {done}"
        for text in (b"", b"{}", b'{"weight_map": []}', b'{"weight_map": {}}'):
            index.write_bytes(text)
            assert baton("generate", "--model", model, *PROMPT, code=2, timeout=60).out == ""
        write_json(index, whole)
        (model / shards[0]).unlink()
        loads(model, words=shards[0])


def test_paths_that_are_no_models():
    with folder() as here:
        (here / "empty").mkdir()
        (here / "text.gguf").write_text("hello")
        os.mkfifo(here / "pipe.gguf")
        (here / "loop").symlink_to(here / "loop")
        for path in (here / "none.gguf", here / "empty", here / "text.gguf", here / "loop", "/dev/null", here / "none" / "deeper", "x" * 5000):
            done = baton("generate", "--model", path, *PROMPT, code=None, timeout=30)
            assert done.code in (1, 2) and done.out == "" and str(path)[:50] in done.err, str(done)
        done = baton("generate", "--model", here / "pipe.gguf", *PROMPT, code=None, timeout=30)  # nobody writes into it: no hang
        assert done.code in (1, 2), str(done)
        refused("tokenize", "--model", "", words="cannot open")


# ---- settings ----

def test_config_files():
    with folder() as here:
        file = here / "c.yaml"
        cases = [("gateway:\n  prot: 1\n", ["c.yaml:2", "gateway.port"]), ("gatway:\n  port: 1\n", ["c.yaml:1", "gateway"]), ("gateway:\n  port: 70000\n", ["c.yaml:2", "65535"]),
                 ("gateway:\n  port: -1\n", ["gateway.port"]), ("gateway:\n  port: 1.5\n", ["gateway.port"]), ("gateway:\n  port: [1]\n", ["gateway.port"]), ("gateway: 5\n", ["map"]),
                 ("gateway:\n  port: 1\n  port: 2\n", ["port"]), ("- a\n", ["map of sections"]), ("gateway: [\n", ["c.yaml:"]), ("a: &a [*a]\n", ["c.yaml"]), ("\t\n:", ["c.yaml"]),
                 ("engine:\n  kv_bytes: 99999999999999999999999\n", ["engine.kv_bytes"]), ("model:\n  kv_dtype: f61\n", ["f32, f16, bf16, int8"]), ("model:\n  block_tokens: 60\n", ["16"]),
                 ("log:\n  json: maybe\n", ["true or false"]), ("store:\n  ttl_s: .nan\n", ["store.ttl_s"]), ("store:\n  ttl_s: .inf\n", ["store.ttl_s"]),
                 ("cluster:\n  roles: [coordinator, {a: b}]\n", ["cluster.roles"]), ("? [a]\n: b\n", ["plain text"]), ("gateway:\n  ? [a]\n  : b\n", ["c.yaml"]),
                 ("&a gateway: &b\n  port: *b\n", ["c.yaml"]), ("x" * (2 << 20), ["c.yaml"])]
        for text, words in cases:
            file.write_text(text)
            refused("config", "--print", "--config", file, words=words, timeout=60)
        file.write_bytes(b"gateway:\n  host: \"\xff\xfe\"\n")
        assert baton("config", "--print", "--config", file, code=None).code in (0, 2)
        deep = here / "deep.yaml"
        deep.write_text("[" * 20000)
        assert baton("config", "--print", "--config", deep, code=None, timeout=60).code == 2
        bomb = here / "bomb.yaml"  # a billion laughs
        bomb.write_text("a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(8)))
        assert baton("config", "--print", "--config", bomb, code=None, timeout=60).code == 2
        refused("config", "--print", "--config", here / "none.yaml", words="none.yaml")
        refused("config", "--print", "--config", here, words=str(here), code=1)
        for name, value, word in (("BATON_GATEWAY_PORT", "x", "BATON_GATEWAY_PORT"), ("BATON_MODEL_KV_DTYPE", "f61", "int8"), ("BATON_LOG_JSON", "2", "true or false")):
            refused("config", "--print", environment={name: value}, words=[name, word])


def test_text_that_is_no_utf8():
    """Paths and values are bytes: they reach the disk as they are and JSON as U+FFFD."""
    with folder() as here:
        odd = os.fsencode(here) + b"/\xff\xfe"
        def run(*command):
            done = subprocess.run([BINARY.encode(), *command], capture_output=True, env=ENVIRONMENT, timeout=60)
            assert 0 <= done.returncode <= 2 and b"terminate" not in done.stderr, done
            return done
        assert b"\xef\xbf\xbd" in run(b"config", b"--print", b"--model.name=\xff").stdout
        assert run(b"store", b"import", b"--path", odd, os.fsencode(GOLDEN / "cache/tiny-qwen2-f32_turn1.safetensors"), b"--json").returncode == 0
        for action in (b"stat", b"ls", b"verify"):
            done = run(b"store", action, b"--path", odd, b"--json")
            assert done.returncode == 0 and all(json.loads(line) for line in done.stdout.decode().splitlines()), done
        for command in ([b"generate", b"--model", TINY.encode(), b"--prompt", b"\xff\xfea", b"--max-tokens", b"2", b"--json"],
                        [b"generate", b"--model", TINY.encode(), b"--prompt", b"The river", b"--max-tokens", b"60", b"--ignore-eos", b"--json", *[b"--stop=" + bytes([b]) for b in range(0x80, 0xc0)]]):
            done = run(*command)
            assert done.returncode == 0 and json.loads(done.stdout.decode())["text"] is not None, done
        assert run(b"generate", b"--model", odd + b"none", b"--prompt", b"a").returncode == 2
        assert run(b"doctor", b"--json", b"--gateway.port=0", b"--store.path=" + odd, b"--model.path=" + odd + b"x").stdout.decode()


def test_serve_says_what_is_wrong():
    cases = [(["--model", "/nowhere/m.gguf"], "/nowhere/m.gguf"), ([], "--model"), (["--model", TINY, "--gateway.host=999.1.1.1"], "999.1.1.1"),
             (["--model", TINY, "--gateway.host=nohost.invalid"], "nohost.invalid"), (["--model", TINY, "--port", "70000"], "--port"), (["--model", TINY, "--engine.kv_bytes=1"], "engine.kv_bytes"),
             (["--model", TINY, "--transport.kind=pigeon"], "pigeon"), (["--model", TINY, "--log.level=loud"], "loud"), (["--model", TINY, "--store.path=/dev/null/x"], "/dev/null/x"),
             (["--model", TINY, "--model.numerics=exact"], "exact"), (["--model", TINY, "--config", "/nowhere.yaml"], "/nowhere.yaml")]
    for arguments, word in cases:
        done = baton("serve", "--gateway.port=0", *arguments, code=None, timeout=60)
        assert done.code in (1, 2) and word in done.err, str(done)
        assert "serves" not in done.out, f"it said that it serves: {done}"


def test_a_port_in_use_is_named():
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = str(busy.getsockname()[1])
        done = baton("serve", "--model", TINY, "--port", port, code=None, timeout=60)
        assert done.code in (1, 2) and port in done.err and "gateway.port" in done.err, str(done)


# ---- stores and disks ----

def test_stores_of_others():
    with folder() as here:
        store, corpus = here / "store", here / "c.jsonl"
        corpus.write_text(lines([{"tokens": [5, 6, 7] * 60}]))
        baton("warm", "--model", TINY, "--input", corpus, f"--store.path={store}")
        other = str(GOLDEN / "checkpoints/tiny-llama-tied-f32")
        for flags in (["--model", other], ["--model", TINY, "--model.kv_dtype=f32"], ["--model", TINY, "--model.numerics=bf16"], ["--model", TINY, "--model.block_tokens=32"]):
            done = baton("warm", *flags, "--input", corpus, f"--store.path={store}", code=None, timeout=60)
            assert done.code == 2 and str(store) in done.err and done.out == "", str(done)
        held = baton("store", "stat", "--path", store, "--json").one()
        assert held["blocks"] == 2, "a refused model harmed the store"
        wrong = GOLDEN / "cache/tiny-qwen2_5_vl-f32_one_image.safetensors"
        refused("store", "import", "--path", store, wrong, words=["--model", wrong.name])  # the shapes agree, the model does not
        for junk in ("none", "empty", "file"):
            path = here / junk
            if junk == "empty":
                path.mkdir()
            if junk == "file":
                path.write_text("x")
            for action in ("ls", "stat", "verify", "gc"):
                done = baton("store", action, "--path", path, code=None)
                assert done.code in (1, 2) and str(path) in done.err, str(done)
                assert junk != "empty" or not list(path.iterdir()), f"`store {action}` made files in a folder that is no store"
        bad = here / "bad.safetensors"
        for text in (b"", b"x" * 100, struct.pack("<Q", 2 ** 60), struct.pack("<Q", 2) + b"{}", struct.pack("<Q", 2) + b"[]"):
            bad.write_bytes(text)
            refused("store", "import", "--path", here / "new", bad, words="bad.safetensors")
            assert not (here / "new").exists(), "a folder was left behind by an import that failed"
        for text in (b"[4294967301, 6, 7]", b"{}", b"[]", b'["a"]', b"nonsense", b"[-1]"):
            (here / "ids.json").write_bytes(text)
            refused("store", "export", "--path", store, "--tokens", here / "ids.json", here / "out.safetensors", words="ids.json")
        refused("store", "export", "--path", store, "--tokens", here / "none.json", here / "out.safetensors", words="none.json")
        assert not (here / "out.safetensors").exists()


def test_a_store_in_use_is_said():
    with folder() as here, Baton(ranks=0, model=TINY, store=str(here / "store")) as server:
        server.ask("/v1/completions", {"prompt": [5, 6, 7] * 60, "max_tokens": 2})
        assert baton("store", "stat", "--path", here / "store", "--json").one()["blocks"] >= 0, "reading goes on beside a server"
        done = baton("store", "gc", "--path", here / "store", code=None, timeout=60)
        assert done.code in (1, 2) and str(here / "store") in done.err, str(done)
        second = baton("serve", "--model", TINY, "--gateway.port=0", f"--store.path={here / 'store'}", code=None, timeout=60)
        assert second.code in (1, 2) and str(here / "store") in second.err, str(second)
        server.ask("/v1/completions", {"prompt": [5, 6, 7] * 60, "max_tokens": 2})


@contextlib.contextmanager
def small_disk(mib):
    with folder() as here:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", here], capture_output=True)
        need(mounted.returncode == 0, "a small tmpfs cannot be mounted here")
        try:
            yield here
        finally:
            subprocess.run(["umount", here], capture_output=True)


def test_a_full_disk():
    with small_disk(12) as disk:
        with folder() as here:
            ids = write_json(here / "ids.json", [i % 2000 for i in range(1500)])
            done = baton("logits", "--model", TINY, "--tokens", ids, "--out", disk / "o.safetensors", "--kv", "--hidden", code=None)
            assert done.code == 1 and "o.safetensors" in done.err and done.out == "", str(done)
            assert not (disk / "o.safetensors").exists(), "half a file was left as if it were whole"
            corpus = here / "c.jsonl"
            corpus.write_text(lines([{"tokens": [(7 * i + j) % 2000 for i in range(1024)]} for j in range(40)]))
            done = baton("warm", "--model", TINY, "--input", corpus, f"--store.path={disk / 'store'}", "--json", code=None, timeout=120)
            assert done.code in (0, 1), str(done)
            assert done.code == 0 or "baton: " in done.err, str(done)
            with Baton(ranks=0, model=TINY, store=str(disk / "store")) as server:
                body = {"max_tokens": 4, "temperature": 0, "return_token_ids": True}
                first = [server.ask("/v1/completions", dict(body, prompt=[(7 * i + j) % 2000 for i in range(600)]))["choices"][0]["token_ids"] for j in range(6)]
                again = [server.ask("/v1/completions", dict(body, prompt=[(7 * i + j) % 2000 for i in range(600)]))["choices"][0]["token_ids"] for j in range(6)]
                assert first == again, "a full disk changed an answer"
            assert baton("store", "verify", "--path", disk / "store", "--json").rows()[-1]["corrupt"] == 0
            with open(disk / "rest", "wb") as rest, contextlib.suppress(OSError):
                while True:
                    rest.write(b"x" * 65536)
                    rest.flush()
            blocks = len(baton("store", "ls", "--path", disk / "store", "--json").rows())
            for command in (["serve", "--gateway.port=0"], ["warm", "--input", corpus]):
                done = baton(*command, "--model", TINY, f"--store.path={disk / 'store'}", code=None, timeout=60)
                assert done.code == 1 and str(disk / "store") in done.err and "free space" in done.err, str(done)
            (disk / "rest").unlink()
            assert len(baton("store", "ls", "--path", disk / "store", "--json").rows()) == blocks > 0, "nothing was lost"
    with open("/dev/full", "w") as full:
        for command in (["config", "--doc"], ["version", "--json"], ["generate", "--model", TINY, *map(str, PROMPT)], ["store", "ls", "--help"]):
            done = subprocess.run([BINARY, *command], stdout=full, stderr=subprocess.PIPE, env=ENVIRONMENT)
            assert done.returncode == 1 and b"could not be written" in done.stderr, f"what could not be printed is no success: {command} {done}"


def test_outputs_that_cannot_be_written():
    with folder() as here:
        ids = write_json(here / "ids.json", [1, 2, 3])
        for out in (here / "none" / "o.safetensors", here, "/dev/null/x"):
            done = baton("logits", "--model", TINY, "--tokens", ids, "--out", out, code=None)
            assert done.code in (1, 2) and str(out) in done.err and done.out == "", str(done)
        assert not list(here.glob("*.tmp*")), list(here.iterdir())


def test_a_closed_pipe_ends_quietly():
    producer = subprocess.Popen([BINARY, "tokenize", "--model", TINY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT)
    producer.stdin.write(lines([{"text": "a"}]).encode())
    producer.stdin.flush()
    producer.stdout.readline()
    producer.stdout.close()  # as `| head -1` does
    with contextlib.suppress(BrokenPipeError):
        producer.stdin.write(lines([{"text": "a " * 50}] * 20000).encode())
        producer.stdin.close()
    code = producer.wait(60)
    errors = producer.stderr.read()
    producer.stderr.close()
    assert code in (0, 1, -signal.SIGPIPE) and b"CHECK" not in errors, (code, errors[:300])


def test_traces_and_corpora():
    with folder() as here:
        good = {"timestamp": 0, "input_length": 10, "output_length": 1, "hash_ids": [0]}
        for spoil in ({"timestamp": -1}, {"timestamp": "x"}, {"input_length": 0}, {"input_length": 1e300}, {"output_length": -5}, {"hash_ids": []}, {"hash_ids": [-1]}, {"hash_ids": "x"},
                      {"hash_ids": [0, 1]}, {"timestamp": None}):
            file = here / "t.jsonl"
            file.write_text(lines([good, dict(good, **spoil)]))
            refused("simulate", "--trace", file, words=["t.jsonl", "line 2"])
        for text in ("", "\n\n", "[]\n", "nonsense\n", "{" * 10000):
            file.write_text(text)
            refused("simulate", "--trace", file, words="t.jsonl")
        corpus = here / "c.jsonl"
        bad = ["5", "[]", "{}", '{"prompt": 5}', '{"tokens": "x"}', '{"tokens": [99999]}', '{"tokens": [-1]}', '{"prompt": "a", "tokens": [1]}', '{"messages": []}', '{"messages": 5}', '{"tokens": []}',
               '{"prompt": "' + "word " * 90000 + '"}', "nonsense", '{"tokens": [1.5]}', '{"prompt": "a", "tenant": 5}']
        corpus.write_text("\n".join(bad) + "\n" + lines([{"tokens": [5, 6, 7] * 60}]))
        done = baton("warm", "--model", TINY, "--input", corpus, f"--store.path={here / 's'}", "--json", code=1)
        report = done.one()
        assert report["bad_lines"] == len(bad) and report["prefixes"] == 1 and report["blocks"] == 2, str(done)
        for i in range(1, len(bad) + 1):
            assert f"{i}" in done.err


def test_wrong_role_counts():
    with contextlib.suppress(FileNotFoundError):
        for ranks, roles, word in ((2, "coordinator+gateway,store,prefill,decode", "mpirun -n 4"), (2, "coordinator,prefill+decode", "gateway"), (2, "coordinator+gateway,store", "prefill or decode"),
                                   (2, "gateway,coordinator+decode", "coordinator"), (2, "coordinator+gateway,decoed", "decode"), (1, "coordinator+gateway+,decode", "role")):
            done = subprocess.run(["mpirun", "--oversubscribe", "-n", str(ranks), BINARY, "cluster", "--model", TINY, f"--cluster.roles={roles}"], capture_output=True, text=True, timeout=60, env=ENVIRONMENT)
            assert done.returncode != 0 and word in done.stderr, f"{roles}: {done.returncode}\n{done.stderr[:1500]}"
    refused("cluster", "--model", TINY, words="mpirun -n 4")
    for address in ("nonsense", "host:", ":1", "host:0", "host:99999"):
        refused("cluster", "--join", address, "--model", TINY, words=address)
    begin = time.monotonic()
    done = baton("cluster", "--join", "127.0.0.1:1", "--model", TINY, "--cluster.connect_timeout_s=1", code=None, timeout=60)
    assert done.code == 1 and "127.0.0.1:1" in done.err and time.monotonic() - begin < 40, str(done)


if __name__ == "__main__":
    run_tests(sys.modules[__name__])
