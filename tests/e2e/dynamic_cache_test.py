"""What `baton store export` writes and `import` reads, checked from Python by transformers' rules for a DynamicCache: one layer is
keys and values [batch, kv_heads, seq, head_dim]; update(k, v, layer) joins along seq; crop(-n) removes the last n. The rules are
written out here, so neither torch nor transformers is needed; where both are installed the files also go through the real class."""
import array
import json
import math
import os
import pathlib
import struct
import subprocess
import sys
import tempfile

BINARY = os.environ.get("BATON_BINARY", "build/bin/baton")
SHARED = pathlib.Path(os.environ.get("BATON_SHARED_DIR", "../shared"))
GOLDEN = SHARED / "golden/cache"
FILES = ["tiny-qwen2-f32_turn1", "tiny-qwen2-f32_turn2", "tiny-qwen2_5_vl-f32_one_image"]


class Tensor:
    """[batch, heads, seq, dim] of f32."""

    def __init__(self, shape, data):
        assert len(shape) == 4 and len(data) == math.prod(shape), (shape, len(data))
        self.shape, self.data = list(shape), data

    def rows(self, head):
        _, _, seq, dim = self.shape
        return self.data[head * seq * dim:(head + 1) * seq * dim]

    def joined(self, other):
        assert self.shape[:2] == other.shape[:2] and self.shape[3] == other.shape[3]
        data = array.array("f")
        for head in range(self.shape[1]):
            data += self.rows(head) + other.rows(head)
        return Tensor([*self.shape[:2], self.shape[2] + other.shape[2], self.shape[3]], data)

    def part(self, begin, end):
        data = array.array("f")
        for head in range(self.shape[1]):
            data += self.rows(head)[begin * self.shape[3]:end * self.shape[3]]
        return Tensor([*self.shape[:2], end - begin, self.shape[3]], data)

    def __eq__(self, other):
        return self.shape == other.shape and self.data.tobytes() == other.data.tobytes()


class DynamicCache:
    """transformers' class, as far as a file needs it."""

    def __init__(self):
        self.layers = []

    def update(self, keys, values, layer):
        assert layer <= len(self.layers), "layers come in order"
        if layer == len(self.layers):
            self.layers.append((keys, values))
        else:
            old_keys, old_values = self.layers[layer]
            self.layers[layer] = (old_keys.joined(keys), old_values.joined(values))
        return self.layers[layer]

    def get_seq_length(self):
        return self.layers[0][0].shape[2] if self.layers else 0

    def crop(self, n):
        assert n <= 0, "means: remove so many"
        length = max(0, self.get_seq_length() + n)
        self.layers = [(k.part(0, length), v.part(0, length)) for k, v in self.layers]


def read(path):
    """The raw tensors by name as (shape, bytes), and the metadata."""
    blob = pathlib.Path(path).read_bytes()
    size = struct.unpack_from("<Q", blob)[0]
    header = json.loads(blob[8:8 + size])
    meta = header.pop("__metadata__")
    tensors = {}
    for name, info in header.items():
        begin, end = info["data_offsets"]
        tensors[name] = (info["dtype"], info["shape"], blob[8 + size + begin:8 + size + end])
    return tensors, meta


def load(path):
    """A file as a cache, with every rule of the exchange form checked."""
    tensors, meta = read(path)
    assert (meta["format"], meta["version"], meta["layout"], meta["rope"]) == ("hf_dynamic_cache", "1", "BHTD", "applied"), meta
    cache = DynamicCache()
    for layer in range(int(meta["num_layers"])):
        pair = []
        for kind in ("key", "value"):
            dtype, shape, raw = tensors.pop(f"layers.{layer}.{kind}")
            assert dtype == "F32", dtype
            data = array.array("f")
            data.frombytes(raw)
            pair.append(Tensor(shape, data))
        cache.update(*pair, layer)
    keys = cache.layers[0][0]
    assert keys.shape == [int(meta["batch_size"]), int(meta["num_key_value_heads"]), int(meta["seq_length"]), int(meta["head_dim"])], (keys.shape, meta)
    assert cache.get_seq_length() == int(meta["seq_length"])
    assert len(json.loads(meta["token_ids"])) in (cache.get_seq_length(), cache.get_seq_length() + 1), "the last token has no position yet"
    if "rope_delta" in meta:  # without it every later position of a prefix with images is wrong
        assert int(meta["next_position"]) == cache.get_seq_length() + int(meta["rope_delta"])
        dtype, shape, _ = tensors.pop("position_ids")
        assert dtype == "I32" and shape[0] == 3 and shape[-1] == cache.get_seq_length(), (dtype, shape)
    assert not tensors, f"tensors that no reader asks for: {sorted(tensors)}"
    return cache, meta


