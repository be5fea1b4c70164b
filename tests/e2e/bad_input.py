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

import tap

gradus, golden = sys.argv[1:3]
folder = tempfile.mkdtemp(prefix="gradus-bad-")
USAGE, DATA, MODEL, ENVIRONMENT, WRITE = 2, 3, 4, 5, 6


def refused(code, words, *args):
    """`gradus args` ends with this code, and its message begins with "gradus: " and holds all the words."""
    done = subprocess.run([gradus, *args], stdin=subprocess.DEVNULL, capture_output=True, timeout=120)
    said = done.stderr.decode("utf-8", "replace")
    good = done.returncode == code and any(line.startswith("gradus: ") for line in said.splitlines())
    good = good and all(word in said for word in words)
    shown = f"{' '.join(args)}: exit code {code}, {' '.join(words)}"
    shown = shown.replace(folder, "DIR").replace(golden, "GOLDEN").replace("\n", " ").replace("#", "")
    tap.report(good, shown, f"exit code {done.returncode}, expected {code} and {words}; it said:\n{said}")


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


def edit_json(path, fields):
    with open(path) as f:
        config = json.load(f)
    config.update(fields)
    with open(path, "w") as f:
        json.dump(config, f)


def edit_config(**fields):
    return lambda path: edit_json(os.path.join(path, "config.json"), fields)


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
    refused(USAGE, ['"adapter" is for a model directory'], "train", put("good.json", text), "--set", "adapter=x")


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


def rewrite(edit_header):
    """edit_header(header) changes the header of model.safetensors in place; its data stays."""
    def edit(data, header, begin):
        edit_header(header)
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + bytes(data[begin:])
    return edit_weights(edit)


def header_text(edit):
    """The same by edit(text of the header), which gives the new one."""
    def rewritten(data, header, begin):
        text = edit(bytes(data[8:begin]))
        return struct.pack("<Q", len(text)) + text + bytes(data[begin:])
    return edit_weights(rewritten)


def shards(index):
    """The weights in one shard under an index; index(weight map) edits it."""
    def change(path):
        os.rename(os.path.join(path, "model.safetensors"), os.path.join(path, "model-00001-of-00001.safetensors"))
        with open(os.path.join(path, "model-00001-of-00001.safetensors"), "rb") as f:
            names = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
        weights = {n: "model-00001-of-00001.safetensors" for n in names if n != "__metadata__"}
        index(weights, path)
        with open(os.path.join(path, "model.safetensors.index.json"), "w") as f:
            json.dump({"metadata": {}, "weight_map": weights}, f)
    return change


