# SPDX-License-Identifier: Apache-2.0
"""Programs whose tests are within their own reach are counted: in steps, in evaluations, and by what they are of.

usage: weak.py GRADUS CONFIG ROOT     (TAP on standard output)

Two sources have the same task. The tests of one are calls, which are compared outside the program's process; those of
the other are asserts that cannot be made into calls. What the counts should be follows from the traces, where every
sample has its source.
"""
import json
import os
import subprocess
import sys
import tempfile

import tap
from runs import metrics, samples
from tap import report

gradus, config, root = sys.argv[1:]
TESTS = {
    "sound": {"entry": "f", "calls": [{"args": [2], "result": 4}]},
    "weak": "for i in range(3):\n    assert f(i) < 5\n",
}
ITEMS, SAMPLES = 4, 3


def settings(work):
    """The config of the other end-to-end tests, with the two sources for its own, and one step."""
    with open(config, encoding="utf-8") as f:
        c = json.loads("".join(line for line in f if not line.startswith("//")))
    c["tokenizer"] = os.path.join(root, c["tokenizer"])
    c["data"], c["reward"] = {}, {}
    for source, tests in TESTS.items():
        for name, use in ((source, "train"), (source + "-held-out", "eval")):
            path = os.path.join(work, name + ".jsonl")
            with open(path, "w", encoding="utf-8") as f:
                for i in range(ITEMS):
                    print(json.dumps({"prompt": f"make {i}: ", "tests": tests}), file=f)
            c["data"][name] = {"file": path, "for": use}
            c["reward"][name] = [{"use": "code"}]
    c["eval"] = {"every": 1, "samples": SAMPLES, "k": [1]}
    c["stages"] = [{"kind": "grpo", "steps": 1}]
    return c


def run(work):
    path, out = os.path.join(work, "weak.json"), os.path.join(work, "run")
    with open(path, "w", encoding="utf-8") as f:
        json.dump(settings(work), f)
    done = subprocess.run([gradus, "train", path, "--run", out], stderr=subprocess.PIPE, text=True, timeout=600)
    if done.returncode == 5:
        tap.skip("programs judged weakly are counted", done.stderr.strip().split("\n")[-1])
        return
    report(done.returncode == 0, "a step on programs ends with exit code 0", done.stderr)
    if done.returncode != 0:
        return
    lines = metrics(out)
    step = next(line for line in lines if "reward" in line)
    evaluation = next(line for line in lines if "eval/pass@1" in line)
    sources = [sample["source"] for sample in samples(out, 1)]
    report(step["sandbox/programs"] == len(sources) > 0, "a step counts the programs that were judged", step)
    report(step["sandbox/weak"] == sources.count("weak") > 0, "and those that were judged weakly", step)
    for source, weak in (("sound", 0), ("weak", ITEMS * SAMPLES)):
        got = [evaluation.get(f"eval/{source}-held-out/sandbox/{what}") for what in ("programs", "weak")]
        report(got == [ITEMS * SAMPLES, weak], f"so does an evaluation, by source: {source}", evaluation)


with tempfile.TemporaryDirectory() as work:
    run(work)
tap.end()
