# SPDX-License-Identifier: Apache-2.0
"""Samples that are longer than a split of attention's keys: rollout and update give them the same log-probabilities.

usage: long.py GRADUS CONFIG [--set KEY=VALUE]...     (TAP on standard output)
"""
import os
import sys
import tempfile

import tap
from runs import trained
from tap import report

SPLIT = 512  # keys (kernels/cuda/attention.cuh)
gradus, config, *settings = sys.argv[1:]

with tempfile.TemporaryDirectory() as top:
    metrics = trained("the run comes to its end", gradus, config, os.path.join(top, "run"), "-q", *settings)
    if metrics is not None:
        steps = [x for x in metrics if "sampling/logp_diff_max" in x]
        longest = max((x["completions/max_length"] for x in steps), default=0)
        report(longest > SPLIT + 64, f"there are samples of more than {SPLIT} tokens", f"the longest has {longest}")
        apart = [x["sampling/logp_diff_max"] for x in steps]
        report(apart and not any(apart), "rollout and update have the same log-probabilities in all steps", apart)
sys.exit(tap.end())
