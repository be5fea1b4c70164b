#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Generation beside transformers on the "small" shape in bfloat16: `gradus bench rollout` and generate() in turn,
several times, and the medians of the ratios of neighbouring runs: prompts' tokens a second, and new tokens a second of
the steps after the prompt's. The prompts' passes are PyTorch's own forward pass, whose experts run the faster of two
ways (see step.py). No test needs it.

usage: generate.py [--gradus PROGRAM] [--batches 1,8,32,64] [--pairs N]       (needs: pip install torch transformers)
"""
import argparse
import time

import torch

from rollout import NEW, ROOT, measure
from step import SHAPE, model_of

PROMPT, THREADS = 128, 2  # as rollout.py runs us


def seconds(call):
    start = time.perf_counter()
    with torch.inference_mode():
        call()
    return time.perf_counter() - start


def theirs(models, batch):
    prompts = torch.randint(3, SHAPE.vocab_size, (batch, PROMPT))

    def generate(model, new):
        model.generate(prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=new, min_new_tokens=new,
                       do_sample=True, top_k=0, top_p=1.0, temperature=1.0)
    prefill = min(seconds(lambda: m(prompts, logits_to_keep=1)) for m in models for _ in range(3))
    decode = min(seconds(lambda: generate(m, NEW)) - seconds(lambda: generate(m, 1)) for m in models)
    return {"prefill": batch * PROMPT / prefill, "decode": batch * (NEW - 1) / decode}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gradus", default=ROOT / "build/rl/gradus")
    parser.add_argument("--batches", default="1,8,32,64")
    parser.add_argument("--pairs", type=int, default=3)
    parser.set_defaults(model="small", prompt=PROMPT, group=1)
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    models = [model_of(torch.bfloat16, experts) for experts in ("grouped_mm", "eager")]
    for batch in map(int, options.batches.split(",")):
        theirs(models, batch)
        measure(options, batch, "transformers", lambda: theirs(models, batch))


if __name__ == "__main__":
    main()
