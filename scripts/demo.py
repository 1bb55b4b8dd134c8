"""A three-turn chat through a running gateway: prints answers, TTFT, cached tokens and route; exits 1 unless all of it worked."""
import json
import sys
import time
import urllib.request

PREFACE = ("You are a patient guide in a small museum of computing. Visitors ask short questions and you answer in one or two plain "
           "sentences. The museum has four rooms: mechanical calculators, valves and relays, home computers, and networks. The oldest piece "
           "is a slide rule from 1859, the newest a router from 2004. Photography is welcome, touching is not, except in the home computer "
           "room, where every machine may be used. The café closes at five, the doors at six. School classes are free on Tuesdays. ")
QUESTIONS = ["Which rooms are there?", "And what may I touch?", "When does the café close?"]


def ask(url, messages):
    body = json.dumps({"messages": messages, "stream": True, "max_tokens": 40, "temperature": 0,
                       "stream_options": {"include_usage": True}}).encode()
    request = urllib.request.Request(url + "/v1/chat/completions", body, {"content-type": "application/json"})
    begin, first, text, usage = time.monotonic(), None, "", {}
    with urllib.request.urlopen(request, timeout=120) as answer:
        route = answer.headers.get("x-baton-route", "")
        for line in answer:
            if not line.startswith(b"data: ") or line.strip() == b"data: [DONE]":
                continue
            event = json.loads(line[6:])
            if "error" in event:
                raise RuntimeError(event["error"]["message"])
            usage = event.get("usage") or usage
            for choice in event.get("choices", []):
                piece = choice.get("delta", {}).get("content") or ""
                if piece and first is None:
                    first = time.monotonic() - begin
                text += piece
    return text, first, usage, route


def main():
    url = sys.argv[1]
    messages = [{"role": "system", "content": PREFACE}]
    failures = []
    for turn, question in enumerate(QUESTIONS, 1):
        messages.append({"role": "user", "content": question})
        text, first, usage, route = ask(url, messages)
        messages.append({"role": "assistant", "content": text})
        prompt, cached = usage.get("prompt_tokens", 0), usage.get("prompt_tokens_details", {}).get("cached_tokens", 0)
        print(f"turn {turn}  {question}\n        {text.strip()}")
        print(f"        TTFT {1000 * (first or 0):.0f} ms, {cached} of {prompt} prompt tokens cached, {usage.get('completion_tokens', 0)} generated")
        print(f"        route: {route}")
        if not text.strip() or first is None:
            failures.append(f"turn {turn} gave no text")
        if not route:
            failures.append(f"turn {turn} had no x-baton-route")
        # All full blocks of the turns before are cached; the last of them may be open.
        if turn > 1 and cached < (prompt_before // 64) * 64:
            failures.append(f"turn {turn}: only {cached} tokens cached of the {prompt_before} of the turn before")
        if turn == 3 and cached < 0.7 * prompt:
            failures.append(f"turn 3: {cached} of {prompt} tokens cached")
        prompt_before = prompt
        sys.stdout.flush()
    for failure in failures:
        print("FAILED:", failure, file=sys.stderr)
    return 1 if failures else 0


sys.exit(main())
