"""The gateway's API as clients of OpenAI, vLLM and llama.cpp use it: the cases that those projects' own server tests hold, on one server.
Each answer is compared with itself in another form: streamed and whole, in a batch and alone, as tokens and as text."""
import json
import random
import struct
import sys
import urllib.request

from cluster import Baton, in_parallel, run_tests
from program import TINY, baton, folder, lines, write_json

SERVER = None
MODEL = "tiny-qwen2-f32"
TEXT = "The river came down from the hills"
USER = [{"role": "user", "content": "Tell me of the river."}]


def complete(**body):
    return SERVER.ask("/v1/completions", dict({"prompt": TEXT, "max_tokens": 10, "temperature": 0, "ignore_eos": True}, **body))


def chat(**body):
    return SERVER.ask("/v1/chat/completions", dict({"messages": USER, "max_tokens": 10, "temperature": 0, "ignore_eos": True}, **body))


def streamed(path, **body):
    base = {"prompt": TEXT} if path == "/v1/completions" else {"messages": USER}
    return SERVER.stream(path, dict(base, max_tokens=10, temperature=0, ignore_eos=True, **{k: v for k, v in body.items() if k not in ("max_tokens", "temperature", "ignore_eos", "prompt", "messages")})
                         | {k: v for k, v in body.items()})


def text_of(events, index=0):
    out = ""
    for event in events:
        for choice in event.get("choices", []):
            if choice["index"] == index:
                out += choice.get("text") if "text" in choice else choice["delta"].get("content", "")
    return out


def status_of(path, body):
    status, _, data = SERVER.request("POST", path, body)
    return status, json.loads(data)


# ---- completions ----

def test_single_completion():
    answer = complete(max_tokens=5, model=MODEL)
    assert answer["id"].startswith("cmpl-") and answer["object"] == "text_completion" and answer["model"] == MODEL and answer["created"] > 1.6e9
    assert len(answer["choices"]) == 1 and answer["choices"][0]["index"] == 0 and len(answer["choices"][0]["text"]) >= 1
    assert answer["choices"][0]["finish_reason"] == "length" and answer["choices"][0]["logprobs"] is None
    usage = answer["usage"]
    assert usage["completion_tokens"] == 5 and usage["total_tokens"] == usage["prompt_tokens"] + 5
    by_ids = complete(max_tokens=5, prompt=SERVER.ask("/tokenize", {"prompt": TEXT})["tokens"])
    assert by_ids["choices"][0]["text"] == answer["choices"][0]["text"], "text and its tokens are one prompt"


def test_default_lengths():
    assert SERVER.ask("/v1/completions", {"prompt": TEXT, "temperature": 0, "ignore_eos": True})["usage"]["completion_tokens"] == 16, "OpenAI's default"
    zero = complete(max_tokens=0, echo=True)
    assert zero["choices"][0]["text"] == TEXT and zero["usage"]["completion_tokens"] == 0 and zero["choices"][0]["finish_reason"] == "length"
    events = streamed("/v1/completions", max_tokens=0)
    assert text_of(events) == "" and events[-1]["choices"][0]["finish_reason"] == "length"
    assert status_of("/v1/chat/completions", {"messages": USER, "max_tokens": 0})[0] == 400
    one = chat(max_tokens=1)
    assert one["usage"]["completion_tokens"] == 1 and one["choices"][0]["finish_reason"] == "length"
    assert chat(max_completion_tokens=3, max_tokens=9)["usage"]["completion_tokens"] == 3, "the newer name wins"


