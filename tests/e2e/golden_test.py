"""The reference data through the public commands, within the tolerances of its README, section 2. Read in place, never copied."""
import math
import sys

from cluster import in_parallel, run_tests
from program import DEMO, GOLDEN, Tensors, baton, folder, largest_difference, lines, load_json, need, write_json

# kind of vectors, model
TOKENIZERS = [("qwen2", "tiny-qwen2-f32"), ("qwen2", "tiny-qwen2-bf16-sharded"), ("llama3", "tiny-llama-untied-bf16"), ("llama3", "tiny-llama-untied-f32-sharded"),
              ("spm", "tiny-llama-tied-f32"), ("spm", "tiny-llama-tied-bf16")]
TEXT_MODELS = ["tiny-llama-tied-f32", "tiny-llama-tied-bf16", "tiny-llama-untied-f32-sharded", "tiny-llama-untied-bf16", "tiny-qwen2-f32", "tiny-qwen2-bf16-sharded"]
CASES = ["short1", "short2", "long", "chat"]
GGUFS = ["tiny-llama-spm-q5_1", "tiny-llama3-q4_1", "tiny-qwen2-f16", "tiny-qwen2-q8_0"]
EXCUSED_MARGIN = 1e-3  # a greedy token may differ from the reference only where its lead over the next was smaller


def check_tokenizer(vectors, model):
    encode, decode = vectors["encode"], vectors["decode"]
    texts = lines({"text": c["text"]} for c in encode)
    for flags, key in (([], "ids"), (["--plain"], "ids_special_as_text")):
        rows = baton("tokenize", "--model", model, *flags, text=texts).rows()
        assert len(rows) == len(encode)
        for row, c in zip(rows, encode):
            assert row == {"ids": c.get(key, c["ids"])}, f"{flags} {c['text']!r}: {row}, wanted {c.get(key, c['ids'])}"
    back = baton("detokenize", "--model", model, text=lines({"ids": c["ids"]} for c in encode + decode)).rows()
    for row, c in zip(back, encode + decode):
        wanted = c.get("decoded", c.get("text"))
        assert row == {"text": wanted}, f"{c['ids'][:20]}: {row}, wanted {wanted!r}"
    some = [c for c in encode + decode if "decoded_skip_special" in c]
    bare = baton("detokenize", "--model", model, "--skip-special", text=lines({"ids": c["ids"]} for c in some)).rows()
    for row, c in zip(bare, some):
        assert row == {"text": c["decoded_skip_special"]}, f"{c['ids'][:20]}: {row}, wanted {c['decoded_skip_special']!r}"
    return len(encode)


def test_tokenizers_of_the_checkpoints():
    for kind, model in TOKENIZERS:
        assert check_tokenizer(load_json(GOLDEN / f"tokenizers/{kind}.json"), GOLDEN / "checkpoints" / model) >= 400


def test_tokenizer_of_the_demo_model():
    need(DEMO, "BATON_DEMO_MODEL is not set")
    assert check_tokenizer(load_json(GOLDEN / "tokenizers/smollm2.json"), DEMO) == 560


def test_special_tokens_are_added_when_asked():
    for model, added in (("tiny-llama-tied-f32", True), ("tiny-llama-untied-bf16", True), ("tiny-qwen2-f32", False)):
        folder_of = GOLDEN / "checkpoints" / model
        bare = baton("tokenize", "--model", folder_of, text=lines([{"text": "The river"}, {"text": ""}])).rows()
        full = baton("tokenize", "--model", folder_of, "--add-special", text=lines([{"text": "The river"}, {"text": ""}])).rows()
        reference = load_json(GOLDEN / "refs" / model / "short1.json")
        for b, f in zip(bare, full):
            assert f["ids"] == ([reference["input_ids"][0]] if added else []) + b["ids"], (model, b, f)


