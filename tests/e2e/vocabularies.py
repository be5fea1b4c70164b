# SPDX-License-Identifier: Apache-2.0
"""Two published vocabularies (GGUF files of llama.cpp, with its texts and their ids) as tokenizer.json: the same ids.

usage: vocabularies.py GRADUS DATA     (TAP on standard output; DATA holds data/tokenizer)
"""
import gzip
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile

gradus, data = sys.argv[1:3]
source = os.path.join(data, "data", "tokenizer")
# The splits of the two models' own tokenizer.json; the one of deepseek-llm lists the cased letters that are meant here.
SPLITS = {
    "deepseek-coder": [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"],
    "deepseek-llm": [r"[\r\n]", r"\s?[\p{Lu}\p{Ll}\p{Lt}]+", r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$",
                     "[一-龥ࠀ-一가-퟿]+", r"\p{N}+"],
}
NORMAL, CONTROL = 1, 3  # token types of GGUF
STRING, ARRAY = 8, 9
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


class Reader:
    def __init__(self, content):
        self.content, self.at = content, 0

    def take(self, kind):
        value = struct.unpack_from("<" + kind, self.content, self.at)[0]
        self.at += struct.calcsize("<" + kind)
        return value

    def text(self):
        size = self.take("Q")
        self.at += size
        return self.content[self.at - size:self.at].decode()

    def value(self, kind):
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            item, count = self.take("I"), self.take("Q")
            return [self.value(item) for _ in range(count)]
        return self.take(NUMBERS[kind])


def metadata(path):
    with gzip.open(path) as f:
        reader = Reader(f.read())
    magic, version, _, pairs = reader.take("I"), reader.take("I"), reader.take("Q"), reader.take("Q")
    if (magic, version) != (0x46554747, 3):
        raise RuntimeError(f"{path}: not GGUF of version 3")
    return {reader.text(): reader.value(reader.take("I")) for _ in range(pairs)}


def tokenizer_json(meta):
    tokens, types = meta["tokenizer.ggml.tokens"], meta["tokenizer.ggml.token_type"]
    ids = dict(zip(tokens, range(len(tokens))))
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    splits = [{"type": "Split", "pattern": {"Regex": r}, "behavior": "Isolated", "invert": False}
              for r in SPLITS[meta["tokenizer.ggml.pre"]]]
    added = [{"id": i, "content": t, "special": k == CONTROL, "normalized": False}
             for i, (t, k) in enumerate(zip(tokens, types)) if k != NORMAL and not t.startswith("[PAD")]
    merges = [m for m in meta["tokenizer.ggml.merges"] if m.replace(" ", "") in ids]
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*splits, level]}, "post_processor": None,
            "decoder": level, "model": {"type": "BPE", "vocab": {t: i for t, i in ids.items() if types[i] == NORMAL},
                                        "merges": merges}}


def check(name, folder):
    meta = metadata(os.path.join(source, f"ggml-vocab-{name}.gguf.gz"))
    path = os.path.join(folder, name + ".json")
    with open(path, "w") as f:
        json.dump(tokenizer_json(meta), f)
    with open(os.path.join(source, f"ggml-vocab-{name}.gguf.inp"), newline="") as f:
        texts = f.read().split("\n__ggml_vocab_test__\n")
    with open(os.path.join(source, f"ggml-vocab-{name}.gguf.out")) as f:
        want = [[int(i) for i in line.split()] for line in f.read().splitlines()]
    rows = [(t, w) for t, w in zip(texts, want) if t]
    data_path = os.path.join(folder, name + ".jsonl")
    with open(data_path, "w") as f:
        f.writelines(json.dumps({"id": str(i), "prompt": t}) + "\n" for i, (t, _) in enumerate(rows))
    done = subprocess.run([gradus, "tokenize", "--tokenizer", path, "--data", data_path], capture_output=True,
                          timeout=300)
    got = [json.loads(line) for line in done.stdout.split(b"\n") if line]
    # An added token such as "ü" decodes to the one byte that its spelling stands for, in the library as well.
    plain = [not any(meta["tokenizer.ggml.token_type"][i] != NORMAL for i in w) for _, w in rows]
    wrong = [(t, g, w) for (t, w), g, p in zip(rows, got, plain) if g["tokens"] != w or (p and g["decoded"] != t)]
    good = done.returncode == 0 and not any(texts[len(want):]) and len(got) == len(rows) == 45 and not wrong
    return good, f"{name}: {len(rows)} texts", done.stderr.decode() or (len(texts), len(want), len(got), wrong[:3])


def main():
    failures = 0
    folder = tempfile.mkdtemp(prefix="gradus-vocabularies-")
    for number, name in enumerate(sorted(SPLITS), 1):
        if not os.path.isdir(source):
            print(f"ok {number} - {name} # SKIP the vocabularies are not here")
            continue
        good, said, why = check(name, folder)
        failures += not good
        print(f"{'ok' if good else 'not ok'} {number} - {said}")
        if not good:
            print("# " + str(why)[:3000].replace("\n", "\n# "))
    print(f"1..{len(SPLITS)}")
    shutil.rmtree(folder)
    return failures > 0


sys.exit(main())
