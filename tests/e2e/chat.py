# SPDX-License-Identifier: Apache-2.0
"""Conversations through the verbs: what sample, tokenize and logprobs read is what the chat template renders, and
training on messages is training on those tokens, to the byte.

usage: chat.py GRADUS CONFIG ROOT     (TAP on standard output; CONFIG is small.json, ROOT the tree's)
"""
import json
import os
import shutil
import subprocess
import sys
import tempfile

import tap
from tap import report

gradus, config, root = sys.argv[1:4]
folder = tempfile.mkdtemp(prefix="gradus-chat-")
TOKENIZER = os.path.join(root, "configs", "data", "quickstart.tokenizer.json")
TEMPLATE = """{% if messages[0].role != 'user' %}{{ raise_exception('begin with the user') }}{% endif %}
{{- bos_token }}
{%- for m in messages %}
    {{- '\\n' + m.role + ': ' + m.content + (eos_token if m.role == 'assistant' else '') }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '\\nassistant: ' }}{% if brief %}{{ '(brief) ' }}{% endif %}{% endif %}
"""


def run(*args, code=0):
    done = subprocess.run([gradus, *args], capture_output=True, timeout=300)
    if done.returncode != code:
        raise RuntimeError(f"gradus {' '.join(args)}: exit code {done.returncode}: {done.stderr.decode()}")
    return done.stdout if code == 0 else done.stderr.decode()


def lines(*args):
    return [json.loads(line) for line in run(*args).split(b"\n") if line]


def put(name, rows):
    path = os.path.join(folder, name)
    with open(path, "w") as f:
        f.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def tokenizer_folder(name, template):
    path = os.path.join(folder, name)
    os.mkdir(path)
    shutil.copy(TOKENIZER, os.path.join(path, "tokenizer.json"))
    with open(os.path.join(path, "tokenizer_config.json"), "w") as f:
        json.dump({"bos_token": None, "eos_token": "<eos>", "chat_template": template}, f)
    return path


def train(name, tokenizer, data):
    """The folder of the last checkpoint of a run of supervised learning."""
    path = os.path.join(folder, name)
    stages = [{"kind": "sft", "steps": 3, "batch": 2}]
    run("train", config, "--run", path, "--set", f"tokenizer={json.dumps(tokenizer)}", "--set",
        "data=" + json.dumps({"rows": {"file": data}}), "--set", 'reward={"rows": [{"use": "format"}]}',
        "--set", f"stages={json.dumps(stages)}")
    checkpoints = os.path.join(path, "checkpoints")
    return os.path.join(checkpoints, max(os.listdir(checkpoints)))


def content(path, name):
    with open(os.path.join(path, name), "rb") as f:
        return f.read()


def check_training(tokenizer):
    """Rows with messages and rows with the tokens of what they render to leave the same weights."""
    talks = [[user("2+2?"), assistant("4")], [user("1"), assistant("2"), user("3"), assistant("4 = 4")],
             [user("7*6"), assistant("42")]]
    talk_rows = put("talks.jsonl", [{"id": str(i), "messages": t} for i, t in enumerate(talks)])
    prompts = put("prompts.jsonl", [{"id": str(i), "messages": t[:-1]} for i, t in enumerate(talks)])
    whole = lines("tokenize", "--tokenizer", tokenizer, "--data", talk_rows)
    begun = lines("tokenize", "--tokenizer", tokenizer, "--data", prompts)
    eos = lines("tokenize", "--tokenizer", tokenizer, "--text", "<eos>")[0]["tokens"]
    report(begun[1]["decoded"] == "\nuser: 1\nassistant: 2<eos>\nuser: 3\nassistant: ", "a prompt is rendered",
           begun[1])
    rows = [{"id": str(i), "tokens": w["tokens"] + eos, "prompt_tokens": len(b["tokens"])}
            for i, (w, b) in enumerate(zip(whole, begun))]
    report(all(w["tokens"][:len(b["tokens"])] == b["tokens"] for w, b in zip(whole, begun)) and
           whole[0]["decoded"] == "\nuser: 2+2?\nassistant: 4", "a completion goes on from its prompt", whole)
    a, b = train("by-messages", tokenizer, talk_rows), train("by-tokens", tokenizer, put("tokens.jsonl", rows))
    report(content(a, "model.safetensors") == content(b, "model.safetensors"),
           "training on messages is training on their tokens")
    report(content(a, "tokenizer_config.json") == content(tokenizer, "tokenizer_config.json"),
           "a checkpoint carries the chat template")
    return a


def check_sampling(model):
    prompt = ("--temperature", "0", "--max-tokens", "4")
    by_option = lines("sample", "--model", model, "--prompt", "2+2?", "--chat", *prompt)[0]
    rows = put("ask.jsonl", [{"id": "0", "messages": [user("2+2?")]}])
    by_row = lines("sample", "--model", model, "--data", rows, *prompt)[0]
    as_text = lines("sample", "--model", model, "--prompt", "\nuser: 2+2?\nassistant: ", *prompt)[0]
    report(by_option == by_row == as_text and by_option["prompt"] == "\nuser: 2+2?\nassistant: ",
           "sample reads a question, a row and the rendered text alike", (by_option, by_row, as_text))
    brief = lines("sample", "--model", model, "--prompt", "x", "--chat", "--chat-args", '{"brief": true}', *prompt)[0]
    report(brief["prompt"] == "\nuser: x\nassistant: (brief) ", "--chat-args reach the template", brief)
    wrong = put("wrong.jsonl", [{"id": "0", "messages": [user("q")]}, {"id": "1", "messages": [assistant("a")]}])
    said = run("sample", "--model", model, "--data", wrong, code=3)
    report("wrong.jsonl:2" in said and "chat_template:1: " in said and "begin with the user" in said,
           "a conversation that the template refuses is named, with the template's line", said)
    said = run("sample", "--model", model, "--prompt", "x", "--chat", "--chat-args", "[]", code=2)
    report("--chat-args must be a JSON object" in said, "--chat-args that are no object are refused", said)
    talk = put("talk.jsonl", [{"messages": [user("1"), assistant("2")]}])
    scored = lines("logprobs", "--model", model, "--data", talk)
    tokens = lines("tokenize", "--model", model, "--text", "\nuser: 1\nassistant: ")[0]["tokens"]
    report(scored[0]["tokens"][:len(tokens)] == tokens, "logprobs reads the rendered text", scored)


def check_faults(model):
    for name, template, words in (("macro", "x\n{% macro f() %}{% endmacro %}", ["chat_template:2:", '"macro"']),
                                  ("none", None, ["no chat template"])):
        path = os.path.join(folder, name)
        shutil.copytree(model, path)
        with open(os.path.join(path, "tokenizer_config.json"), "w") as f:
            json.dump({"eos_token": "<eos>", "chat_template": template}, f)
        said = run("sample", "--model", path, "--prompt", "x", "--chat", code=4)
        report(all(w in said for w in words), f"a template that is {name} is refused", said)
        run("sample", "--model", path, "--prompt", "x", "--max-tokens", "2")
        report(True, f"and not looked at where it is not needed ({name})")


try:
    trained = check_training(tokenizer_folder("tokenizer", TEMPLATE))
    check_sampling(trained)
    check_faults(trained)
except (RuntimeError, subprocess.TimeoutExpired) as error:
    report(False, "a command failed", error)
shutil.rmtree(folder)
sys.exit(tap.end())