def test_chat_templates():
    data = load_json(GOLDEN / "chat_templates/vectors.json")
    templates = load_json(GOLDEN / "chat_templates/templates.json")
    by_template = {}
    for vector in data["vectors"]:
        by_template.setdefault(vector["template"], []).append(vector)
    assert len(by_template) >= 50 and data["n"] == len(data["vectors"])
    with folder() as here:
        def render(name):
            file = here / f"{name}.jinja"
            file.write_bytes(templates[name]["source"].encode())
            requests = [dict({"messages": v["messages"], "tools": v["tools"], "documents": v["documents"], "special_tokens": v["special_tokens"],
                              "add_generation_prompt": v["add_generation_prompt"], "chat_template_kwargs": v["kwargs"], "now": data["now"]},
                             **({"continue_final_message": v["continue_final_message"]} if "continue_final_message" in v else {})) for v in by_template[name]]
            rows = baton("render", "--template", file, text=lines(requests), timeout=240).rows()
            assert len(rows) == len(requests)
            for row, v in zip(rows, by_template[name]):
                if "error" in v:
                    assert list(row) == ["error"] and row["error"], f"{v['name']}: {row} instead of an error"
                    if v["error"]["type"] == "TemplateError" and "raise_exception" in templates[name]["source"]:
                        assert v["error"]["message"] in row["error"], f"{v['name']}: the template's own words are lost: {row}"
                else:
                    assert row == {"text": v["rendered"]}, f"{v['name']}: {row}, wanted {v['rendered']!r}"
        for name in by_template:
            render(name)


def excused(got, wanted, margins):
    """Whether the ids are the reference's up to a step whose margin is too small to decide; what comes after it is free."""
    for step, (a, b) in enumerate(zip(got, wanted)):
        if a != b:
            return margins[step] < EXCUSED_MARGIN
    return len(got) == len(wanted)


def ids_file(here, ids):
    return write_json(here / f"ids{len(ids)}-{hash(tuple(ids)) & 0xffffff}.json", ids)


def check_case(here, model, name, numerics="f32"):
    """Logits, caches and greedy continuations of one text case in f32 arithmetic."""
    source = GOLDEN / "checkpoints" / model
    reference, tensors = load_json(GOLDEN / "refs" / model / f"{name}.json"), Tensors(GOLDEN / "refs" / model / f"{name}.safetensors")
    ids, n = ids_file(here, reference["input_ids"]), reference["n_tokens"]
    common = ["--model", source, "--numerics", numerics, "--kv-dtype", "f32", "--tokens", ids]
    out = here / f"{model}-{name}.safetensors"
    printed = baton("logits", *common, "--out", out, "--kv", "--json").one()
    own, vocab = Tensors(out), printed["vocab"]
    last = 4 if "logits_last4" in tensors else n
    wanted = tensors.read("logits_last4" if last == 4 else "logits")
    difference = largest_difference(own.read("logits", (n - last) * vocab, last * vocab), wanted)
    assert difference <= 2e-4, f"{model} {name}: logits differ by {difference}"
    top = tensors.read("top20_ids")
    for t in range(n):
        assert printed["argmax"][t] == top[20 * t] or tensors.read("top20_values", 20 * t, 1)[0] - tensors.read("top20_values", 20 * t + 1, 1)[0] < EXCUSED_MARGIN
    for key in [k for k in tensors.header if k.startswith("cache")]:
        heads, rows, dim = tensors.shape(key)[1:]
        mine = own.read(key.split(".", 1)[1])
        kept = [mine[(h * n + t) * dim + d] for h in range(heads) for t in range(n - rows, n) for d in range(dim)]
        assert largest_difference(kept, tensors.read(key)) <= 1e-4, f"{model} {name} {key}"
    out.unlink()
    prompt = [["--tokens", ids]]
    if "text" in reference:
        prompt.append(["--prompt", reference["text"]])
    else:
        prompt.append(["--messages", write_json(here / f"{model}-{name}.json", {"messages": reference["messages"],
                                                                                           "chat_template_kwargs": reference["template_kwargs"]})])
    for more in prompt if name != "long" else prompt[:1]:
        answer = baton("generate", *common[:6], *more, "--max-tokens", 32, "--ignore-eos", "--json").one()
        assert answer["prompt_tokens"] == reference["input_ids"], (model, name, more)
        assert excused(answer["tokens"], reference["greedy"]["ids"], reference["greedy"]["margin_top1_top2"]), (model, name, answer["tokens"], reference["greedy"]["ids"])
        shown = baton("detokenize", "--model", source, "--skip-special", text=lines([{"ids": answer["tokens"]}])).one()
        assert answer["text"] == shown["text"], (model, name)
        if answer["tokens"] == reference["greedy"]["ids"] and name != "long":
            assert baton("detokenize", "--model", source, text=lines([{"ids": answer["tokens"]}])).one()["text"] == reference["greedy"]["text"], (model, name)
    stopped = baton("generate", *common, "--max-tokens", 32, "--json").one()
    assert excused(stopped["tokens"], reference["greedy"]["generate_output_with_eos_stop"], reference["greedy"]["margin_top1_top2"]), (model, name, stopped["tokens"])
    penalty = reference["greedy_repetition_penalty"]
    punished = baton("generate", *common, "--max-tokens", 32, "--ignore-eos", "--repetition-penalty", penalty["penalty"], "--json").one()
    assert excused(punished["tokens"], penalty["ids"], penalty["margin_top1_top2"]), (model, name, punished["tokens"], penalty["ids"])


