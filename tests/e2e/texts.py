# SPDX-License-Identifier: Apache-2.0
"""tokenize, logprobs and sample against the reference implementations, and against each other.

usage: texts.py GRADUS GOLDEN DATA     (TAP on standard output; GOLDEN holds models/, DATA fixtures/ and data/)
"""
import json
import math
import os
import shutil
import struct
import subprocess
import sys
import tempfile

import tap
from tap import report

gradus, golden, data = sys.argv[1:4]
folder = tempfile.mkdtemp(prefix="gradus-texts-")
tokenizer = os.path.realpath(os.path.join(golden, "..", "..", "configs", "data", "quickstart.tokenizer.json"))
MODELS = ("deepseek_v2_lite_tiny", "deepseek_v2_tiny", "deepseek_v3_tiny", "deepseek_v3_nogroup_tiny")


def run(*args, stdin=None):
    done = subprocess.run([gradus, *args], input=stdin, capture_output=True, timeout=300)
    if done.returncode != 0:
        raise RuntimeError(f"gradus {' '.join(args)}: exit code {done.returncode}: {done.stderr.decode()}")
    return done.stdout


def lines(*args, stdin=None):
    return [json.loads(line) for line in run(*args, stdin=stdin).split(b"\n") if line]


def put_rows(name, rows):
    path = os.path.join(folder, name)
    with open(path, "w") as f:
        f.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def tensors(path):
    """The float32 and int32 tensors of a safetensors file, flat."""
    with open(path, "rb") as f:
        size = struct.unpack("<Q", f.read(8))[0]
        header, body = json.loads(f.read(size)), f.read()
    out = {}
    for name, t in header.items():
        if name != "__metadata__" and t["dtype"] in ("F32", "I32"):
            begin, end = t["data_offsets"]
            kind = "f" if t["dtype"] == "F32" else "i"
            out[name] = struct.unpack(f"<{(end - begin) // 4}{kind}", body[begin:end])
    return out


def far(a, b):
    """Pairs that differ by more than float32 computed in another order does (the fixtures' tolerance)."""
    return [(x, y) for x, y in zip(a, b) if not abs(x - y) <= 1e-4 * max(1, abs(y))] or len(a) != len(b)


def check_logprobs(name):
    directory = os.path.join(golden, "models", name)
    want = tensors(os.path.join(directory, "golden.safetensors"))
    rows, at = [], 0
    for n in want["lengths"]:
        rows.append({"tokens": want["input_ids"][at:at + n]})
        at += n
    path = put_rows(name + ".jsonl", rows)
    for temperature, suffix in (("1", ""), ("0.7", "_t0.7")):
        got = lines("logprobs", "--model", directory, "--data", path, "--temperature", temperature)
        wrong = [far(sum((row[key] for row in got), []), want[gold + suffix])
                 for key, gold in (("logprobs", "logprobs"), ("entropy", "entropy"))]
        shapes = all(len(r["logprobs"]) == len(r["tokens"]) - 1 == len(r["entropy"]) for r in got)
        same = [r["tokens"] for r in got] == [list(r["tokens"]) for r in rows]
        report(shapes and same and not any(wrong), f"logprobs of {name} at {temperature} are the golden ones", wrong)