def test_batch_completions_are_each_alone():
    prompts = [TEXT, "Hello", "In 1969 two people walked on the moon;"]
    both = complete(prompt=prompts, n=1)
    assert [c["index"] for c in both["choices"]] == [0, 1, 2]
    for prompt, choice in zip(prompts, both["choices"]):
        assert choice["text"] == complete(prompt=prompt)["choices"][0]["text"], prompt
    assert both["usage"]["completion_tokens"] == 30
    twice = complete(prompt=prompts[:2], n=2, temperature=1, seed=3)
    assert [c["index"] for c in twice["choices"]] == [0, 1, 2, 3]
    for i, prompt in enumerate(prompts[:2]):
        alone = complete(prompt=prompt, n=2, temperature=1, seed=3)
        assert [c["text"] for c in twice["choices"][2 * i:2 * i + 2]] == [c["text"] for c in alone["choices"]], "a prompt's choices do not depend on its neighbours"
    events = streamed("/v1/completions", prompt=prompts[:2], n=2, temperature=1, seed=3)
    for i, choice in enumerate(twice["choices"]):
        assert text_of(events, i) == choice["text"], i
    ids = [SERVER.ask("/tokenize", {"prompt": p})["tokens"] for p in prompts]
    assert [c["text"] for c in complete(prompt=ids)["choices"]] == [c["text"] for c in both["choices"]]


def test_logprobs_of_completions():
    for count in (0, 1, 5, 20):
        answer = complete(logprobs=count, max_tokens=4)["choices"][0]["logprobs"]
        assert len(answer["tokens"]) == len(answer["token_logprobs"]) == len(answer["top_logprobs"]) == len(answer["text_offset"]) == 4
        assert answer["text_offset"][0] == 0 and answer["text_offset"] == sorted(answer["text_offset"])
        for token, logprob, top in zip(answer["tokens"], answer["token_logprobs"], answer["top_logprobs"]):
            assert logprob <= 0 and top[token] == logprob and 1 <= len(top) <= max(1, count) + 1, (count, top)
            assert max(top.values()) == logprob, "greedy takes the best"
    whole = complete(logprobs=2, max_tokens=8)["choices"][0]["logprobs"]
    events = streamed("/v1/completions", logprobs=2, max_tokens=8)
    pieces = [c["logprobs"] for e in events for c in e["choices"] if c["logprobs"]]
    for key in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        assert [v for p in pieces for v in p[key]] == whole[key], key
    assert status_of("/v1/completions", {"prompt": TEXT, "logprobs": 21})[0] == 400
    status, error = status_of("/v1/completions", {"prompt": TEXT, "logprobs": 1, "echo": True})
    assert status == 400 and error["error"]["param"] == "echo" or status == 200


def test_logprobs_are_the_models():
    with folder() as here:
        ids = write_json(here / "ids.json", SERVER.ask("/tokenize", {"prompt": TEXT})["tokens"])
        own = baton("generate", "--model", TINY, "--tokens", ids, "--max-tokens", 12, "--ignore-eos", "--json").one()
    answer = complete(max_tokens=12, logprobs=0, return_token_ids=True)["choices"][0]
    def bits(values):
        return [struct.pack("<f", v) for v in values]
    assert answer["token_ids"] == own["tokens"] and bits(answer["logprobs"]["token_logprobs"]) == bits(own["logprobs"]), "the server and `generate` agree to the bit"
    assert answer["text"] == own["text"]


def test_echo_and_stop_and_streams():
    plain = complete(max_tokens=40)["choices"][0]["text"]
    assert complete(max_tokens=40, echo=True)["choices"][0]["text"] == TEXT + plain
    assert text_of(streamed("/v1/completions", max_tokens=40, echo=True)) == TEXT + plain
    pieces = [p for p in (plain[i:i + 3] for i in range(2, len(plain) - 3, 5)) if "\ufffd" not in p]
    for stop in pieces[:6]:
        wanted = plain[:plain.index(stop)]
        for body in ({"stop": stop}, {"stop": [stop]}, {"stop": ["never \u2603", stop]}):
            whole = complete(max_tokens=40, **body)["choices"][0]
            assert whole["text"] == wanted and whole["finish_reason"] == "stop", (stop, whole["text"], plain)
        assert text_of(streamed("/v1/completions", max_tokens=40, stop=stop)) == wanted
        kept = complete(max_tokens=40, stop=stop, include_stop_str_in_output=True)["choices"][0]["text"]
        assert kept == wanted + stop, (kept, wanted)
        assert text_of(streamed("/v1/completions", max_tokens=40, stop=stop, include_stop_str_in_output=True)) == kept
    ids = complete(max_tokens=12, return_token_ids=True)["choices"][0]["token_ids"]
    target = next(t for i, t in enumerate(ids) if i >= 3 and t not in ids[:i])
    cut = complete(max_tokens=12, return_token_ids=True, stop_token_ids=[target], ignore_eos=False)["choices"][0]
    assert cut["finish_reason"] == "stop" and cut["token_ids"] == ids[:ids.index(target) + 1], (cut, ids)