def test_text_models_in_f32_arithmetic():
    with folder() as here:
        in_parallel([lambda m=m: [check_case(here, m, name) for name in CASES] for m in TEXT_MODELS[:3]])
        in_parallel([lambda m=m: [check_case(here, m, name) for name in CASES] for m in TEXT_MODELS[3:]])


def test_batch_prompts_alone():
    with folder() as here:
        for model in TEXT_MODELS:
            reference = load_json(GOLDEN / "refs" / model / "batch.json")
            tensors = Tensors(GOLDEN / "refs" / model / "batch.safetensors")
            vocab = tensors.shape("last_logits")[1]
            for i, ids in enumerate(reference["input_ids"]):
                common = ["--model", GOLDEN / "checkpoints" / model, "--numerics", "f32", "--kv-dtype", "f32", "--tokens", ids_file(here, ids)]
                baton("logits", *common, "--out", here / "o.safetensors")
                last = Tensors(here / "o.safetensors").read("logits", (len(ids) - 1) * vocab, vocab)
                assert largest_difference(last, tensors.read("last_logits", i * vocab, vocab)) <= 2e-4, (model, i)
                greedy = reference["greedy"][i]
                answer = baton("generate", *common, "--max-tokens", len(greedy["ids"]), "--ignore-eos", "--json").one()
                assert excused(answer["tokens"], greedy["ids"], greedy["margin_top1_top2"]), (model, i, answer["tokens"], greedy["ids"])


def log_softmax(row):
    top = max(row)
    total = top + math.log(math.fsum(math.exp(v - top) for v in row))
    return [v - total for v in row]


def test_bf16_arithmetic_stays_close():
    """KL <= 0.02 and the same best token in nine of ten places; by default for a bf16 checkpoint, by flag for any."""
    with folder() as here:
        for model, flags in (("tiny-llama-tied-bf16", []), ("tiny-llama-untied-bf16", []), ("tiny-qwen2-bf16-sharded", []), ("tiny-qwen2-f32", ["--numerics", "bf16"])):
            kl, places, agreed = [], 0, 0
            for name in ("short1", "short2"):
                reference, tensors = load_json(GOLDEN / "refs" / model / f"{name}.json"), Tensors(GOLDEN / "refs" / model / f"{name}.safetensors")
                vocab = tensors.shape("logits")[1]
                baton("logits", "--model", GOLDEN / "checkpoints" / model, *flags, "--tokens", ids_file(here, reference["input_ids"]), "--out", here / "o.safetensors")
                for t in range(reference["n_tokens"]):
                    p = log_softmax(tensors.read("logits", t * vocab, vocab))
                    q = log_softmax(Tensors(here / "o.safetensors").read("logits", t * vocab, vocab))
                    kl.append(math.fsum(math.exp(a) * (a - b) for a, b in zip(p, q)))
                    places, agreed = places + 1, agreed + (p.index(max(p)) == q.index(max(q)))
            mean = sum(kl) / len(kl)
            assert mean <= 0.02, f"{model} {flags}: KL {mean}"
            assert agreed >= 0.9 * places, f"{model} {flags}: {agreed} of {places} best tokens"