def check_model_files():
    """The faults of model files, one by one (the numbers are those of the project's list of bad inputs)."""
    row = put("row.jsonl", '{"tokens": [1, 2, 3]}\n')
    norm, proj = "model.norm.weight", "model.layers.1.self_attn.o_proj.weight"

    def spoiled(number, words, change):
        refused(MODEL, words, "logprobs", "--data", row, "--model", model(f"row-{number}-{tap.count}", change))

    def edit(fields):
        return rewrite(lambda header: header[norm].update(fields))

    def moved(header):
        begin, end = header[norm]["data_offsets"]
        header[norm]["data_offsets"] = [begin - 4, end - 4]

    spoiled(1, ["expected a header's length in 8 bytes, got 4 bytes"], edit_weights(lambda d, h, b: d[:4]))
    spoiled(1, ["model.safetensors", "expected", "got", "truncated"], edit_weights(lambda d, h, b: d[:-1]))
    spoiled(2, ["over the limit of 100000000"], edit_weights(lambda d, h, b: struct.pack("<Q", 1 << 63) + d[8:]))
    spoiled(2, ["model.safetensors:1: "], edit_weights(lambda d, h, b: struct.pack("<Q", 0) + d[8:]))
    spoiled(2, ["expected", "bytes of header"], edit_weights(lambda d, h, b: struct.pack("<Q", len(d)) + d[8:]))
    spoiled(3, ["a header of 100000001 bytes is over the limit of 100000000"],
            edit_weights(lambda d, h, b: struct.pack("<Q", 100000001) + d[8:]))
    spoiled(4, ["model.safetensors:1: ", "UTF-8"], header_text(lambda t: t.replace(b"norm", b"n\xffrm", 1)))
    spoiled(4, ["an array, expected an object"], header_text(lambda t: b"[" + t + b"]"))
    spoiled(4, ["model.safetensors:1: "], header_text(lambda t: b"[" * 5000))
    spoiled(4, ["model.safetensors:1: "], header_text(lambda t: t + b"x"))
    spoiled(5, [f'the key "{norm}" appears twice', "its values begin at bytes"],
            header_text(lambda t: b'{"' + norm.encode() + b'":{},' + t.lstrip()[1:]))
    spoiled(6, ["inside the one before it"], rewrite(moved))
    spoiled(6, ["before it begins"], edit({"data_offsets": [8, 4]}))
    spoiled(6, [norm, "expected as many bytes after the header"], edit({"data_offsets": [0, 1 << 40]}))
    spoiled(7, [norm, "the size overflows"], edit({"shape": [1 << 40, 1 << 40]}))
    for size in (-1, 1.5, 1e300):
        spoiled(7, [norm, "dimension 0 is not a size"], edit({"shape": [size]}))
    spoiled(8, [norm, 'unknown dtype "F12"', "BF16"], edit({"dtype": "F12"}))
    spoiled(8, [norm, "dtype I32 is not supported (F32, BF16, F16 and F8_E4M3 are)"], edit({"dtype": "I32"}))
    spoiled(8, [proj, "F8_E4M3 needs"], to_float8(proj))
    spoiled(8, [proj, "without its scales"], lambda path: (to_float8(proj)(path), edit_config(quantization_config={
        "quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [16, 16]})(path)))
    spoiled(9, ["kv_a_proj_with_mqa.weight: want [48,48], have [40,48]", "kv_a_layernorm.weight: want", "kv_b_proj"],
            edit_config(kv_lora_rank=40))
    spoiled(10, [f"{norm}: missing", "model.nrm.weight: unexpected"],
            header_text(lambda t: t.replace(b"model.norm.", b"model.nrm.")))
    spoiled(10, ["model.layers.3.x: unexpected"], header_text(lambda t: t.replace(b"{", b'{"model.layers.3.x":{"dtype":'
            b'"F32","shape":[0],"data_offsets":[0,0]},', 1)))
    spoiled(11, [proj, "nan at index 2"], edit_weights(with_nan))
    spoiled(12, ["absent.safetensors"], shards(lambda w, path: w.update({norm: "absent.safetensors"})))
    spoiled(12, ["not a plain name"], shards(lambda w, path: w.update({norm: "../x.safetensors"})))
    spoiled(12, ["not a plain name"], shards(lambda w, path: w.update({norm: "/etc/passwd"})))
    spoiled(12, ["loop.safetensors"], shards(lambda w, path: (w.update({norm: "loop.safetensors"}), os.symlink(
        "loop.safetensors", os.path.join(path, "loop.safetensors")))))
    spoiled(14, ["16 is not a multiple of", '"n_group" 3'], edit_config(n_group=3))
    spoiled(14, ["num_experts_per_tok", "is more than the"], edit_config(num_experts_per_tok=15))
    spoiled(14, ["num_key_value_heads", "differs from"], edit_config(num_key_value_heads=1))
    spoiled(14, ['"num_hidden_layers" is 0'], edit_config(num_hidden_layers=0))


def check_adapters():
    """LoRA adapters that are not of the model, or not plain (17 of that list)."""
    row = put("row.jsonl", '{"tokens": [1, 2, 3]}\n')
    whole = model("adapted")

    def spoiled(words, name="deepseek_v3_tiny", **fields):
        path = os.path.join(folder, f"adapter-{tap.count}")
        shutil.copytree(os.path.join(golden, "lora", name), path)
        edit_json(os.path.join(path, "adapter_config.json"), fields)
        refused(MODEL, [path, *words], "logprobs", "--data", row, "--model", whole, "--adapter", path)

    refused(MODEL, ["absent", "adapter_config.json"], "logprobs", "--data", row, "--model", whole, "--adapter",
            os.path.join(folder, "absent"))
    spoiled(['made for "../models/deepseek_v2_lite_tiny"', "q_proj.lora_A.weight: unexpected"],
            "deepseek_v2_lite_tiny")
    spoiled(["o_proj.lora_A.weight: want [6,64] (\"r\" is 6), have [5,64]"], r=6)
    spoiled(['rank_pattern: gives "o_proj" 8, "r" is 5'], rank_pattern={"o_proj": 8})
    spoiled(["use_dora: is true"], use_dora=True)


def to_float8(name):
    """Says that a tensor is float8, of as many bytes."""
    def change(path):
        def edit(data, header, begin):
            t = header[name]
            first, last = t["data_offsets"]
            count = (last - first) // 4
            body = data[begin:begin + first] + bytes(count) + data[begin + last:]
            for other in header.values():
                if "data_offsets" in other and other["data_offsets"][0] >= last:
                    other["data_offsets"] = [x - 3 * count for x in other["data_offsets"]]
            t.update(dtype="F8_E4M3", data_offsets=[first, first + count])
            text = json.dumps(header).encode()
            return struct.pack("<Q", len(text)) + text + body
        edit_weights(edit)(path)
    return change


def check_tokenizers(tokenizer):
    with open(tokenizer) as f:
        good = json.load(f)

    def spoiled(words, **sections):
        path = put("spoiled.tokenizer.json", json.dumps(dict(good, **sections)))
        refused(MODEL, ["spoiled.tokenizer.json", *words], "tokenize", "--text", "x", "--tokenizer", path)

    def beside(name, **fields):
        """A model directory with the tokenizer, and fields of its tokenizer_config.json."""
        def change(path):
            shutil.copy(tokenizer, os.path.join(path, "tokenizer.json"))
            with open(os.path.join(path, "tokenizer_config.json"), "w") as f:
                json.dump(fields, f)
        return model(name, change)

    refused(MODEL, ["absent.json"], "tokenize", "--text", "x", "--tokenizer", os.path.join(folder, "absent.json"))
    spoiled(["pre_tokenizer", '"Metaspace"'], pre_tokenizer={"type": "Metaspace"})
    spoiled(["model.merges: element 0", "not in the vocabulary"], model=dict(good["model"], merges=[["q", "q"]]))
    refused(MODEL, ["the tokenizer has", "the model's vocabulary 160"], "sample", "--prompt", "x", "--model",
            beside("large-vocabulary"))
    for number, (template, code, words) in enumerate((
            ("a\n{% block b %}{% endblock %}", MODEL, ["tokenizer_config.json: chat_template:2: ", '"block"']),
            ("{{ messages | unique }}", MODEL, ["chat_template:1: ", 'the filter "unique" is not supported']),
            ("\n\n{{ raise_exception('not so') }}", DATA, ["chat.jsonl:1", "chat_template:3: ", "not so"]))):
        rows = put("chat.jsonl", json.dumps({"messages": [{"role": "user", "content": "x"}]}))
        place = beside(f"template-{number}", chat_template=template)
        refused(code, words, "tokenize", "--data", rows, "--model", place)


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


def check_memory(good):
    """A model of some 8 TB: refused with the table and two settings, before anything of it is allocated."""
    sizes = {"hidden_size": 1 << 20, "vocab_size": 1 << 20, "num_hidden_layers": 2}
    huge = put("huge.json", json.dumps({**good, "model": {**good["model"], **sizes}}))
    words = ["does not fit", "memory of stage grpo", "weights, float32", "moments of AdamW", "total", "the machine has",
             "--set run.", "saves"]
    refused(ENVIRONMENT, words, "plan", huge)
    refused(ENVIRONMENT, words, "plan", "--json", huge)
    refused(ENVIRONMENT, words, "train", huge, "--run", os.path.join(folder, "huge"))


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
        check_model_files()
        check_adapters()
        check_tokenizers(os.path.realpath(tokenizer))
        check_data(good)
        check_sandbox()
        check_memory(good)
        check_writing(tokenizer)
    finally:
        shutil.rmtree(folder)
    return tap.end()


sys.exit(main())
