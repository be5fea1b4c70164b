# SPDX-License-Identifier: Apache-2.0
"""Real rows through a GRPO step: GSM8K, DeepSeek-V3's tokenizer, and a random model of its architecture.

usage: gsm8k.py GRADUS TESTDATA [PROMPTS]     (TAP on standard output)

Every row of the file is read; PROMPTS of them (default 24) are answered, and every sample is scored or counted as
unscorable with a reason. A random model is not expected to be right.
"""
import json
import os
import sys
import tempfile

import tap
from runs import samples, trained
from tap import report

gradus, testdata = sys.argv[1:3]
prompts = int(sys.argv[3]) if len(sys.argv) > 3 else 24
rows = os.path.join(testdata, "data", "gsm8k", "train.jsonl.gz")
tokenizer = os.path.join(testdata, "data", "tokenizer", "deepseek_v3_tokenizer.json.gz")
SAMPLES = 2


def config():
    return {
        "model": {
            "model_type": "deepseek_v3", "init_seed": 3, "vocab_size": 129280, "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 2, "q_lora_rank": 12, "kv_lora_rank": 16,
            "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8, "intermediate_size": 32,
            "first_k_dense_replace": 1, "n_routed_experts": 8, "num_experts_per_tok": 2, "n_shared_experts": 1,
            "moe_intermediate_size": 8, "n_group": 2, "topk_group": 1, "norm_topk_prob": True,
            "routed_scaling_factor": 2.5, "scoring_func": "sigmoid", "topk_method": "noaux_tc", "hidden_act": "silu",
            "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "max_position_embeddings": 2048, "initializer_range": 0.02,
            "tie_word_embeddings": True,
        },
        "tokenizer": tokenizer,
        "data": {"gsm8k": {"file": rows}},
        "reward": {"gsm8k": [{"use": "answer"}, {"use": "format", "kind": "think", "weight": 0.5}]},
        "rollout": {"num_prompts": prompts, "num_generations": SAMPLES, "max_completion_length": 8},
        "stages": [{"kind": "grpo", "steps": 1}],
    }


def run(work):
    path, out = os.path.join(work, "gsm8k.json"), os.path.join(work, "run")
    with open(path, "w") as f:
        json.dump(config(), f)
    metrics = trained("a step on GSM8K ends with exit code 0", gradus, path, out)
    if metrics is None:
        return
    line = next(x for x in metrics if "reward" in x)
    report(line["num_unscorable"] == 0, "every sample is scored", json.dumps(line))
    report(line["sampling/logp_diff_max"] == 0, "rollout and update agree to the bit", json.dumps(line))
    trace = samples(out, 1)
    whole = all(s["prompt"] and s["tokens"] and s["rewards"]["answer"]["value"] is not None for s in trace)
    report(len(trace) == prompts * SAMPLES and whole, "every sample is in the trace, with its score",
           f"{len(trace)} samples")


if not (os.path.exists(rows) and os.path.exists(tokenizer)):
    tap.skip("GSM8K goes through a GRPO step", f"{rows} and {tokenizer} are not both there")
else:
    with tempfile.TemporaryDirectory() as work:
        run(work)
tap.end()