def test_streams_in_every_form_are_the_whole_answer():
    """Over seeds, hot sampling of a tiny model gives half characters and odd bytes: the pieces still join to the same text."""
    draw = random.Random(3)
    for seed in range(12):
        body = {"temperature": 1.5, "seed": seed, "max_tokens": draw.randrange(1, 60), "n": draw.choice((1, 1, 2, 3))}
        whole, events = complete(**body), streamed("/v1/completions", **body)
        for choice in whole["choices"]:
            assert text_of(events, choice["index"]) == choice["text"], (seed, choice)
        reasons = {c["index"]: c["finish_reason"] for e in events for c in e["choices"] if c["finish_reason"]}
        assert reasons == {c["index"]: c["finish_reason"] for c in whole["choices"]}
        dialog, pieces = chat(**body), streamed("/v1/chat/completions", **body)
        for choice in dialog["choices"]:
            assert text_of(pieces, choice["index"]) == choice["message"]["content"], (seed, choice)
        assert not any("\ud800" <= ch <= "\udfff" for e in events for c in e["choices"] for ch in c["text"])


def test_stream_options():
    for path in ("/v1/completions", "/v1/chat/completions"):
        events = streamed(path)
        assert all("usage" not in e or e["usage"] is None for e in events), "no usage unless asked"
        events = streamed(path, stream_options={"include_usage": True})
        assert all(e["usage"] is None for e in events[:-1]) and events[-1]["choices"] == []
        usage = events[-1]["usage"]
        assert usage["completion_tokens"] == 10 and usage["total_tokens"] == usage["prompt_tokens"] + 10
        events = streamed(path, stream_options={"include_usage": True, "continuous_usage_stats": True})
        counts = [e["usage"]["completion_tokens"] for e in events if e["usage"] and e["choices"] and e["choices"][0]["finish_reason"] is None and e["usage"]["completion_tokens"]]
        assert counts == list(range(1, 11)), counts
        assert all(e["usage"]["total_tokens"] == e["usage"]["prompt_tokens"] + e["usage"]["completion_tokens"] for e in events if e["usage"])
        for options in ({"include_usage": False}, {"include_usage": False, "continuous_usage_stats": True}, {"include_usage": None}, {}):
            assert all(not e.get("usage") for e in streamed(path, stream_options=options)), options
        base = {"prompt": TEXT} if path == "/v1/completions" else {"messages": USER}
        for body in ({"stream_options": {"include_usage": True}}, {"stream": False, "stream_options": {"include_usage": True}}, {"stream": True, "stream_options": {"include_usage": "x"}}):
            assert status_of(path, dict(base, **body))[0] == 400, body
        whole = SERVER.request("POST", path, dict(base, max_tokens=2, stream=False, stream_options=None))
        assert whole[0] == 200


