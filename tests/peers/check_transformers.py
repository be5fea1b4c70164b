#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Opens model directories that gradus saved with transformers, and compares their logits with golden ones.

usage: check_transformers.py DIR GOLDEN.safetensors [DIR GOLDEN.safetensors]...

DIR holds config.json and model.safetensors; GOLDEN has input_ids, lengths and logits
(tests/golden/models/*/golden.safetensors). Every sequence is run alone, in float32. Exits with 1 when a logit is off by
more than 1e-4 max(1, |golden|), or when transformers had to initialise or leave out a tensor. Needs torch, transformers
and safetensors.
"""
import sys

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM


def check(directory, golden_path):
    model, info = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    model.eval()
    golden = load_file(golden_path)
    worst, start = 0.0, 0
    with torch.no_grad():
        for length in golden["lengths"].tolist():
            ids = golden["input_ids"][start:start + length].long()
            expected = golden["logits"][start:start + length]
            logits = model(ids[None]).logits[0]
            error = (logits - expected).abs() / expected.abs().clamp(min=1)
            worst = max(worst, float(error.max()))
            start += length
    faults = {kind: sorted(info[kind]) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") if info[kind]}
    good = worst <= 1e-4 and not faults
    print(f"{'ok' if good else 'not ok'} {directory}: {type(model).__name__}, largest error {worst:.2g}, "
          f"{faults or 'every tensor taken'}")
    return good


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if not arguments or len(arguments) % 2:
        sys.exit(__doc__)
    results = [check(*pair) for pair in zip(arguments[::2], arguments[1::2])]
    sys.exit(0 if all(results) else 1)
