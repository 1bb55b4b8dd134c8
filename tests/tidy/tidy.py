#!/usr/bin/env python3
"""House rules as a test: rooms include only what docs/architecture.md allows, files and functions stay short, and the
documents and the code agree. Prints each finding as FILE:LINE: what; exits 1 if there is one."""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
MAX_FILE, MAX_FUNCTION, MAX_LINE = 500, 70, 180
findings = []


def tracked():
    out = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True)
    if out.returncode == 0:
        return [ROOT / f for f in out.stdout.split("\n") if f and (ROOT / f).is_file()]
    return [p for p in ROOT.rglob("*") if p.is_file() and "build" not in p.relative_to(ROOT).parts]


def rooms():
    table = {}
    for line in (ROOT / "docs/architecture.md").read_text().splitlines():
        cells = [c.strip() for c in line.strip().strip("|").split("|")]
        if len(cells) == 4 and cells[0].isdigit():
            table[cells[1]] = {c.strip() for c in cells[2].split(",") if c.strip()}
    return table


def check_includes(path, lines, table):
    room = path.relative_to(ROOT).parts[0]
    allowed = table.get(room)
    if allowed is None or "all" in allowed:
        return
    for number, line in enumerate(lines, 1):
        match = re.match(r'#include "(\w+)/([\w/.]+)"', line)
        if not match or match.group(1) == room:
            continue
        target = match.group(1)
        if target in table and target not in allowed:
            findings.append(f"{path.relative_to(ROOT)}:{number}: room {room} may not include {target}/")
        if room == "gateway" and target == "model" and not re.match(r"(tokenizer|chat_template|detokenizer|image|grammar)", match.group(2)):
            findings.append(f"{path.relative_to(ROOT)}:{number}: gateway may use only tokenizer, chat template, grammars and images of model/")


def check_functions(path, lines):
    """A function body: from a line at the left margin (or two spaces in, for members) that ends in '{' to its closing brace."""
    for indent in ("", "  "):
        start = None
        for number, line in enumerate(lines, 1):
            if start is None:
                if re.match(rf"^{indent}[A-Za-z~].*\)[^;=]*\{{$", line) and not re.match(rf"^{indent}(namespace|class|struct|enum|extern|if|for|while|switch)\b", line):
                    start = number
            elif line.rstrip() == indent + "}" or line.startswith(indent + "}") and not line.startswith(indent + "} ") :
                if number - start + 1 > MAX_FUNCTION and "tests" not in path.relative_to(ROOT).parts:
                    findings.append(f"{path.relative_to(ROOT)}:{start}: function of {number - start + 1} lines (at most {MAX_FUNCTION})")
                start = None


def main():
    table = rooms()
    if len(table) < 9:
        findings.append("docs/architecture.md: the table of rooms is missing")
    product = tests = 0
    for path in tracked():
        relative = path.relative_to(ROOT)
        if path.suffix not in {".cc", ".h", ".capnp", ".py", ".sh"}:
            continue
        lines = path.read_text(encoding="utf-8").splitlines()
        in_tests = relative.parts[0] == "tests"
        if relative.parts[0] in table:
            product += len(lines)
        elif in_tests:
            tests += len(lines)
        if len(lines) > MAX_FILE:
            findings.append(f"{relative}:1: {len(lines)} lines (at most {MAX_FILE})")
        for number, line in enumerate(lines, 1):
            if len(line) > MAX_LINE and not in_tests:  # tables of cases are wide
                findings.append(f"{relative}:{number}: line of {len(line)} characters (at most {MAX_LINE})")
            if line.rstrip() != line:
                findings.append(f"{relative}:{number}: space at the end of the line")
        if path.suffix in {".cc", ".h"}:
            check_functions(path, lines)
            if not in_tests:
                check_includes(path, lines, table)
            if path.suffix == ".h" and "#pragma once" not in lines and not relative.name.endswith("_impl.h"):
                findings.append(f"{relative}:1: a header without #pragma once")
    for link in (ROOT / "docs").glob("*.md"):
        for target in re.findall(r"\]\(([\w./-]+\.md)\)", link.read_text()):
            if not (link.parent / target).exists():
                findings.append(f"docs/{link.name}: links to {target}, which is not there")
    for finding in sorted(findings):
        print(finding)
    print(f"{product} lines of product, {tests} of tests, {len(findings)} findings")
    return 1 if findings else 0


sys.exit(main())
