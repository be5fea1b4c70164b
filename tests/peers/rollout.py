#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Generation beside llama.cpp on the same shape: `gradus bench rollout` and llama.cpp in turn, several times, and the
medians of the ratios of neighbouring runs, which a machine that others use disturbs least: prompts' tokens a second,
new tokens a second of the steps that give them, and of prompts and steps together. A peer alone: no test needs it.
llama.cpp comes with PyPI's llama-cpp-python; its library and headers are taken from there.

usage: rollout.py MODEL FILE.gguf [--gradus PROGRAM] [--batches 1,8,32,64] [--prompt P] [--group G] [--pairs N]
MODEL is a preset of `gradus bench` or a config.json; FILE.gguf a bfloat16 model of that shape. Run it with the Python
that has llama-cpp-python.
"""
import argparse
import importlib.util
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
NEW = 64


def build(folder):
    """The driver of llama.cpp, linked with the libraries of the installed package."""
    package = pathlib.Path(importlib.util.find_spec("llama_cpp").origin).parent
    lib, program = package / "lib", folder / "llama"
    subprocess.run(["c++", "-O2", "-std=c++17", f"-I{package.parent / 'include'}", ROOT / "tests/peers/llama.cpp", "-o",
                    program, f"-L{lib}", f"-Wl,-rpath,{lib}", "-lllama", "-lggml", "-lggml-base", "-lggml-cpu"],
                   check=True)
    return program


def ours(options, batch):
    out = subprocess.run([options.gradus, "bench", "rollout", "--json", "--dtype", "bfloat16", "--threads", "2",
                          "--model", options.model, "--batch", str(batch), "--prompt", str(options.prompt), "--group",
                          str(options.group)], check=True, capture_output=True, text=True).stdout
    rows = [json.loads(line) for line in out.splitlines()]
    return {row["case"].split(",")[0]: row["value"] for row in rows}


def theirs(program, options, batch):
    out = subprocess.run([program, options.gguf, str(batch), str(options.prompt), str(NEW), "2", str(options.group)],
                         check=True, capture_output=True, text=True).stdout
    rate = json.loads(out)
    prompts, drawn = batch // options.group * options.prompt, batch * NEW
    return {"prefill": rate["prefill"], "decode": rate["decode"],
            "completions": drawn / (prompts / rate["prefill"] + drawn / rate["decode"])}


def measure(options, batch, peer, theirs):
    """Runs in turn; theirs() gives the peer's rates of the cases that it has."""
    pairs = [(ours(options, batch), theirs()) for _ in range(options.pairs)]
    for case in pairs[0][1]:
        ratio = statistics.median(a[case] / b[case] for a, b in pairs)
        print(json.dumps({"bench": "rollout", "case": f"{options.model}, {case}, {batch} sequences", "metric": "tokens",
                          "value": statistics.median(a[case] for a, _ in pairs), "unit": "tokens/s", "peer": peer,
                          "peer_value": statistics.median(b[case] for _, b in pairs), "ratio": round(ratio, 2)}),
              flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("gguf")
    parser.add_argument("--gradus", default=ROOT / "build/rl/gradus")
    parser.add_argument("--batches", default="1,8,32,64")
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--group", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        program = build(pathlib.Path(folder))
        for batch in map(int, options.batches.split(",")):
            measure(options, batch, "llama.cpp", lambda: theirs(program, options, batch))


if __name__ == "__main__":
    sys.exit(main())
