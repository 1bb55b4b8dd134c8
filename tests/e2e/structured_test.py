"""Answers in a form that the client asked for, over four ranks: what they look like, the same bits everywhere, and a worker killed meanwhile."""
import json
import os
import signal
import subprocess
import sys
import tempfile

from cluster import BINARY, Baton, demo_model, in_parallel, run_tests

SCHEMA = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 16}, "age": {"type": "integer", "minimum": 0, "maximum": 120},
                                           "colours": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "minItems": 1, "maxItems": 3}},
          "required": ["name", "age", "colours"], "additionalProperties": False}
FORMAT = {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": SCHEMA}}
MESSAGES = [{"role": "user", "content": "Describe a person as JSON."}]
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string", "maxLength": 12},
                                                                                                            "unit": {"enum": ["C", "F"]}}, "required": ["city", "unit"]}}},
         {"type": "function", "function": {"name": "now"}}]
BASE = {"messages": MESSAGES, "max_tokens": 120, "temperature": 0.9, "seed": 7, "logprobs": True, "top_logprobs": 2}


def check_person(text):
    person = json.loads(text)
    assert list(person) == ["name", "age", "colours"], person
    assert len(person["name"]) <= 16 and 0 <= person["age"] <= 120 and 1 <= len(person["colours"]) <= 3, person


def bits(choice):
    return choice["message"]["content"], choice["finish_reason"], json.dumps(choice["logprobs"])


def streamed(events, index=0):
    return "".join(c["delta"].get("content") or "" for e in events for c in e["choices"] if c["index"] == index)


def test_schema_everywhere_the_same_bits():
    wanted = {}
    with Baton(ranks=0) as alone:
        for seed in range(4):
            wanted[seed] = bits(alone.ask("/v1/chat/completions", dict(BASE, seed=seed, response_format=FORMAT))["choices"][0])
            check_person(wanted[seed][0])
            assert wanted[seed][1] == "stop", wanted[seed]
    # Everything is prefilled on the other worker, so its token is the grammar's first.
    with Baton(ranks=4, settings=["router.local_prefill_tokens=0"]) as cluster:
        answers = in_parallel([lambda seed=seed: cluster.ask("/v1/chat/completions", dict(BASE, seed=seed, response_format=FORMAT)) for seed in range(4)])
        for seed, answer in enumerate(answers):
            assert bits(answer["choices"][0]) == wanted[seed], f"seed {seed}: {answer['choices'][0]['message']} instead of {wanted[seed][0]}"


def test_every_form():
    with Baton(ranks=0) as baton:
        ask = lambda **more: baton.ask("/v1/chat/completions", dict(BASE, **more))["choices"][0]["message"]
        assert ask(guided_choice=["yes", "no"])["content"] in ("yes", "no")
        digits = ask(guided_regex=r"\d{3}-\d{2}")["content"]
        assert len(digits) == 6 and digits[3] == "-" and digits.replace("-", "").isdigit(), digits
        assert ask(grammar='root ::= "<" [a-z]{4} ">"')["content"].startswith("<")
        check_person(ask(structured_outputs={"json": SCHEMA})["content"])
        for seed in range(3):
            free = baton.ask("/v1/chat/completions", dict(BASE, seed=seed, response_format={"type": "json_object"}, max_tokens=300))["choices"][0]
            assert free["message"]["content"].startswith("{"), free
            assert free["finish_reason"] == "length" or isinstance(json.loads(free["message"]["content"]), dict), free
        whole = baton.ask("/v1/completions", {"prompt": "A number: ", "guided_regex": "[0-9]{5}", "max_tokens": 20})
        assert whole["choices"][0]["text"].isdigit() and whole["choices"][0]["finish_reason"] == "stop", whole
        text = baton.ask("/v1/responses", {"input": "A person.", "max_output_tokens": 120, "text": {"format": {"type": "json_schema", "name": "p", "schema": SCHEMA}}})
        check_person(text["output"][0]["content"][0]["text"])
        longer = baton.ask("/v1/completions", {"prompt": "Hi", "min_tokens": 30, "max_tokens": 40})
        assert longer["usage"]["completion_tokens"] >= 30, longer["usage"]


