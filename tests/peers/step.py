# SPDX-License-Identifier: Apache-2.0
"""The work of step.c with PyTorch and transformers: one optimiser step of the "small" DeepSeek-V3 shape, and its
forward pass alone, 4,096 tokens in 16 sequences of 256, four sequences at a time; then the step of GRPO, two groups of
8 samples of 128 tokens after a shared prompt of 128, which is computed with each of its samples: there is no sharing
to be had. Prints tokens a second, the median of REPEATS, and, before the groups, the largest resident memory, each in a
process of its own, for two ways in which transformers runs the experts (its third, batched_mm, is fifty times slower on
a CPU); the best of them is what step.c is to be compared with.

usage: step.py THREADS [float32|bfloat16]...      (needs: pip install torch transformers)
"""
import copy
import multiprocessing
import resource
import statistics
import sys
import time

import torch
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

SEQUENCES, LENGTH, AT_ONCE, REPEATS = 16, 256, 4, 5
SAMPLES, PROMPT = 8, 128  # of a group
SHAPE = DeepseekV3Config(
    vocab_size=2048, hidden_size=512, num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=8,
    q_lora_rank=None, kv_lora_rank=128, qk_nope_head_dim=64, qk_rope_head_dim=32, v_head_dim=64,
    first_k_dense_replace=1, intermediate_size=1536, n_routed_experts=16, num_experts_per_tok=4, n_shared_experts=1,
    moe_intermediate_size=256, n_group=1, topk_group=1, norm_topk_prob=True, routed_scaling_factor=1.0,
    max_position_embeddings=1024, bos_token_id=0, eos_token_id=1, pad_token_id=2)


def model_of(dtype, experts):
    torch.manual_seed(0)
    shape = copy.deepcopy(SHAPE)  # a model keeps it, and asks it at every pass
    shape._attn_implementation = "sdpa"
    shape._experts_implementation = experts
    return DeepseekV3ForCausalLM(shape).to(dtype)


def logprobs(model, tokens, scored=LENGTH - 1):
    """Of the last `scored` tokens of each sequence."""
    logits = model(tokens, logits_to_keep=scored + 1).logits[:, :-1].float()
    return torch.log_softmax(logits, -1).gather(-1, tokens[:, -scored:, None])


def report(name, run):
    run()
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds)
    rate = SEQUENCES * LENGTH / median
    print(f"{name:36} {rate:8.0f} tokens/s  ({median:.3f} s, best {min(seconds):.3f} s)", flush=True)


def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(dtype, experts):
    before = peak_mib()
    tokens = torch.randint(3, SHAPE.vocab_size, (SEQUENCES, LENGTH))
    model = model_of(dtype, experts)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, foreach=True)

    def forward():
        with torch.no_grad():
            for part in tokens.split(AT_ONCE):
                logprobs(model, part)

    def update(sequences=tokens, scored=LENGTH - 1):
        optimizer.zero_grad(set_to_none=True)
        for part in sequences.split(AT_ONCE):
            (-logprobs(model, part, scored).sum() / tokens.numel()).backward()
        optimizer.step()

    grouped = tokens.clone()
    for first in range(0, SEQUENCES, SAMPLES):
        grouped[first:first + SAMPLES, :PROMPT] = tokens[first, :PROMPT]
    name = f"{str(dtype).removeprefix('torch.')} {experts}"
    report(f"forward  {name}", forward)
    report(f"update   {name}", update)
    print(f"memory   {name:27} {peak_mib():8.0f} MiB at most, {before:.0f} before the model", flush=True)
    report(f"groups   {name}", lambda: update(grouped, LENGTH - PROMPT))


def measure_alone(threads, dtype, experts):
    torch.set_num_threads(threads)
    try:
        measure(getattr(torch, dtype), experts)
    except Exception as fault:  # one that this version or machine lacks does not end the others
        print(f"{dtype} {experts}: {str(fault).splitlines()[0][:100]}", flush=True)


def main():
    threads = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    print(f"PyTorch {torch.__version__}, {threads} threads", flush=True)
    for dtype in sys.argv[2:] or ["float32", "bfloat16"]:
        for experts in ["eager", "grouped_mm"]:
            process = multiprocessing.get_context("spawn").Process(target=measure_alone, args=(threads, dtype, experts))
            process.start()
            process.join()


if __name__ == "__main__":
    main()