def test_logit_bias():
    ids = complete(max_tokens=6, return_token_ids=True)["choices"][0]["token_ids"]
    forced = complete(max_tokens=6, return_token_ids=True, logit_bias={"300": 100})["choices"][0]["token_ids"]
    assert forced == [300] * 6
    banned = complete(max_tokens=6, return_token_ids=True, logit_bias={str(t): -100 for t in ids})["choices"][0]["token_ids"]
    assert not set(banned) & set(ids)
    assert complete(max_tokens=6, return_token_ids=True, logit_bias={})["choices"][0]["token_ids"] == ids
    assert chat(max_tokens=6, logit_bias={"300": 100}, return_token_ids=True)["choices"][0]["token_ids"] == [300] * 6


def test_seeds():
    hot = {"temperature": 1, "max_tokens": 12}
    for seed in (0, 1, 2 ** 31, 2 ** 63 - 1, -1, -2 ** 63):
        first = complete(seed=seed, **hot)["choices"][0]["text"]
        assert complete(seed=seed, **hot)["choices"][0]["text"] == first, seed
    assert len({complete(seed=s, **hot)["choices"][0]["text"] for s in range(6)}) == 6
    assert len({complete(**hot)["choices"][0]["text"] for _ in range(6)}) > 1, "without a seed each answer is new"
    three = [c["text"] for c in complete(seed=5, n=3, **hot)["choices"]]
    assert len(set(three)) == 3 and three[0] == complete(seed=5, **hot)["choices"][0]["text"]
    best = complete(seed=5, n=1, best_of=3, **hot)["choices"]
    assert len(best) == 1 and best[0]["text"] in three
    assert status_of("/v1/completions", {"prompt": TEXT, "n": 2, "best_of": 1})[0] == 400


def test_penalties_change_what_they_should():
    plain = complete(max_tokens=40, return_token_ids=True)["choices"][0]["token_ids"]
    for body in ({"presence_penalty": 2}, {"frequency_penalty": 2}, {"repetition_penalty": 1.5}):
        ids = complete(max_tokens=40, return_token_ids=True, **body)["choices"][0]["token_ids"]
        assert len(set(ids)) > len(set(plain)), body
        assert ids[0] == plain[0] or "repetition_penalty" in body, "the first answer token has no answer before it"
    neutral = complete(max_tokens=40, return_token_ids=True, presence_penalty=0, frequency_penalty=0, repetition_penalty=1)["choices"][0]["token_ids"]
    assert neutral == plain


# ---- chat ----

def test_chat_forms():
    answer = chat(model=MODEL)
    assert answer["id"].startswith("chatcmpl-") and answer["object"] == "chat.completion"
    message = answer["choices"][0]["message"]
    assert message["role"] == "assistant" and isinstance(message["content"], str)
    events = streamed("/v1/chat/completions")
    assert all(e["object"] == "chat.completion.chunk" and e["id"] == events[0]["id"] for e in events)
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert text_of(events) == message["content"] and events[-1]["choices"][0]["finish_reason"] == "length"
    parts = chat(messages=[{"role": "user", "content": [{"type": "text", "text": USER[0]["content"]}]}])
    assert parts["choices"][0]["message"]["content"] == message["content"], "a list of one text part is that text"
    rendered = SERVER.ask("/apply-template", {"messages": USER})["prompt"]
    ids = SERVER.ask("/tokenize", {"messages": USER})["tokens"]
    raw = complete(prompt=rendered, return_token_ids=True)
    assert raw["choices"][0]["text"] == message["content"] and raw["usage"]["prompt_tokens"] == answer["usage"]["prompt_tokens"] == len(ids)
    assert chat(return_token_ids=True)["prompt_token_ids"] == ids
    template = baton("render", "--model", TINY, text=lines([{"messages": USER, "add_generation_prompt": True}])).one()
    assert template["text"] == rendered, "`render` and the server are one"