def test_gguf_files():
    with folder() as here:
        for name in GGUFS:
            reference, tensors = load_json(GOLDEN / f"gguf/{name}.json"), Tensors(GOLDEN / f"gguf/{name}.safetensors")
            model = GOLDEN / f"gguf/{name}.gguf"
            for prompt in reference["prompts"]:
                ids, n = ids_file(here, prompt["input_ids"]), len(prompt["input_ids"])
                wanted = tensors.read(prompt["logits_tensor"])
                for numerics, tolerance in (("f32", 2e-4), ("exact", None), ("fast", None))[:1 if reference["weight_type"] == "F16" else 3]:
                    baton("logits", "--model", model, "--numerics", numerics, "--kv-dtype", "f32", "--tokens", ids, "--out", here / "o.safetensors")
                    got = Tensors(here / "o.safetensors").read("logits", (n - 1) * len(wanted), len(wanted))
                    if tolerance:
                        assert largest_difference(got, wanted) <= tolerance, (name, numerics, largest_difference(got, wanted))
                        continue
                    p, q = log_softmax(wanted), log_softmax(got)
                    best = sorted(range(len(p)), key=lambda i: -p[i])[:8]
                    assert max(abs(p[i] - q[i]) for i in best) <= 0.6, (name, numerics)
                answer = baton("generate", "--model", model, "--numerics", "f32", "--kv-dtype", "f32", "--prompt", prompt["text"], "--max-tokens", len(prompt["greedy"]),
                               "--ignore-eos", "--json").one()
                assert answer["prompt_tokens"] == prompt["input_ids"], (name, prompt["text"])
                assert excused(answer["tokens"], prompt["greedy"], prompt["margin_top1_top2"]), (name, answer["tokens"], prompt["greedy"])


def test_demo_model_prompts():
    need(DEMO, "BATON_DEMO_MODEL is not set")
    need("Q4_1" in DEMO, "the references are of the Q4_1 file")
    tensors = Tensors(GOLDEN / "smollm2/logits.safetensors")
    with folder() as here:
        for prompt in load_json(GOLDEN / "smollm2/prompts.json")["prompts"]:
            ids, n = ids_file(here, prompt["input_ids"]), prompt["n_tokens"]
            more = ["--prompt", prompt["text"]] if "text" in prompt else ["--messages", write_json(here / f"{prompt['name']}.json", prompt["messages"])]
            answer = baton("generate", "--model", DEMO, *more, "--kv-dtype", "f32", "--max-tokens", 48, "--ignore-eos", "--json").one()  # numerics: exact by default
            assert answer["prompt_tokens"] == prompt["input_ids"], prompt["name"]
            greedy = prompt["greedy"]
            different = next((i for i, (a, b) in enumerate(zip(answer["tokens"], greedy["ids"])) if a != b), None)
            assert different is None or greedy["margin_top1_top2"][different] < 0.3, (prompt["name"], different, answer["tokens"], greedy["ids"])
            whole = prompt.get("full_logits_tensor")
            baton("logits", "--model", DEMO, "--numerics", "f32", "--kv-dtype", "f32", "--tokens", ids, "--out", here / "o.safetensors", *(["--kv", "--hidden"] if whole else []))
            own = Tensors(here / "o.safetensors")
            last = own.read("logits", (n - 1) * 49152, 49152)
            assert max(abs(last[i] - v) for i, v in zip(prompt["top100_ids"], prompt["top100_logits"])) <= 5e-4, prompt["name"]
            if whole:
                assert largest_difference(last, tensors.read(whole)) <= 5e-4, prompt["name"]
            if prompt["name"] == "plain_france":
                for key in [k for k in tensors.header if k.startswith("plain_france.cache.")]:
                    assert largest_difference(own.read(key.removeprefix("plain_france.cache.")), tensors.read(key)) <= 1e-3, key


def test_demo_model_perplexity():
    """Each scored token's loss in f32 arithmetic, and their mean within 0.1 % of the reference's perplexity."""
    need(DEMO and "Q4_1" in DEMO, "BATON_DEMO_MODEL is not the Q4_1 file")
    reference = load_json(GOLDEN / "smollm2/perplexity.json")
    count = 192  # of the window's tokens: the rest would only take longer
    with folder() as here:
        ids = reference["input_ids"][:count + 1]
        baton("logits", "--model", DEMO, "--numerics", "f32", "--kv-dtype", "f32", "--tokens", ids_file(here, ids), "--out", here / "o.safetensors")
        own, losses = Tensors(here / "o.safetensors"), []
        for t in range(0, count, 4):
            row = own.read("logits", t * 49152, 49152)
            top = max(row)
            losses.append((top + math.log(math.fsum(map(math.exp, (v - top for v in row)))) - row[ids[t + 1]], reference["nll"][t]))
        assert max(abs(a - b) for a, b in losses) <= 2e-3, losses
        ratio = math.exp(sum(a - b for a, b in losses) / len(losses))
        assert abs(ratio - 1) <= 1e-3, ratio


if __name__ == "__main__":
    run_tests(sys.modules[__name__])
