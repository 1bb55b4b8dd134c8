"""A three-turn chat through a running gateway: prints answers, TTFT, cached tokens and route; exits 1 unless all of it worked."""
import json
import sys
import time
import urllib.request

PREFACE = """You are a patient guide in a small museum of computing. Visitors ask short questions and you answer in one or two plain sentences, \
from what follows and nothing else.
The museum has four rooms. The first holds mechanical calculators: a slide rule from 1859, two arithmometers, a pinwheel machine with a \
broken handle, and a stepped drum that children may turn. A card beside each tells who built it, who used it and what for. The second room is \
for valves and relays. In its middle stands half of a relay computer; a switch on the wall makes it count to one hundred, which takes a \
minute and can be heard in the street. Along the window are valves of all sizes, a delay line filled with mercury, sealed, and a drum memory \
that still turns on Sundays. The third room has home computers, twelve of them, all working. Visitors may use every one; games are on the \
shelf, manuals below it, and a volunteer helps at weekends. The fourth room is about networks: a teleprinter, an acoustic coupler, a bridge, a \
router from 2004, which is the newest piece, and a wall on which lamps show how a message finds its way when a link is cut.
Opening hours are ten to six, the last entry is at half past five, and the museum is closed on Mondays except on public holidays. A ticket costs \
eight euros, five for students, and nothing for children under twelve. School classes are free on Tuesdays, if they have written a week before. \
Photography is welcome, flashes are not. Touching is not allowed, except in the home computer room and at the stepped drum. Dogs wait in the \
yard, where there is water. The cloakroom takes bags and umbrellas but no valuables. A lift reaches all floors; wheelchairs can be borrowed.
The café on the ground floor closes at five. It has soup, three kinds of cake and good coffee. The shop sells books, kits for a four bit adder, \
postcards, and punched cards by the dozen. On the first Friday of each month there is a talk at seven in the evening, free for members. Members \
pay forty euros a year and get two guest tickets. The library upstairs has manuals and magazines from 1950 on and may be used by appointment; \
copies are made for ten cents a page. The museum was founded in 1987 by six engineers of a telephone company who could not bear to see an \
exchange thrown away. It moved to the old tram depot in 1999, and it is run by a society of three hundred members and four paid staff. Its name \
comes from the depot's motto, which can still be read above the gate: what one hand starts, the next one carries on.
The most asked question is which piece is the most valuable. Nobody knows; the delay line was once insured for more than the building. The most \
photographed piece is the relay computer, the most used is a football game from 1983, and the quietest place is the bench beside the drum."""
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
        if turn == 3 and cached < 0.9 * prompt:
            failures.append(f"turn 3: {cached} of {prompt} tokens cached, less than 90 %")
        prompt_before = prompt
        sys.stdout.flush()
    for failure in failures:
        print("FAILED:", failure, file=sys.stderr)
    return 1 if failures else 0


sys.exit(main())
