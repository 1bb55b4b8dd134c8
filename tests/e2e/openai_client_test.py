#!/usr/bin/env python3
"""The unmodified `openai` client against a running gateway: BATON_URL (default http://127.0.0.1:8000), BATON_API_KEY if it asks one.

The client is installed into a virtual environment of its own (BATON_VENV, default: the user's cache folder) on the first run; without
a package index the test says SKIPPED and ends with 77, ctest's code for it. Every check prints a line; the first failure ends the run."""
import os
import pathlib
import subprocess
import sys
import threading
import time
import urllib.request
import venv

URL = os.environ.get("BATON_URL", "http://127.0.0.1:8000").rstrip("/")
KEY = os.environ.get("BATON_API_KEY", "none")
SKIPPED = 77


def ensure_client():
    """Re-runs this file under a Python that has the client."""
    if os.environ.get("BATON_IN_VENV"):
        return
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))
    home = pathlib.Path(os.environ.get("BATON_VENV", cache / "baton" / "openai-venv"))
    python = home / "bin" / "python"
    try:
        if not python.exists():
            venv.create(home, with_pip=True)
        if subprocess.run([python, "-c", "import openai"], capture_output=True).returncode != 0:
            subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "openai>=2"], check=True, timeout=300)
    except Exception as error:  # no pip, no network, no room
        print(f"SKIPPED: the openai client cannot be installed: {error}")
        sys.exit(SKIPPED)
    os.execve(python, [str(python), __file__, *sys.argv[1:]], {**os.environ, "BATON_IN_VENV": "1"})


def check(name, condition, detail=""):
    print(("ok      " if condition else "FAILED  ") + name + (f"  {detail}" if detail and not condition else ""), flush=True)
    if not condition:
        sys.exit(1)


def raises(kind, call):
    try:
        call()
    except kind as error:
        return error
    return None


MESSAGES = [{"role": "user", "content": "Name three colours of the rainbow."}]


def test_models(client):
    models = list(client.models.list())
    check("models: one is listed", len(models) == 1)
    check("models: retrieve", client.models.retrieve(models[0].id).id == models[0].id)
    return models[0].id


def test_chat(client, model):
    answer = client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=24, temperature=0)
    choice = answer.choices[0]
    check("chat: text", bool(choice.message.content) and choice.message.role == "assistant")
    check("chat: finish_reason", choice.finish_reason in ("stop", "length"), choice.finish_reason)
    check("chat: usage adds up", answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens)
    check("chat: at most max_tokens", 0 < answer.usage.completion_tokens <= 24)
    check("chat: cached_tokens", 0 <= answer.usage.prompt_tokens_details.cached_tokens <= answer.usage.prompt_tokens)
    check("chat: fingerprint", bool(answer.system_fingerprint))
    return choice.message.content


def test_stream(client, model, whole):
    roles, text, reasons, usage, pieces = 0, "", [], None, 0
    for chunk in client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=24, temperature=0, stream=True,
                                                stream_options={"include_usage": True}):
        if chunk.usage:
            usage = chunk.usage
        for choice in chunk.choices:
            roles += choice.delta.role is not None
            text += choice.delta.content or ""
            if choice.finish_reason:
                reasons.append(choice.finish_reason)
            elif choice.delta.role is None:
                pieces += 1
    check("stream: the same text as the whole answer", text == whole, f"{text!r} != {whole!r}")
    check("stream: one role, one finish_reason", roles == 1 and len(reasons) == 1)
    check("stream: one event a token", usage is not None and pieces == usage.completion_tokens, f"{pieces} {usage}")


def test_logprobs(client, model):
    def ask(**more):
        return client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=8, temperature=0, logprobs=True, top_logprobs=3, **more)
    whole = ask()
    content = whole.choices[0].logprobs.content
    check("logprobs: one a token", len(content) == whole.usage.completion_tokens)
    check("logprobs: alternatives", all(len(token.top_logprobs) == 3 for token in content))
    check("logprobs: greedy takes the first", all(token.logprob == token.top_logprobs[0].logprob for token in content))
    check("logprobs: sorted and not above 0", all(0 >= a.logprob >= b.logprob for t in content for a, b in zip(t.top_logprobs, t.top_logprobs[1:])))
    streamed = [t for chunk in ask(stream=True) for c in chunk.choices if c.logprobs for t in c.logprobs.content]
    check("logprobs: the stream has the very same", [(t.token, t.logprob) for t in streamed] == [(t.token, t.logprob) for t in content])
    old = client.completions.create(model=model, prompt="One, two, three,", max_tokens=4, temperature=0, logprobs=2).choices[0].logprobs
    check("logprobs: completions' form", len(old.tokens) == len(old.token_logprobs) == len(old.text_offset) == len(old.top_logprobs) > 0)


