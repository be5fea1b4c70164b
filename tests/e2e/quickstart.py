# SPDX-License-Identifier: Apache-2.0
"""The quickstart as the README has it, on a device where it takes a minute: it learns, and rollout and update agree.

usage: quickstart.py GRADUS CONFIG [--set KEY=VALUE]...     (TAP on standard output)

What is asked for is below what the three seeds of the README show: held-out games gain 14 points and more in GRPO,
programs 6 and more, and the process reward model is right 4 to 10 points more often than the commoner label.
"""
import os
import sys
import tempfile

import tap
from runs import trained
from tap import report

gradus, config, *settings = sys.argv[1:]


def values(lines, stage, key):
    return [x[key] for x in lines if x["stage"] == stage and x.get(key) is not None]


def check_gain(lines, source, points):
    key = f"eval/{source}/pass@1"
    before, after = 100 * values(lines, "sft", key)[-1], 100 * values(lines, "grpo", key)[-1]
    report(after - before >= points, f"held-out {source}: {before:.1f} % after SFT, {after:.1f} % after GRPO",
           f"expected a gain of {points} points")


def check_prm(lines):
    right, commoner = (100 * sum(x[-40:]) / len(x[-40:]) for x in (
        values(lines, "prm", f"process/{name}_accuracy") for name in ("prm", "majority")))
    report(right > commoner + 2, f"the process reward model is right about {right:.1f} % of steps",
           f"always the commoner label: {commoner:.1f} %")


with tempfile.TemporaryDirectory() as top:
    metrics = trained("the quickstart runs to its end", gradus, config, os.path.join(top, "run"), "-q", *settings)
    if metrics is not None:
        check_gain(metrics, "games", 5)
        check_gain(metrics, "programs", 0)
        check_prm(metrics)
        apart = values(metrics, "grpo", "sampling/logp_diff_max")
        report(len(apart) == 200 and not any(apart), "rollout and update have the same log-probabilities in all steps",
               max(apart, default="no steps"))
sys.exit(tap.end())
