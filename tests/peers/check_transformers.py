#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Lets this tree open and save the golden models, opens what was saved with transformers, and compares logits.

usage: check_transformers.py PEER_RESAVE [NAME]...

PEER_RESAVE is build/tests/peer_resave (ninja -C build tests/peer_resave); without names every folder of
tests/golden/models is tried, from both layouts of its config.json. Every sequence is run alone, in float32. Exits with
1 when a logit is off by more than 1e-4 max(1, |golden|), or when transformers had to initialise or leave out a tensor.
Needs torch, transformers and safetensors.
"""
import pathlib
import shutil
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

MODELS = pathlib.Path(__file__).resolve().parent.parent / "golden" / "models"


def resaved(program, source, config, work):
    """The directory that this tree makes of a golden model whose config.json is `config`."""
    given, saved = work / "given", work / "saved"
    given.mkdir()
    saved.mkdir()
    shutil.copy(source / config, given / "config.json")
    shutil.copy(source / "model.safetensors", given)
    subprocess.run([program, given, saved], check=True)
    return saved


def check(name, config, directory):
    model, info = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    model.eval()
    golden = load_file(MODELS / name / "golden.safetensors")
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
    print(f"{'ok' if good else 'not ok'} {name} from {config}: {type(model).__name__}, largest error {worst:.2g}, "
          f"{faults or 'every tensor taken'}")
    return good


def check_both(program, name):
    good = True
    for config in ("config.json", "config.v5.json"):
        with tempfile.TemporaryDirectory() as work:
            good &= check(name, config, resaved(program, MODELS / name, config, pathlib.Path(work)))
    return good


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    names = sys.argv[2:] or sorted(path.name for path in MODELS.iterdir() if path.is_dir())
    results = [check_both(sys.argv[1], name) for name in names]
    sys.exit(0 if all(results) else 1)
