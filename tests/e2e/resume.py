# SPDX-License-Identifier: Apache-2.0
"""A run that is interrupted in every stage, or killed, and resumed ends with the bytes of one that was not.

usage: resume.py GRADUS CONFIG [--set KEY=VALUE]...     (TAP on standard output)

Files of the last checkpoints and traces are compared byte by byte, lines of metrics.jsonl without their times.
"""
import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile

import tap
from runs import metrics
from tap import report

gradus, config, *settings = sys.argv[1:]
TIMES = ("time", "step_time", "eval/seconds", "time/rollout", "time/reward", "time/update")


def command(run, *more):
    return [gradus, "train", config, "--run", run, *settings, *more]


def end_in(stage, number, run, *more):
    """Sends the signal when the run has said how its first step in this stage went; returns its exit code and words.

    What the run says goes through a pipe that holds one line (a packet), so that it cannot be further than two lines
    ahead of what was read here, however slow or fast either of the two is.
    """
    reader, writer = os.pipe2(os.O_DIRECT | os.O_CLOEXEC)
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    process = subprocess.Popen(command(run, *more), stderr=writer)
    os.close(writer)
    said = ""
    while packet := os.read(reader, 4096).decode():
        said += packet
        if packet.startswith(stage + " ") and number:
            process.send_signal(number)
            number = None
    os.close(reader)
    return process.wait(), said


def without_times(line):
    return {k: v for k, v in line.items() if k not in TIMES}


def files(run):
    """Contents of the last checkpoint and the traces, by relative path; what holds times is left out."""
    checkpoints = os.path.join(run, "checkpoints")
    found = {}
    for top in (os.path.join(checkpoints, max(os.listdir(checkpoints))), os.path.join(run, "traces")):
        for folder, _, names in os.walk(top):
            for name in names:
                if name in ("state.json", "MANIFEST.json"):
                    continue
                path = os.path.join(folder, name)
                with open(path, "rb") as f:
                    found[os.path.relpath(path, run)] = f.read()
    return found


with tempfile.TemporaryDirectory() as work:
    whole, parts = os.path.join(work, "whole"), os.path.join(work, "parts")
    done = subprocess.run(command(whole), stderr=subprocess.PIPE, text=True)
    if done.returncode == 5:  # this system forbids what the sandbox is built of
        print("1..0 # SKIP " + done.stderr.strip().replace("\n", " "))
        sys.exit()
    report(done.returncode == 0, "a run ends with exit code 0", done.stderr)
    more = ()
    for stage, number in (("sft", signal.SIGTERM), ("sft", signal.SIGKILL), ("prm", signal.SIGTERM),
                          ("grpo", signal.SIGKILL), ("grpo", signal.SIGTERM)):
        code, said = end_in(stage, number, parts, *more)
        more = ("--resume",)
        if number == signal.SIGKILL:
            report(code == -number, f"a run is killed in stage {stage}", f"exit code {code}\n{said}")
            continue
        with open(os.path.join(parts, "status.json")) as f:
            status = json.load(f)
        report(code == 75 and status["state"] == "interrupted" and status["stages"][-1]["name"] == stage,
               f"a run that is interrupted in stage {stage} saves and exits with 75",
               f"exit code {code}, status {json.dumps(status)}\n{said}")
    last = subprocess.run(command(parts, *more), stderr=subprocess.PIPE, text=True)
    report(last.returncode == 0, "the resumed run ends with exit code 0", last.stderr)
    a, b = files(whole), files(parts)
    different = [n for n in sorted(a.keys() | b.keys()) if a.get(n) != b.get(n)]
    report(not different and len(a) > 8, "weights, moments and traces have the same bytes", ", ".join(different))
    kept = [n for n in a if n.endswith("/reference/model.safetensors")]
    report(len(kept) == 1 and not any(os.path.exists(os.path.join(run, "reference")) for run in (whole, parts)),
           "the reference model is in the last checkpoint, and its own files went with its stage", ", ".join(a))
    a, b = [without_times(x) for x in metrics(whole)], [without_times(x) for x in metrics(parts)]
    first = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    report(a == b and len(a) > 16, "metrics have the same values", f"first difference in line {first + 1}:\n"
           f"{a[first:first + 1]}\n{b[first:first + 1]}")
    zero = [x["sampling/logp_diff_max"] for x in a if x["stage"] == "grpo" and "loss" in x]
    report(len(zero) == 5 and not any(zero), "rollout and update have the same log-probabilities in every step",
           f"{zero}")
    balance = {s: [x["moe/aux_loss"] for x in a if x["stage"] == s and "moe/aux_loss" in x] for s in ("sft", "grpo")}
    report([len(x) for x in balance.values()] == [8, 5] and all(0.9 < y < 4 for x in balance.values() for y in x),
           "every step with a balance loss says what it is", f"{balance}")
    again = subprocess.run(command(whole), stderr=subprocess.PIPE, text=True)
    report(again.returncode == 2 and "--resume" in again.stderr, "a used run directory is refused", again.stderr)
tap.end()
