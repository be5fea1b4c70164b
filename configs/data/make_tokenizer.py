#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes quickstart.tokenizer.json, the tokenizer of the quickstart's two kinds of problem, beside this script.

usage: python3 make_tokenizer.py

A game asks for arithmetic and is solved a line at a time; a program is to be found from examples, a primitive a line:

    make 24: 3 8 11            [3 1 2] -> [1 2 3]
    11 - 8 = 3 (left: 3 3)     [5 4] -> [4 5]
    ...                        [7 7 1] -> [1 7 7]
                               program:
                               x = sorted(x)

Ids: 0 <pad>, 1 <eos> (both special); 2 to 257 the bytes; then the numbers 10 to 399 bare and 0 to 399 behind a blank
(digits are bytes already), the operators, the fixed words, and what follows "x =" in each primitive, to the end of
the line. The split makes each of these one piece, and ignore_merges makes a piece that is in the vocabulary one token.
Merges are there for digits only, so that larger numbers are cut into few tokens; other text comes apart into bytes.
"""
import json
import os

NUMBERS = 400
OPERATORS = [" +", " -", " *", " /", " =", " ->", " [", " (left:", ")\n"]
WORDS = ["make", "program", "x ="]
PRIMITIVES = [
    "sorted(x)", "x[::-1]", "x[1:]", "x[:-1]", "[i + 1 for i in x]", "[i * 2 for i in x]",
    "[i for i in x if i % 2 == 0]", "[i for i in x if i % 2]", "[i for i in x if i > 4]", "[sum(x)]", "x[:1]", "x[-1:]",
    "[len(x)]", "sorted(set(x))", "x + x", "[max(x, default=0)]", "[min(x, default=0)]", "[i * i for i in x]",
]
SPLIT = "|".join([
    r"^x =(?= )", r"(?<=^x =) [^\n]*\n",        # a line of a program: "x =", and the rest
    r" \(left:", r"\)\n",                       # the end of a line of a game
    r" ?\[", r" ?[0-9]+", r" ?\p{L}+", r" ?[^\s\p{L}\p{N}]+",
])


def alphabet():
    """The character that stands for each byte in a byte-level vocabulary (as GPT-2 has it)."""
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in keep]
    return {b: chr(b) for b in keep} | {b: chr(256 + i) for i, b in enumerate(rest)}


def spell(text, chars=alphabet()):
    return "".join(chars[b] for b in text.encode())


def vocabulary():
    chars = alphabet()
    bare = [str(n) for n in range(10, NUMBERS)]
    spaced = [f" {n}" for n in range(NUMBERS)]
    lines = [f" {p}\n" for p in PRIMITIVES]
    words = [spell(t) for t in bare + spaced + OPERATORS + WORDS + lines]
    return {t: i for i, t in enumerate(["<pad>", "<eos>"] + [chars[b] for b in range(256)] + words)}


def merges():
    """Each number from a smaller one and a digit, each spaced number from the blank and the bare one."""
    bare = [[str(n // 10), str(n % 10)] for n in range(10, NUMBERS)]
    return bare + [[spell(" "), str(n)] for n in range(NUMBERS)]


def byte_level(use_regex):
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def added(token_id, content):
    return {"id": token_id, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": True}


def tokenizer():
    split = {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [added(0, "<pad>"), added(1, "<eos>")],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level(False)]},
        "post_processor": None,
        "decoder": byte_level(True),
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": True,
                  "vocab": vocabulary(), "merges": merges()},
    }


if __name__ == "__main__":
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "quickstart.tokenizer.json")
    with open(path, "w", encoding="utf-8") as out:
        json.dump(tokenizer(), out, ensure_ascii=False, indent=1)
        out.write("\n")