def test_tool_calls():
    with Baton(ranks=4) as baton:
        body = dict(BASE, tools=TOOLS, tool_choice={"type": "function", "function": {"name": "get_weather"}})
        choice = baton.ask("/v1/chat/completions", body)["choices"][0]
        assert choice["finish_reason"] == "tool_calls" and choice["message"]["content"] is None, choice
        call = choice["message"]["tool_calls"][0]["function"]
        arguments = json.loads(call["arguments"])
        assert call["name"] == "get_weather" and arguments["unit"] in ("C", "F"), call
        events = baton.stream("/v1/chat/completions", body)
        calls = [t for e in events for c in e["choices"] for t in c["delta"].get("tool_calls", [])]
        assert [t["function"] for t in calls] == [call] and events[-1]["choices"][0]["finish_reason"] == "tool_calls", calls
        any_of = baton.ask("/v1/chat/completions", dict(BASE, tools=TOOLS, tool_choice="required"))["choices"][0]["message"]["tool_calls"]
        assert any_of[0]["function"]["name"] in ("get_weather", "now")


def test_errors_say_what_is_wrong():
    with Baton(ranks=0) as baton:
        for more, says in [({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}}}, "keyword"),
                           ({"guided_regex": "("}, "regular expression"), ({"grammar": "root ::= x"}, "not defined"), ({"tool_choice": "required"}, "tools")]:
            status, _, data = baton.request("POST", "/v1/chat/completions", dict(BASE, **more))
            error = json.loads(data)["error"]
            assert status == 400 and says in error["message"], (more, status, error)
        assert baton.request("GET", "/health")[0] == 200


def test_a_killed_decode_worker_changes_nothing():
    settings = ["cluster.roles=coordinator+gateway,store,prefill,decode,decode"]
    body = dict(BASE, n=2, response_format={"type": "json_schema", "json_schema": {"name": "long", "schema": {
        "type": "array", "items": SCHEMA, "minItems": 6, "maxItems": 6}}}, max_tokens=400)
    body.pop("logprobs"), body.pop("top_logprobs")
    with Baton(ranks=5, settings=settings) as baton:
        wanted = baton.stream("/v1/chat/completions", body)
        busy = lambda: [w["pid"] for w in baton.cluster()["workers"] if w["state"] != "dead" and "decode" in w["roles"] and w["load"]["running"] > 0]

        def kill_once(index, _):
            if index == 60:
                for pid in busy()[:1]:
                    os.kill(pid, signal.SIGKILL)

        got = baton.stream("/v1/chat/completions", body, kill_once)
        for index in range(2):
            assert streamed(got, index) == streamed(wanted, index), f"choice {index}: {streamed(got, index)!r} instead of {streamed(wanted, index)!r}"
            assert len(json.loads(streamed(got, index))) == 6


def test_generate_takes_schema_and_grammar():
    with tempfile.TemporaryDirectory() as folder:
        schema, grammar = os.path.join(folder, "schema.json"), os.path.join(folder, "g.gbnf")
        with open(schema, "w") as file:
            json.dump(SCHEMA, file)
        with open(grammar, "w") as file:
            file.write('root ::= "yes" | "no"\n')
        run = lambda *more: subprocess.run([BINARY, "generate", "--model", demo_model(), "--prompt", "A person: ", "--max-tokens", "120", "--json", *more],
                                           capture_output=True, text=True, timeout=120)
        for form in (schema, json.dumps(SCHEMA)):
            check_person(json.loads(run("--json-schema", form).stdout)["text"])
        assert json.loads(run("--grammar", grammar).stdout)["text"] in ("yes", "no")
        bad = run("--json-schema", '{"type": "strnig"}')
        assert bad.returncode == 2 and "strnig" in bad.stderr, bad


if __name__ == "__main__":
    run_tests(sys.modules[__name__])