def save(path, cache, token_ids):
    keys = cache.layers[0][0]
    header, body = {"__metadata__": {"format": "hf_dynamic_cache", "version": "1", "num_layers": str(len(cache.layers)), "seq_length": str(keys.shape[2]),
                                     "batch_size": "1", "num_key_value_heads": str(keys.shape[1]), "head_dim": str(keys.shape[3]), "layout": "BHTD",
                                     "rope": "applied", "dtype": "float32", "model": "from-python", "token_ids": json.dumps(token_ids)}}, b""
    for layer, pair in enumerate(cache.layers):
        for kind, tensor in zip(("key", "value"), pair):
            raw = tensor.data.tobytes()
            header[f"layers.{layer}.{kind}"] = {"dtype": "F32", "shape": tensor.shape, "data_offsets": [len(body), len(body) + len(raw)]}
            body += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(text)) + text + body)


def baton(*arguments):
    done = subprocess.run([BINARY, *map(str, arguments)], capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"{arguments}: {done.stderr}"
    return [json.loads(line) for line in done.stdout.splitlines()] if "--json" in arguments else []


def same(a, b):
    return len(a.layers) == len(b.layers) and all(x == y for one, two in zip(a.layers, b.layers) for x, y in zip(one, two))


def distance(a, b):
    return max(abs(x - y) for one, two in zip(a.layers, b.layers) for s, t in zip(one, two) for x, y in zip(s.data, t.data))


def test_what_transformers_wrote_comes_back_as_it_was(folder):
    for name in FILES:
        golden, _ = load(GOLDEN / f"{name}.safetensors")
        for block_tokens in (1, 16, 64):
            store, out = folder / f"{name}-{block_tokens}", folder / "out.safetensors"
            rows = baton("store", "import", "--json", "--path", store, "--block-tokens", block_tokens, GOLDEN / f"{name}.safetensors")
            baton("store", "export", "--path", store, "--key", rows[0]["key"], out)
            cache, _ = load(out)
            assert same(cache, golden), f"{name} in blocks of {block_tokens}"


def test_what_python_wrote_is_read_and_a_longer_turn_extends_it(folder):
    golden, meta = load(GOLDEN / "tiny-qwen2-f32_turn2.safetensors")
    ids = json.loads(meta["token_ids"])[:golden.get_seq_length()]
    short = DynamicCache()
    for layer, (keys, values) in enumerate(golden.layers):  # in two updates, as two turns would
        short.update(keys.part(0, 20), values.part(0, 20), layer)
    for layer, (keys, values) in enumerate(golden.layers):
        short.update(keys.part(20, 50), values.part(20, 50), layer)
    cropped, _ = load(GOLDEN / "tiny-qwen2-f32_turn2.safetensors")
    cropped.crop(50 - len(ids))
    assert same(short, cropped), "update and crop agree"
    save(folder / "short.safetensors", short, ids[:50])
    save(folder / "long.safetensors", golden, ids)
    rows = baton("store", "import", "--json", "--path", folder / "store", "--block-tokens", 16, folder / "short.safetensors", folder / "long.safetensors")
    assert [row["tokens"] for row in rows] == [50, len(ids)], rows
    for row, want in zip(rows, (short, golden)):
        baton("store", "export", "--path", folder / "store", "--key", row["key"], folder / "out.safetensors")
        cache, meta = load(folder / "out.safetensors")
        assert same(cache, want)
        assert json.loads(meta["token_ids"]) == ids[:want.get_seq_length()]


def test_what_baton_computed_is_what_transformers_computed(folder):
    golden, meta = load(GOLDEN / "tiny-qwen2-f32_turn1.safetensors")
    ids = json.loads(meta["token_ids"])
    (folder / "corpus.jsonl").write_text(json.dumps({"tokens": ids}) + "\n")
    model = SHARED / "golden/checkpoints/tiny-qwen2-f32"
    baton("warm", "--json", "--model", model, "--model.kv_dtype=f32", "--model.numerics=f32", "--model.block_tokens=16", f"--store.path={folder}/store",
          "--input", folder / "corpus.jsonl")
    baton("store", "export", "--path", folder / "store", folder / "out.safetensors")
    cache, meta = load(folder / "out.safetensors")
    full = len(ids) // 16 * 16
    assert cache.get_seq_length() == full and json.loads(meta["token_ids"]) == ids[:full]
    golden.crop(full - golden.get_seq_length())
    assert distance(cache, golden) <= 1e-4, distance(cache, golden)


def test_the_real_class_takes_the_file(folder):
    try:
        import torch
        import transformers
    except ImportError:
        print("    torch or transformers is not installed: only the rules above were checked")
        return
    store, out = folder / "store", folder / "out.safetensors"
    baton("store", "import", "--path", store, GOLDEN / f"{FILES[0]}.safetensors")
    baton("store", "export", "--path", store, out)
    ours, _ = load(out)
    real = transformers.DynamicCache()
    for layer, pair in enumerate(ours.layers):
        real.update(*(torch.tensor(t.data).reshape(t.shape) for t in pair), layer)
    assert real.get_seq_length() == ours.get_seq_length()


def main():
    for name, test in list(globals().items()):
        if not name.startswith("test_"):
            continue
        with tempfile.TemporaryDirectory(prefix="baton-cache-") as folder:
            test(pathlib.Path(folder))
        print(f"ok {name}")


if __name__ == "__main__":
    sys.exit(main())