def test_chat_logprobs():
    answer = chat(logprobs=True, top_logprobs=5, max_tokens=6)["choices"][0]["logprobs"]
    assert len(answer["content"]) == 6
    for token in answer["content"]:
        assert len(token["top_logprobs"]) == 5 and token["top_logprobs"][0]["logprob"] == token["logprob"]
        assert bytes(token["bytes"]).decode(errors="replace") == token["token"]
        assert [t["logprob"] for t in token["top_logprobs"]] == sorted((t["logprob"] for t in token["top_logprobs"]), reverse=True)
    assert chat(logprobs=True, top_logprobs=0, max_tokens=2)["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []
    assert chat(logprobs=True, max_tokens=2)["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []
    assert chat(logprobs=False, max_tokens=2)["choices"][0]["logprobs"] is None
    for body in ({"top_logprobs": 3}, {"logprobs": False, "top_logprobs": 3}, {"logprobs": True, "top_logprobs": 21}, {"logprobs": True, "top_logprobs": -1}):
        assert status_of("/v1/chat/completions", dict({"messages": USER}, **body))[0] == 400, body


def test_conversations_and_roles():
    dialog = [{"role": "system", "content": "Be brief."}, *USER, {"role": "assistant", "content": "It flows."}, {"role": "user", "content": "Where?"}]
    first = chat(messages=dialog)
    assert first["usage"]["prompt_tokens"] > chat(messages=dialog[:2])["usage"]["prompt_tokens"]
    special = chat(messages=[{"role": "user", "content": "<|im_end|><|im_start|>system"}], return_token_ids=True)
    control = SERVER.ask("/tokenize", {"prompt": "<|im_end|>"})["tokens"]
    plain = chat(messages=[{"role": "user", "content": "x"}], return_token_ids=True)
    assert special["prompt_token_ids"].count(control[0]) == plain["prompt_token_ids"].count(control[0]), "content never becomes a control token"
    ended = chat(messages=[*USER, {"role": "assistant", "content": "It flows to"}], continue_final_message=True, add_generation_prompt=False, return_token_ids=True)
    tail = SERVER.ask("/detokenize", {"tokens": ended["prompt_token_ids"]})["prompt"]
    assert tail.endswith("It flows to"), tail[-40:]
    tools = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}]
    assert chat(tools=tools, tool_choice="none")["choices"]
    called = chat(messages=[*USER, {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": "{\"city\": \"Ulm\"}"}}]},
                            {"role": "tool", "tool_call_id": "1", "content": "rain"}])
    assert called["usage"]["prompt_tokens"] > 0


def test_null_fields_are_absent_fields():
    plain = chat(seed=1)
    nulls = {name: None for name in ("top_p", "n", "stop", "presence_penalty", "frequency_penalty", "logit_bias", "user", "logprobs", "top_logprobs", "stream", "stream_options", "response_format", "tools",
                                     "tool_choice", "max_completion_tokens", "top_k", "min_p", "stop_token_ids")}
    assert chat(seed=1, **nulls)["choices"][0]["message"] == plain["choices"][0]["message"]
    unknown = chat(seed=1, user="u", metadata={"a": 1}, store=True, service_tier="auto", parallel_tool_calls=True, no_such_field=[1])
    assert unknown["choices"][0]["message"] == plain["choices"][0]["message"], "unknown fields are ignored"


# ---- the rest ----

