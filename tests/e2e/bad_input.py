# SPDX-License-Identifier: Apache-2.0
"""Bad input ends in the exit code of its kind and a line that says what is wrong and where.

usage: bad_input.py GRADUS GOLDEN     (TAP on standard output; GOLDEN holds models/)
"""
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile

gradus, golden = sys.argv[1:3]
folder = tempfile.mkdtemp(prefix="gradus-bad-")
USAGE, DATA, MODEL, WRITE = 2, 3, 4, 6
count = failures = 0


def refused(code, words, *args):
    """`gradus args` ends with this code, and its message begins with "gradus: " and holds all the words."""
    global count, failures
    done = subprocess.run([gradus, *args], stdin=subprocess.DEVNULL, capture_output=True, timeout=120)
    said = done.stderr.decode("utf-8", "replace")
    good = done.returncode == code and any(line.startswith("gradus: ") for line in said.splitlines())
    good = good and all(word in said for word in words)
    count += 1
    failures += not good
    shown = f"{' '.join(args)}: exit code {code}, {' '.join(words)}"
    shown = shown.replace(folder, "DIR").replace(golden, "GOLDEN").replace("\n", " ").replace("#", "")
    print(f"{'ok' if good else 'not ok'} {count} - {shown}")
    if not good:
        print(f"# exit code {done.returncode}, expected {code} and {words}; it said:")
        print("# " + said.replace("\n", "\n# "))


def put(name, content):
    path = os.path.join(folder, name)
    with open(path, "wb") as f:
        f.write(content if isinstance(content, bytes) else content.encode())
    return path


def model(name, change=None):
    """A copy of a golden model; change(directory) spoils it."""
    path = os.path.join(folder, name)
    os.mkdir(path)
    for file in ("config.json", "model.safetensors"):
        shutil.copy(os.path.join(golden, "models", "deepseek_v3_tiny", file), path)
    if change:
        change(path)
    return path


def edit_config(**fields):
    def change(path):
        path = os.path.join(path, "config.json")
        with open(path) as f:
            config = json.load(f)
        config.update(fields)
        with open(path, "w") as f:
            json.dump(config, f)
    return change


def edit_weights(edit):
    """edit(bytes, header, begin) gives the new bytes of model.safetensors; begin is where the tensors' data begins."""
    def change(path):
        path = os.path.join(path, "model.safetensors")
        with open(path, "rb") as f:
            data = f.read()
        size = struct.unpack("<Q", data[:8])[0]
        with open(path, "wb") as f:
            f.write(edit(bytearray(data), json.loads(data[8:8 + size]), 8 + size))
    return change


def with_nan(data, header, begin):
    at = begin + header["model.layers.1.self_attn.o_proj.weight"]["data_offsets"][0] + 8
    data[at:at + 4] = struct.pack("<f", float("nan"))
    return data


def check_usage():
    refused(USAGE, ["verb"])
    refused(USAGE, ['unknown verb "tran"', 'did you mean "train"?'], "tran")
    refused(USAGE, ["--exlain", 'did you mean "--explain"?'], "config", "--exlain", "x")
    refused(USAGE, ["CONFIG is missing"], "train")
    refused(USAGE, ["absent.json"], "train", os.path.join(folder, "absent.json"))


def check_configs(good):
    text = json.dumps(good, indent=1)
    path = put("key.json", text.replace('"num_prompts"', '"num_promts"'))
    line = 1 + text[:text.index('"num_prompts"')].count("\n")
    refused(USAGE, [f"{path}:{line}: ", '"num_promts"', 'did you mean "num_prompts"?'], "train", path)
    refused(USAGE, ["rollout.top_p is 2", "[1e-06, 1]"], "train", put("good.json", text), "--set", "rollout.top_p=2")
    refused(USAGE, ["broken.json:"], "train", put("broken.json", text[:-5]))
    refused(USAGE, ["UTF-8"], "train", put("latin1.json", text.replace("eval", "\xe9val").encode("latin-1")))
    refused(USAGE, ["empty.json"], "train", put("empty.json", ""))
    refused(USAGE, ["nothing.json", '"model"'], "train", put("nothing.json", "{}"))
    refused(USAGE, [folder], "train", folder)