def check_samples(name):
    """What sample records, logprobs computes: the same digits."""
    directory = os.path.join(golden, "models", name)
    prompts = put_rows("prompts.jsonl", [{"id": f"p{i}", "tokens": [3 + i] * (1 + 13 * i)} for i in range(7)])
    args = ("sample", "--model", directory, "--data", prompts, "-n", "3", "--max-tokens", "30", "--temperature", "0.7",
            "--top-p", "0.9", "--seed", "5")
    text = run(*args, "--threads", "1")
    samples = [json.loads(line) for line in text.split(b"\n") if line]
    order = [row["id"] for row in samples] == [f"p{i}" for i in range(7) for _ in range(3)]
    ends = all((s["finish"] == "stop") == (s["tokens"][-1] == 1) and len(s["tokens"]) <= 30 for s in samples)
    report(order and ends and len({str(s["tokens"]) for s in samples}) > 14, f"samples of {name}", text)
    report(run(*args, "--threads", "2") == text, f"samples of {name} do not depend on threads")
    report(run(*args[:-1], "6") != text, f"samples of {name} depend on the seed")
    out = os.path.join(folder, "samples.jsonl")
    report(run(*args, "--out", out) == b"" and open(out, "rb").read() == text, f"samples of {name} go to a file")
    rows = put_rows("again.jsonl", [{"tokens": s["prompt_tokens"] + s["tokens"]} for s in samples])
    again = lines("logprobs", "--model", directory, "--data", rows, "--temperature", "0.7")
    wrong = [i for i, s in enumerate(samples)
             if again[i]["logprobs"][len(s["prompt_tokens"]) - 1:] != s["logprobs"]]
    report(not wrong, f"logprobs gives what sample recorded for {name}", wrong)


def check_greedy(name):
    directory = os.path.join(golden, "models", name)
    with open(os.path.join(directory, "golden.json")) as f:
        greedy = json.load(f)["greedy"]
    rows = [{"tokens": text[:n]} for text, n in zip(greedy["sequences"], greedy["prompts"])]
    got = lines("sample", "--model", directory, "--data", put_rows("greedy.jsonl", rows), "--temperature", "0",
                "--max-tokens", str(greedy["new_tokens"]))
    wanted = [text[n:] for text, n in zip(greedy["sequences"], greedy["prompts"])]
    wanted = [w[:w.index(1) + 1] if 1 in w else w for w in wanted]  # they go on after the end token, 1
    wrong = [(g["tokens"], w) for g, w in zip(got, wanted) if g["tokens"] != w]
    report(len(got) == len(rows) and not wrong, f"greedy texts of {name} are the golden ones", wrong)


def check_stops(name):
    """eos_token_id of generation_config.json may list several tokens, each of which ends a completion."""
    directory = os.path.join(folder, "stops")
    widen(directory, name, 256)
    with open(os.path.join(golden, "models", name, "golden.json")) as f:
        greedy = json.load(f)["greedy"]
    prompt, text = greedy["sequences"][0][:greedy["prompts"][0]], greedy["sequences"][0][greedy["prompts"][0]:]
    rows = put_rows("stop.jsonl", [{"tokens": prompt}])
    for eos in ([1, text[4]], text[4]):
        with open(os.path.join(directory, "generation_config.json"), "w") as f:
            json.dump({"eos_token_id": eos}, f)
        got = lines("sample", "--model", directory, "--data", rows, "--temperature", "0", "--max-tokens", "24")[0]
        report(got["tokens"] == text[:text.index(text[4]) + 1] and got["finish"] == "stop",
               f"a completion ends with eos_token_id {eos}", got)


def check_defaults(name):
    """What generation_config.json says is used where no option says otherwise."""
    directory = os.path.join(folder, "defaults")
    widen(directory, name, 256)
    rows = put_rows("default.jsonl", [{"tokens": [3, 5, 8]}])

    def sample(settings, *options):
        with open(os.path.join(directory, "generation_config.json"), "w") as f:
            json.dump(settings, f)
        return run("sample", "--model", directory, "--data", rows, "-n", "4", *options)

    short = ("--max-tokens", "12")
    greedy = sample({}, "--temperature", "0", *short)
    report(sample({"do_sample": False, "temperature": 0.9}, *short) == greedy, "do_sample false takes the likeliest")
    report(sample({"top_k": 1}, *short).count(greedy.split(b'"tokens":')[1].split(b"]")[0]) == 4, "top_k is used")
    drawn = sample({}, "--temperature", "0.7", "--top-p", "0.9", *short)
    report(sample({"temperature": 0.7, "top_p": 0.9}, *short) == drawn != greedy, "temperature and top_p are used")
    optional = sample({"do_sample": False}, "--temperature", "0.7", "--top-p", "0.9", *short)
    report(optional == drawn, "options come before the file")
    long = [len(json.loads(line)["tokens"]) for line in sample({"max_new_tokens": 5}).split(b"\n") if line]
    report(max(long) <= 5, "max_new_tokens is used", long)