def test_responses():
    whole = SERVER.ask("/v1/responses", {"input": "Tell me of the river.", "max_output_tokens": 10, "temperature": 0})
    assert whole["object"] == "response" and whole["id"].startswith("resp_") and whole["status"] in ("completed", "incomplete")
    text = whole["output"][0]["content"][0]["text"]
    assert whole["output"][0]["type"] == "message" and whole["output"][0]["role"] == "assistant" and whole["output"][0]["content"][0]["type"] == "output_text"
    assert whole["usage"]["total_tokens"] == whole["usage"]["input_tokens"] + whole["usage"]["output_tokens"]
    listed = SERVER.ask("/v1/responses", {"input": USER, "max_output_tokens": 10, "temperature": 0})
    assert listed["output"][0]["content"][0]["text"] == text
    request = urllib.request.Request(SERVER.url + "/v1/responses", json.dumps({"input": USER, "max_output_tokens": 10, "temperature": 0, "stream": True}).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        names, events = [], []
        for line in answer.read().decode().split("\n"):
            if line.startswith("event: "):
                names.append(line[7:])
            if line.startswith("data: "):
                events.append(json.loads(line[6:]))
    assert names == [e["type"] for e in events] and [e["sequence_number"] for e in events] == list(range(len(events)))
    assert names[0] == "response.created" and names[-1] in ("response.completed", "response.incomplete")
    assert "".join(e["delta"] for e in events if e["type"] == "response.output_text.delta") == text
    assert [e["text"] for e in events if e["type"] == "response.output_text.done"] == [text]


def test_tokenize_and_detokenize():
    for text in ("", "a", TEXT, "na\u00efve caf\u00e9 \u2615 \U0001f469\u200d\U0001f4bb", "<|im_start|>user", "\n\n\t ", "\u0000", "x" * 10000):
        answer = SERVER.ask("/tokenize", {"prompt": text})
        assert answer["count"] == len(answer["tokens"]) and answer["max_model_len"] > 0
        assert SERVER.ask("/detokenize", {"tokens": answer["tokens"]})["prompt"] == text
        own = baton("tokenize", "--model", TINY, text=lines([{"text": text}])).one()["ids"]
        assert own == answer["tokens"], "the command and the server are one"
    pieces = SERVER.ask("/tokenize", {"content": TEXT, "with_pieces": True})
    assert "".join(pieces["token_strs"]) == TEXT
    assert SERVER.ask("/tokenize", {"prompt": "<|im_start|>", "parse_special": False})["count"] > 1
    assert SERVER.ask("/detokenize", {"tokens": []})["prompt"] == ""


def test_models_health_version_metrics():
    listed = json.loads(SERVER.request("GET", "/v1/models")[2])
    assert listed["object"] == "list" and [m["id"] for m in listed["data"]] == [MODEL] and listed["data"][0]["object"] == "model"
    assert json.loads(SERVER.request("GET", f"/v1/models/{MODEL}")[2]) == listed["data"][0]
    for path in ("/health", "/live", "/version", "/openapi.json"):
        assert SERVER.request("GET", path)[0] == 200, path
        assert SERVER.request("HEAD", path)[2] == b"", path
    spec = json.loads(SERVER.request("GET", "/openapi.json")[2])
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/models", "/tokenize", "/detokenize", "/apply-template", "/health", "/metrics"):
        assert path in spec["paths"], path
    status, headers, data = SERVER.request("GET", "/metrics")
    assert status == 200 and headers["content-type"].startswith("text/plain")
    typed, seen = {}, set()
    for line in data.decode().splitlines():
        if line.startswith("# TYPE "):
            name, kind = line.split()[2:4]
            assert name not in typed, f"{name} has two TYPE lines"
            typed[name] = kind
        elif line and not line.startswith("#"):
            sample = line.rsplit(" ", 1)
            float(sample[1])
            assert sample[0] not in seen, f"{sample[0]} comes twice"
            seen.add(sample[0])
    assert typed and all(n.startswith("baton_") for n in typed), sorted(typed)[:5]


def test_request_ids_and_records():
    status, headers, data = SERVER.request("POST", "/v1/chat/completions", {"messages": USER, "max_tokens": 3}, {"content-type": "application/json", "x-request-id": "my-id-7"})
    assert status == 200 and headers["x-request-id"] == "my-id-7" and headers["x-baton-route"]
    record = json.loads(SERVER.request("GET", "/debug/requests/my-id-7")[2])
    assert record["request_id"] == "my-id-7" and record["completion_tokens"] == json.loads(data)["usage"]["completion_tokens"] and record["outcome"] == "done"
    assert json.loads(SERVER.request("GET", "/debug/requests/" + json.loads(data)["id"])[2])["request_id"] == "my-id-7"
    assert SERVER.request("GET", "/debug/requests/no-such-id")[0] == 404
    route = SERVER.ask("/debug/route", {"prompt": TEXT})
    assert isinstance(route, dict) and route


def test_cached_tokens_are_counted_and_change_nothing():
    prompt = "The relay began at dawn and each runner told what the last had seen. " * 12
    cold = complete(prompt=prompt, max_tokens=20, logprobs=3)
    warm = complete(prompt=prompt, max_tokens=20, logprobs=3)
    details = [a["usage"]["prompt_tokens_details"] for a in (cold, warm)]
    assert details[0]["cached_tokens"] == 0 and details[1]["cached_tokens"] >= (cold["usage"]["prompt_tokens"] - 64) // 64 * 64, details
    assert cold["choices"] == warm["choices"], "a cache changes no bit"
    salted = complete(prompt=prompt, max_tokens=20, logprobs=3, cache_salt="mine")
    assert salted["usage"]["prompt_tokens_details"]["cached_tokens"] == 0 and salted["choices"] == cold["choices"]


def test_many_at_once():
    alone = {s: complete(seed=s, temperature=1, max_tokens=30)["choices"][0]["text"] for s in range(8)}
    got = in_parallel([lambda s=s: (s, complete(seed=s, temperature=1, max_tokens=30)["choices"][0]["text"]) for s in range(8) for _ in range(3)])
    assert all(text == alone[s] for s, text in got)


def test_keys():
    with Baton(ranks=0, model=TINY, settings=["gateway.api_keys=one,two", "gateway.admin_key=root"]) as server:
        def ask(path, key=None, header="authorization", method="GET", body=None):
            headers = {"content-type": "application/json"} | ({header: f"Bearer {key}" if header == "authorization" else key} if key else {})
            return server.request(method, path, body, headers)
        for path in ("/health", "/live", "/version", "/metrics", "/openapi.json", "/"):
            assert ask(path)[0] == 200, f"{path} needs no key"
        body = {"prompt": TEXT, "max_tokens": 2}
        for key in (None, "", "three", "one ", "onetwo", "root"):
            status, headers, data = ask("/v1/completions", key, method="POST", body=body)
            assert status == 401 and "www-authenticate" in headers and json.loads(data)["error"]["code"] == "invalid_api_key", key
        assert ask("/v1/completions", "one", method="POST", body=body)[0] == 200
        assert ask("/v1/completions", "two", header="x-api-key", method="POST", body=body)[0] == 200
        assert ask("/v1/models")[0] == 401 and ask("/v1/models", "one")[0] == 200
        assert ask("/admin/cluster", "one")[0] == 401 and ask("/admin/cluster", "root")[0] == 200
        first = [json.loads(ask("/v1/completions", key, method="POST", body={"prompt": [5, 6, 7] * 60, "max_tokens": 2})[2])["usage"]["prompt_tokens_details"]["cached_tokens"] for key in ("one", "one", "two")]
        assert first[0] == 0 and first[1] >= 128 and first[2] == 0, f"tenants share no prefix: {first}"
        assert baton("top", "--url", server.url, "--once", "--json", code=1).out == ""
        assert baton("top", "--url", server.url, "--once", "--json", "--api-key", "root").one()["ready"]
        assert "key" in baton("chat", "--url", server.url, text="Hi\n", code=1).err
        assert baton("chat", "--url", server.url, "--api-key", "one", "--max-tokens", 2, "--json", text="Hi\n").one()["completion_tokens"] == 2
        secret = baton("config", "--print", "--gateway.api_keys=one,two", "--gateway.admin_key=root").out
        assert "root" not in secret and "one" not in secret.split("api_keys")[1].split("\n")[0], "keys are not printed"


if __name__ == "__main__":
    code = 1
    with Baton(ranks=0, model=TINY) as SERVER:
        try:
            run_tests(sys.modules[__name__])
        except SystemExit as end:
            code = end.code
    sys.exit(code)
