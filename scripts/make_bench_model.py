#!/usr/bin/env python3
"""Makes a GGUF file to measure engines on, from one that has a tokenizer (the demo model): its tokenizer is taken over.
  make_bench_model.py bf16 FROM TO   the same model, its matrices as BF16
  make_bench_model.py 1b FROM TO     a Llama of a billion random weights, Q4_K with Q6_K where Q4_K_M has it: speed only, its text is noise
Needs the Python packages gguf and numpy."""
import argparse
import sys

try:
    import gguf
    import numpy as np
except ImportError as error:
    sys.exit(f"{error}; install them: pip install gguf numpy")

HIDDEN, LAYERS, HEADS, KV_HEADS, FFN = 2048, 16, 32, 8, 8192  # the shape of Llama-3.2-1B
Q4_K, Q6_K, F32, BF16 = (gguf.GGMLQuantizationType[name] for name in ("Q4_K", "Q6_K", "F32", "BF16"))


def copy_fields(reader, writer, skip):
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", *skip):
            continue
        kind, sub = field.types[0], field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), kind, sub)


def random_blocks(random, kind, rows, columns):
    """A [rows][columns] matrix of random codes; the scales keep its products of the size of their inputs."""
    size, bytes_a_block = gguf.GGML_QUANT_SIZES[kind]
    blocks = random.integers(0, 256, (rows * columns // size, bytes_a_block), dtype=np.uint8)
    scale = np.array([1.0 / (600 * np.sqrt(columns))], np.float16).view(np.uint8)
    at = 0 if kind == Q4_K else bytes_a_block - 2
    blocks[:, at:at + 2] = scale
    if kind == Q4_K:
        blocks[:, 2:4] = np.array([7.5 / (600 * np.sqrt(columns))], np.float16).view(np.uint8)
    return blocks.reshape(rows, -1)


def make_1b(reader, path):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(8192)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(500000.0)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    vocab = len(reader.fields["tokenizer.ggml.tokens"].data)
    writer.add_vocab_size(vocab)
    copy_fields(reader, writer, [name for name in reader.fields if name.startswith(("llama.", "general."))])
    random = np.random.default_rng(1)
    kv = KV_HEADS * HIDDEN // HEADS
    def matrix(name, kind, rows, columns):
        writer.add_tensor(name, random_blocks(random, kind, rows, columns), raw_dtype=kind)
    matrix("token_embd.weight", Q6_K, vocab, HIDDEN)
    writer.add_tensor("output_norm.weight", np.ones(HIDDEN, np.float32))
    for layer in range(LAYERS):
        p, more = f"blk.{layer}.", Q6_K if layer < LAYERS // 8 or layer >= 7 * LAYERS // 8 or layer % 3 == 2 else Q4_K
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"{p}{name}.weight", np.ones(HIDDEN, np.float32))
        for name, kind, rows, columns in (("attn_q", Q4_K, HIDDEN, HIDDEN), ("attn_k", Q4_K, kv, HIDDEN), ("attn_v", more, kv, HIDDEN),
                                          ("attn_output", Q4_K, HIDDEN, HIDDEN), ("ffn_gate", Q4_K, FFN, HIDDEN), ("ffn_up", Q4_K, FFN, HIDDEN),
                                          ("ffn_down", more, HIDDEN, FFN)):
            matrix(f"{p}{name}.weight", kind, rows, columns)
    return writer


def make_bf16(reader, path):
    writer = gguf.GGUFWriter(path, str(reader.fields["general.architecture"].contents()))
    copy_fields(reader, writer, ["general.file_type"])
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        if len(tensor.shape) == 1:
            writer.add_tensor(tensor.name, values.astype(np.float32))
        else:
            writer.add_tensor(tensor.name, gguf.quants.quantize(values, BF16), raw_dtype=BF16)
    return writer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("bf16", "1b"))
    parser.add_argument("source", metavar="FROM")
    parser.add_argument("target", metavar="TO")
    args = parser.parse_args()
    writer = {"bf16": make_bf16, "1b": make_1b}[args.kind](gguf.GGUFReader(args.source), args.target)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
