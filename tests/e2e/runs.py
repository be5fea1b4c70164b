# SPDX-License-Identifier: Apache-2.0
"""Runs of `gradus train` and what they leave, for the scripts of this folder."""
import json
import os
import subprocess

from tap import report


def metrics(run):
    with open(os.path.join(run, "metrics.jsonl"), encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def trained(name, gradus, config, run, *more):
    """One test, that a run comes to its end; its metrics, or None."""
    done = subprocess.run([gradus, "train", config, "--run", run, *more], stderr=subprocess.PIPE, text=True)
    report(done.returncode == 0, name, done.stderr)
    return metrics(run) if done.returncode == 0 else None


def samples(run, step):
    """The trace of a step; splitlines would split at U+2028 too."""
    trace = subprocess.run(["zstd", "-dc", os.path.join(run, "traces", f"step-{step:06}.jsonl.zst")],
                           stdout=subprocess.PIPE, text=True)
    return [json.loads(line) for line in trace.stdout.split("\n") if line]