def test_n_and_seed(client, model):
    def ask(seed, n=1):
        answer = client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=16, temperature=1, seed=seed, n=n)
        return [choice.message.content for choice in sorted(answer.choices, key=lambda c: c.index)]
    three = ask(7, 3)
    check("n: three choices, not all alike", len(three) == 3 and len(set(three)) > 1, str(three))
    check("seed: the same again", ask(7, 3) == three)
    check("seed: the first choice does not depend on n", ask(7) == three[:1])
    check("seed: another seed differs", any(ask(seed) != three[:1] for seed in (8, 9, 10)))


def test_stop(client, model):
    def ask(**more):
        return client.completions.create(model=model, prompt="1, 2, 3, 4, 5,", max_tokens=24, temperature=0, **more)
    whole = ask().choices[0].text
    stop = whole[len(whole) // 2:len(whole) // 2 + 2]
    cut = ask(stop=[stop]).choices[0]
    check("stop: cut exactly before", cut.text == whole[:whole.index(stop)] and cut.finish_reason == "stop", f"{cut.text!r} {whole!r} {stop!r}")
    streamed = "".join(chunk.choices[0].text for chunk in ask(stop=stop, stream=True))
    check("stop: the same in a stream", streamed == cut.text)


def test_errors(client, model):
    import openai
    def ask(**more):
        return client.chat.completions.create(**{"model": model, "messages": MESSAGES, "max_tokens": 4, **more})
    check("errors: unknown model", raises(openai.NotFoundError, lambda: ask(model="no-such-model")) is not None)
    error = raises(openai.BadRequestError, lambda: ask(temperature=-1))
    check("errors: wrong value names its field", error is not None and error.param == "temperature")
    error = raises(openai.BadRequestError, lambda: ask(messages=[{"role": "user", "content": "long " * 200000}]))
    check("errors: too long a prompt", error is not None and error.code == "context_length_exceeded")


def metric(name):
    for line in urllib.request.urlopen(URL + "/metrics", timeout=10).read().decode().splitlines():
        if line.startswith(name + " "):
            return float(line.split()[-1])
    return 0.0


def test_parallel_streams(client, model, whole):
    texts, errors = {}, []
    def run(i):
        try:
            stream = client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=24 if i % 4 else 512, temperature=0, stream=True,
                                                    extra_body={"ignore_eos": i % 4 == 0})
            texts[i] = ""
            for seen, chunk in enumerate(stream):
                texts[i] += chunk.choices[0].delta.content or "" if chunk.choices else ""
                if i % 4 == 0 and seen >= 3:  # four of them leave
                    stream.close()
                    return
        except Exception as error:
            errors.append(f"{i}: {error}")
    threads = [threading.Thread(target=run, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=300)
    check("parallel: no errors", not errors, "; ".join(errors))
    check("parallel: each complete stream has the text of one alone", all(texts[i] == whole for i in range(16) if i % 4), str(texts))
    deadline = time.monotonic() + 2
    while metric("baton_gateway_running_answers") > 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    check("parallel: nothing runs on for those that left", metric("baton_gateway_running_answers") == 0)


def test_raw_answers(client, model):
    raw = client.chat.completions.with_raw_response.create(model=model, messages=MESSAGES, max_tokens=4, temperature=0, extra_headers={"x-request-id": "from-the-client"})
    check("raw: request id and route", raw.headers["x-request-id"] == "from-the-client" and bool(raw.headers["x-baton-route"]))
    check("raw: the parsed answer", raw.parse().usage.completion_tokens <= 4)
    with client.chat.completions.with_streaming_response.create(model=model, messages=MESSAGES, max_tokens=4, temperature=0) as answer:
        check("raw: a body read in pieces", b"chat.completion" in b"".join(answer.iter_bytes()))
    with client.chat.completions.stream(model=model, messages=MESSAGES, max_tokens=8, temperature=0) as stream:
        kinds = {event.type for event in stream}
        check("raw: the client's own stream of events", {"chunk", "content.delta"} <= kinds, str(kinds))


def test_every_error_class(client, model):
    import openai
    def ask(**more):
        return client.chat.completions.create(**{"model": model, "messages": MESSAGES, "max_tokens": 4, **more})
    bad = {"temperature": 9, "top_p": 2, "n": 0, "max_tokens": -1, "stop": [""], "logit_bias": {"x": 1}, "presence_penalty": 5, "top_logprobs": 3, "messages": [], "stream_options": {"include_usage": True}}
    for name, value in bad.items():
        error = raises(openai.BadRequestError, lambda: ask(**{name: value}))
        check(f"error classes: {name}", error is not None and error.status_code == 400 and error.param == name and error.type == "invalid_request_error", str(error))
    check("error classes: unknown model retrieved", raises(openai.NotFoundError, lambda: client.models.retrieve("no-such-model")) is not None)
    check("error classes: unknown path", raises(openai.NotFoundError, lambda: client.embeddings.create(model=model, input="x")) is not None)
    check("error classes: an error before a stream", raises(openai.BadRequestError, lambda: ask(stream=True, temperature=9)) is not None)
    tight = client.with_options(timeout=0.000001, max_retries=0)
    check("error classes: the client's own timeout", raises(openai.APITimeoutError, lambda: tight.chat.completions.create(model=model, messages=MESSAGES, max_tokens=200)) is not None)
    check("error classes: the server goes on", len(ask().choices) == 1)


def test_completions(client, model):
    def ask(**more):
        return client.completions.create(**{"model": model, "prompt": "One, two, three,", "max_tokens": 8, "temperature": 0, **more})
    plain = ask().choices[0].text
    check("completions: echo", ask(echo=True).choices[0].text == "One, two, three," + plain)
    both = ask(prompt=["One, two, three,", "Red, green,"])
    check("completions: a batch", [c.index for c in both.choices] == [0, 1] and both.choices[0].text == plain)
    check("completions: a stream", "".join(c.choices[0].text for c in ask(stream=True)) == plain)
    best = ask(n=1, best_of=3, temperature=1, seed=3)
    check("completions: best_of", len(best.choices) == 1 and best.usage.completion_tokens > 8)
    check("completions: extra_body reaches the server", len(ask(extra_body={"return_token_ids": True}).model_dump()["choices"][0]["token_ids"]) == 8)
    banned = ask(logit_bias={str(t): -100 for t in ask(extra_body={"return_token_ids": True}).model_dump()["choices"][0]["token_ids"]})
    check("completions: logit_bias", banned.choices[0].text != plain)


def test_responses_stream(client, model):
    whole = client.responses.create(model=model, input="Say hello.", max_output_tokens=8, temperature=0)
    check("responses: usage adds up", whole.usage.total_tokens == whole.usage.input_tokens + whole.usage.output_tokens)
    text, kinds = "", []
    for event in client.responses.create(model=model, input="Say hello.", max_output_tokens=8, temperature=0, stream=True):
        kinds.append(event.type)
        text += event.delta if event.type == "response.output_text.delta" else ""
    check("responses: the stream is the whole answer", text == whole.output_text, f"{text!r} {whole.output_text!r}")
    check("responses: begins and ends", kinds[0] == "response.created" and kinds[-1] in ("response.completed", "response.incomplete"), str(kinds))


def test_async(model, whole):
    import asyncio
    from openai import AsyncOpenAI

    async def everything():
        async with AsyncOpenAI(base_url=URL + "/v1", api_key=KEY, timeout=300, max_retries=0) as client:
            async def one(stream):
                answer = await client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=24, temperature=0, stream=stream)
                if not stream:
                    return answer.choices[0].message.content
                return "".join([c.choices[0].delta.content or "" async for c in answer if c.choices])
            texts = await asyncio.gather(*[one(i % 2 == 0) for i in range(8)])
            check("async: eight at once, each the text of one alone", all(t == whole for t in texts), str(texts))
            task = asyncio.create_task(client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=512, extra_body={"ignore_eos": True}))
            await asyncio.sleep(0)
            task.cancel()
            ended = await asyncio.gather(task, return_exceptions=True)
            check("async: a cancelled call ends", isinstance(ended[0], asyncio.CancelledError), str(ended))
            stream = await client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=512, stream=True, extra_body={"ignore_eos": True})
            async for _ in stream:
                break
            await stream.close()
            check("async: models", len([m async for m in client.models.list()]) == 1)
    asyncio.run(everything())
    deadline = time.monotonic() + 10
    while metric("baton_gateway_running_answers") > 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    check("async: nothing runs on for those that left", metric("baton_gateway_running_answers") == 0)


def main():
    ensure_client()
    from openai import OpenAI
    client = OpenAI(base_url=URL + "/v1", api_key=KEY, timeout=300, max_retries=0)
    model = test_models(client)
    whole = test_chat(client, model)
    test_stream(client, model, whole)
    test_logprobs(client, model)
    test_n_and_seed(client, model)
    test_stop(client, model)
    test_errors(client, model)
    test_raw_answers(client, model)
    test_every_error_class(client, model)
    test_completions(client, model)
    test_responses_stream(client, model)
    test_async(model, whole)
    test_parallel_streams(client, model, whole)
    response = client.responses.create(model=model, input="Say hello.", max_output_tokens=8)
    check("responses: text", bool(response.output_text))
    print("all checks passed")


if __name__ == "__main__":
    main()