def check_adapter(name):
    """Log-probabilities with an adapter, against PEFT's logits."""
    adapter = os.path.join(golden, "lora", name)
    want = tensors(os.path.join(adapter, "golden.safetensors"))
    rows, logprobs, at = [], [], 0
    size = len(want["logits"]) // len(want["input_ids"])
    for n in want["lengths"]:
        rows.append({"tokens": want["input_ids"][at:at + n]})
        for t in range(at, at + n - 1):
            row = want["logits"][t * size:(t + 1) * size]
            logprobs.append(row[want["input_ids"][t + 1]] - math.log(sum(map(math.exp, row))))
        at += n
    got = lines("logprobs", "--model", os.path.join(golden, "models", name), "--adapter", adapter, "--data",
                put_rows(name + ".adapter.jsonl", rows))
    wrong = far(sum((row["logprobs"] for row in got), []), logprobs)
    report(not wrong, f"logprobs of {name} with an adapter are PEFT's", wrong)


def check_nonfinite(name):
    """Weights that are not finite are taken where that is allowed, and the run's record says so."""
    directory, record = os.path.join(folder, "nonfinite"), os.path.join(folder, "run")
    widen(directory, name, 1088)
    weights = os.path.join(directory, "model.safetensors")
    with open(weights, "r+b") as f:
        size = struct.unpack("<Q", f.read(8))[0]
        begin = json.loads(f.read(size))["model.embed_tokens.weight"]["data_offsets"][0]
        f.seek(8 + size + begin + 1087 * 48 * 4)  # of a token that no text holds
        f.write(struct.pack("<f", float("nan")))
    rows = put_rows("nonfinite.jsonl", [{"tokens": [3, 5, 8]}])
    alone = ("logprobs", "--model", directory, "--data", rows)
    said = subprocess.run([gradus, *alone], capture_output=True, text=True, timeout=300)
    report(said.returncode == 4 and "holds nan" in said.stderr, "weights that are not finite are refused", said)
    said = subprocess.run([gradus, *alone, "--allow-nonfinite"], capture_output=True, text=True, timeout=300)
    report(said.returncode == 0 and "1 of its weights are NaN or Inf, which was allowed" in said.stderr,
           "--allow-nonfinite takes them and says how many", said)
    config = os.path.join(folder, "nonfinite.json")
    with open(config, "w") as f:
        json.dump({"model": directory, "tokenizer": tokenizer, "data": {"games": {"generate": "games", "holdout": 2}},
                   "reward": {"games": [{"use": "steps"}]}, "eval": {"samples": 1}, "run": {"allow_nonfinite": True},
                   "stages": [{"kind": "eval"}]}, f)
    run("train", config, "--run", record)
    with open(os.path.join(record, "config.json")) as f:
        recorded = json.load(f)["run"]["allow_nonfinite"]
    with open(os.path.join(record, "log", "attempt-1.log")) as f:
        report(recorded is True and "NaN or Inf, which was allowed" in f.read(), "the run's record says so")


def check_tokenizer(name):
    """Every case of the library through the verb, by a file and by standard input."""
    fixtures = os.path.join(data, "fixtures", "tokenizer")
    with open(os.path.join(fixtures, name + ".cases.json")) as f:
        cases = [c for c in json.load(f)["cases"] if c["text"] and "\0" not in c["text"]]
    path = put_rows(name + ".jsonl", [{"id": str(i), "prompt": c["text"]} for i, c in enumerate(cases)])
    file = os.path.join(fixtures, name + ".json")
    for special, ids in (((), "ids"), (("--special",), "ids_with_special")):
        got = lines("tokenize", "--tokenizer", file, "--data", path, *special)
        wrong = [(c["text"], g["tokens"], c[ids]) for c, g in zip(cases, got) if g["tokens"] != c[ids]]
        if not special:
            wrong += [(c["decoded"], g["decoded"]) for c, g in zip(cases, got) if g["decoded"] != c["decoded"]]
        report(len(got) == len(cases) and not wrong, f"{' '.join(('tokenize', *special))} with {name}", wrong[:3])