def check_models():
    row = put("row.jsonl", '{"tokens": [1, 2, 3]}\n')

    def spoiled(words, name, change):
        refused(MODEL, words, "logprobs", "--data", row, "--model", model(name, change))

    refused(MODEL, ["absent"], "logprobs", "--data", row, "--model", os.path.join(folder, "absent"))
    spoiled(["no_such", "unknown architecture"], "unknown",
            edit_config(model_type="no_such", architectures=["NoSuchForCausalLM"]))
    spoiled(["kv_a_proj_with_mqa.weight: want [48,48], have [40,48]"], "shapes", edit_config(kv_lora_rank=40))
    spoiled(["model.safetensors"], "truncated", edit_weights(lambda data, header, begin: data[:-1000]))
    spoiled(["model.safetensors"], "no_header", edit_weights(lambda data, header, begin: data[:4]))
    spoiled(["model.layers.1.self_attn.o_proj.weight", "nan at index 2"], "nan", edit_weights(with_nan))
    spoiled(["config.json"], "no_config", lambda path: os.remove(os.path.join(path, "config.json")))
    spoiled(["model.safetensors"], "no_weights", lambda path: os.remove(os.path.join(path, "model.safetensors")))
    refused(MODEL, ["tokenizer"], "logprobs", "--text", "x", "--model", model("no_tokenizer"))
    refused(MODEL, ["bad.tokenizer.json"], "tokenize", "--text", "x", "--tokenizer", put("bad.tokenizer.json", "{}"))
    refused(MODEL, ["UTF-8"], "tokenize", "--text", "x", "--tokenizer", put("latin1.tokenizer.json", b'{"a": "\xe9"}'))


def check_data(good):
    whole = model("whole")

    def spoiled(words, content):
        refused(DATA, words, "logprobs", "--model", whole, "--data", put("data.jsonl", content))

    refused(DATA, ["absent.jsonl"], "logprobs", "--model", whole, "--data", os.path.join(folder, "absent.jsonl"))
    spoiled(["data.jsonl:2"], '{"tokens": [1, 2]}\n{"tokens": [1, 2}\n')
    spoiled(["data.jsonl:1", "UTF-8"], b'{"id": "\xff", "tokens": [1, 2]}\n')
    spoiled(["160", "159"], '{"tokens": [1, 160]}\n')
    missing = dict(good, data={"rows": {"file": "absent.jsonl"}}, reward={},
                   stages=[{"kind": "sft", "steps": 1, "batch": 1}])
    refused(DATA, ["absent.jsonl"], "train", put("missing.json", json.dumps(missing)), "--run",
            os.path.join(folder, "run-missing"))


def check_sandbox():
    """Faults in what the user gave; where no box can be built they are found just the same."""
    program = put("program.py", "print(1)\n")
    refused(USAGE, ["run or check is missing"], "sandbox")
    refused(USAGE, ['"rum" is neither run nor check'], "sandbox", "rum")
    refused(USAGE, ["sandbox run: FILE is missing"], "sandbox", "run")
    refused(USAGE, ['"--time-limt"', 'did you mean "--time-limit"?'], "sandbox", "run", program, "--time-limt", "1")
    refused(USAGE, ['--time-limit is "0"', "[0.001, 3600]"], "sandbox", "run", program, "--time-limit", "0")
    refused(USAGE, ['--lang is "rust"', "python"], "sandbox", "run", program, "--lang", "rust")
    refused(USAGE, ["--tests or --stdin"], "sandbox", "run", program, "--tests", program, "--stdin", program)
    refused(USAGE, ["one argument too many"], "sandbox", "check", program)
    refused(DATA, ["absent.py"], "sandbox", "run", os.path.join(folder, "absent.py"))
    refused(DATA, ["latin1.py", "byte 5 is not UTF-8"], "sandbox", "run", put("latin1.py", b'x = "\xe9"'))
    refused(DATA, ["tests.json:2: ", '"stdout"'], "sandbox", "run", program, "--tests",
            put("tests.json", '[{"stdin": "", "stdout": "1"},\n {"stdin": ""}]'))
    refused(DATA, ["cut.json:1"], "sandbox", "run", program, "--tests", put("cut.json", '[{"stdin": ""'))


def check_writing(tokenizer):
    refused(WRITE, ["no/such"], "tokenize", "--tokenizer", tokenizer, "--text", "1", "--out",
            os.path.join(folder, "no/such/file"))


def main():
    tokenizer = os.path.join(golden, "..", "..", "configs", "data", "quickstart.tokenizer.json")
    with open(os.path.join(golden, "models", "deepseek_v3_tiny", "config.json")) as f:
        fields = json.load(f)
    fields.update(vocab_size=1088, init_seed=1)
    good = {"model": fields, "tokenizer": os.path.realpath(tokenizer),
            "data": {"games": {"generate": "games", "holdout": 4}}, "reward": {"games": [{"use": "steps"}]},
            "rollout": {"num_prompts": 2, "num_generations": 2}, "eval": {"samples": 1},
            "stages": [{"kind": "grpo", "steps": 1}]}
    try:
        check_usage()
        check_configs(good)
        check_models()
        check_data(good)
        check_sandbox()
        check_writing(tokenizer)
    finally:
        shutil.rmtree(folder)
    print(f"1..{count}")
    return failures > 0


sys.exit(main())
