#!/usr/bin/env python3
"""embed.py JSON OUT: the file, checked and without its white space, as C text."""
import json
import sys

with open(sys.argv[1], encoding="utf-8") as f:
    text = json.dumps(json.load(f), separators=(",", ":"))
lines = [text[i:i + 96] for i in range(0, len(text), 96)]
with open(sys.argv[2], "w", encoding="utf-8") as f:
    f.write('#include "ctl/openapi.h"\n\nconst char openapi_json[] =\n')
    for line in lines:
        f.write('\t"' + line.replace("\\", "\\\\").replace('"', '\\"').replace("?", "\\?") + '"\n')
    f.write(";\nconst size_t openapi_json_len = sizeof(openapi_json) - 1;\n")