def widen(directory, name, vocabulary):
    """A copy of a golden model whose vocabulary has more tokens, which repeat the first ones."""
    source = os.path.join(golden, "models", name)
    with open(os.path.join(source, "model.safetensors"), "rb") as f:
        size = struct.unpack("<Q", f.read(8))[0]
        header, body = json.loads(f.read(size)), f.read()
    out = b""
    for tensor, t in header.items():
        if tensor == "__metadata__":
            continue
        content = body[slice(*t["data_offsets"])]
        if tensor in ("model.embed_tokens.weight", "lm_head.weight"):
            row = len(content) // t["shape"][0]
            content = (content * (vocabulary // t["shape"][0] + 1))[:row * vocabulary]
            t["shape"][0] = vocabulary
        t["data_offsets"] = [len(out), len(out) + len(content)]
        out += content
    os.mkdir(directory)
    with open(os.path.join(directory, "model.safetensors"), "wb") as f:
        head = json.dumps(header).encode()
        f.write(struct.pack("<Q", len(head)) + head + out)
    with open(os.path.join(source, "config.json")) as f:
        config = json.load(f)
    with open(os.path.join(directory, "config.json"), "w") as f:
        json.dump(dict(config, vocab_size=vocabulary), f)


def byte_tokenizer():
    """A tokenizer.json of byte-level BPE without merges: a token's id is its byte."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in visible]
    letters = {chr(b): b for b in visible} | {chr(256 + i): b for i, b in enumerate(hidden)}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
             "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
             "vocab": letters, "merges": []}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
            "pre_tokenizer": level, "post_processor": None, "decoder": level, "model": model}


def check_texts():
    """A text by option, by standard input and as a row: the same tokens, samples and log-probabilities."""
    directory = os.path.join(folder, "model")
    widen(directory, "deepseek_v3_tiny", 256)
    with open(os.path.join(directory, "tokenizer.json"), "w") as f:
        json.dump(byte_tokenizer(), f)
    text = "3 + 4 = 7\n"
    row = json.dumps({"id": "0", "prompt": text}).encode()
    for verb, option, *more in (("tokenize", "--text"), ("logprobs", "--text"), ("sample", "--prompt", "-n", "2")):
        args = (verb, "--model", directory, *more)
        by_option = run(*args, option, text)
        good = by_option == run(*args, option, "-", stdin=text.encode()) == run(*args, "--data", "-", stdin=row)
        got = [json.loads(line) for line in by_option.split(b"\n") if line]
        if verb == "sample":
            good = good and all(g["prompt"] == text and len(g["completion"]) > 0 for g in got)
        else:
            good = good and got[0]["tokens"] == list(text.encode())
        report(good, f"{verb} reads a text, standard input and rows alike", by_option)


try:
    for model in MODELS:
        check_logprobs(model)
        check_samples(model)
        check_greedy(model)
    for model in ("deepseek_v2_lite_tiny", "deepseek_v3_tiny"):
        check_adapter(model)
    check_nonfinite("deepseek_v3_tiny")
    check_stops("deepseek_v3_tiny")
    check_defaults("deepseek_v3_tiny")
    check_texts()
    if os.path.isdir(os.path.join(data, "fixtures", "tokenizer")):
        for name in ("deepseek_v3", "gpt2", "llama3", "qwen2", "smollm"):
            check_tokenizer(name)
    else:
        tap.skip("tokenize", "the tokenizers of the fixtures are not here")
except (RuntimeError, subprocess.TimeoutExpired) as error:
    report(False, "a command failed", error)
shutil.rmtree(folder)
sys.exit(tap.end())
