#!/usr/bin/env python3
"""Links within README.md and docs/ lead somewhere, headings included, and no merge left its marks."""
import glob
import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LINK = re.compile(r"\]\(([^)\s]+)\)")
MARK = re.compile(r"^(<{7}|={7}|>{7})( |$)")


def prose(path):
    """The lines outside of code blocks, by number."""
    code = False
    with open(path, encoding="utf-8") as f:
        for number, line in enumerate(f, 1):
            if line.startswith("```"):
                code = not code
            elif not code:
                yield number, line.rstrip("\n")


def anchors(path):
    """As GitHub makes them of headings."""
    heads = (line.lstrip("#").strip() for _, line in prose(path) if line.startswith("#"))
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in heads}


def main():
    wrong = []
    for path in [os.path.join(ROOT, "README.md")] + sorted(glob.glob(os.path.join(ROOT, "docs", "*.md"))):
        for number, line in prose(path):
            where = f"{os.path.relpath(path, ROOT)}:{number}"
            if MARK.match(line):
                wrong.append(f"{where}: a merge's mark")
            for link in LINK.findall(re.sub(r"`[^`]*`", "", line)):
                if re.match(r"[a-z]+:", link):
                    continue
                file, _, anchor = link.partition("#")
                to = os.path.normpath(os.path.join(os.path.dirname(path), file)) if file else path
                if not os.path.exists(to):
                    wrong.append(f"{where}: no file {link}")
                elif anchor and anchor not in anchors(to):
                    wrong.append(f"{where}: no heading {link}")
    print("\n".join(wrong + [f"{'not ok' if wrong else 'ok'} - links in the docs lead somewhere"]))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
