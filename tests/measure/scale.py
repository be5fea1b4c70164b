# SPDX-License-Identifier: Apache-2.0
"""What a GRPO step costs on many GPUs: the tables of docs/scale.md, from rates that were measured on one GPU
(docs/gpu.md) and link speeds.

usage: scale.py
"""

# ---- the model: DeepSeek-V2-Lite's shape, with 16 experts in place of 64, so that it fits (see docs/scale.md)
C, F, L, DENSE, V = 2048, 1408, 27, 1, 102400
H, R, DN, DR, DV = 16, 512, 128, 64, 128
E, K, S, DENSE_WIDTH = 16, 6, 2, 10944

# ---- rates of one H200, docs/gpu.md: operations a second, bytes a second
PRODUCT, EXPERTS, HEAD = 734e12, 650e12, 645e12
GRAD, GRAD_EXPERTS = 734e12, 313e12
ATTENTION = 84e12
COPY, DECODE_READ = 4.084e12, 1.63e12
# Not measured yet: products of few rows, which read the weights. Half the rate of a copy is assumed.
WEIGHTS_READ = COPY / 2

# ---- links of an H100 or H200 machine: one direction, bytes a second, and what of it exchanges reach (assumed)
NVLINK, NETWORK, REACHED = 450e9, 50e9, 0.8
MACHINE = 8

# ---- the step
PROMPT, COMPLETION = 256, 1024
LAUNCHES, LAUNCH_SECONDS = 15 * L, 3e-6  # of a token's decode step; assumed
TRACE_SECONDS, TRACE_BYTES = 2e-6, 40  # a token, measured: formatting; text before compression
SAMPLE_BYTES = 13


def parameters(experts):
    attention = C * H * (DN + DR) + C * (R + DR) + R * H * (DN + DV) + H * DV * C
    ffn = 3 * C * F
    return (2 * V * C + L * attention + DENSE * 3 * C * DENSE_WIDTH + (L - DENSE) * (ffn * (experts + S) + C * E))


def update_seconds(tokens):
    """Forward and backward of so many tokens, prompts included."""
    length = PROMPT + COMPLETION
    dense = L * (C * H * (DN + DR) + C * (R + DR) + H * DN * R + H * R * DV + H * DV * C)
    dense += DENSE * 3 * C * DENSE_WIDTH + (L - DENSE) * 3 * C * F * S
    experts = (L - DENSE) * 3 * C * F * K
    head = V * C * COMPLETION / length
    pairs = L * 2 * H * (2 * R + DR) * length / 2
    forward = 2 * dense / PRODUCT + 2 * experts / EXPERTS + 2 * head / HEAD + pairs / ATTENTION
    backward = 2 * dense / PRODUCT + 2 * experts / EXPERTS + 6 * head / HEAD + 2.6 * pairs / ATTENTION
    weights = 2 * dense / GRAD + 2 * experts / GRAD_EXPERTS
    return tokens * (forward + backward + weights)


def rollout_seconds(samples):
    """The longest sample's tokens, one after the other, `samples` at a time; prompts of groups are computed once."""
    touched = E * (1 - (1 - K / E) ** samples)
    weights = 2 * parameters(touched)
    cache = samples * (PROMPT + COMPLETION / 2) * (R + DR) * 2 * L
    return COMPLETION * (weights / WEIGHTS_READ + cache / DECODE_READ + LAUNCHES * LAUNCH_SECONDS)


def exchange_seconds(bytes_sent, n):
    """Each GPU sends so many bytes, to all others alike."""
    outside = max(n - MACHINE, 0) / max(n - 1, 1)
    return max((1 - outside) * bytes_sent / NVLINK, outside * bytes_sent / NETWORK) / REACHED


def step(n, samples):
    """Seconds of the parts of a step on n GPUs that have `samples` each."""
    P, tokens = parameters(E), samples * (PROMPT + COMPLETION)
    sent = 4 * P * (n - 1) / n
    everything = n * samples * COMPLETION
    parts = {
        "rollout": rollout_seconds(samples),
        "update": update_seconds(tokens),
        "gradients": exchange_seconds(sent, n),
        "weights": exchange_seconds(sent, n),
        "AdamW, packing": (28 * P / n + 12 * P) / COPY,
        "samples": exchange_seconds(SAMPLE_BYTES * everything * (n - 1) / n, n),
        "traces": TRACE_SECONDS * everything / n + TRACE_BYTES * everything / 300e6,
    }
    return parts, tokens


def table(title, samples_of):
    print(f"\n{title}\n")
    names = list(step(8, 1)[0])
    print("| GPUs | samples a GPU | " + " | ".join(names) + " | step | tokens/s a GPU | of 8 GPUs' |")
    print("|---" * (len(names) + 5) + "|")
    base = None
    for n in (8, 64, 512):
        samples = samples_of(n)
        parts, tokens = step(n, samples)
        seconds = sum(parts.values())
        rate = tokens / seconds
        base = base or rate
        print(f"| {n} | {samples} | " + " | ".join(f"{x:.2f}" for x in parts.values()) +
              f" | {seconds:.1f} s | {rate:,.0f} | {100 * rate / base:.0f} % |")


P = parameters(E)
print(f"{P / 1e9:.2f} G parameters, {parameters(K) / 1e9:.2f} G active")
for n in (1, 8, 64, 512):
    print(f"weights, gradients, packed weights and moments on {n} GPUs: {(12 + 8 / n) * P / 1e9:.0f} GB a GPU")
table("128 samples a GPU", lambda n: 128)
table("8,192 samples in all", lambda n: 8192 // n)
rows = 128 * (PROMPT + COMPLETION) * K * (L - DENSE)
spread = rows * C * (3 * 2 + 4) * (MACHINE - 1) / MACHINE
saved = 4 * (P - parameters(0)) * (1 - 1 / MACHINE)
print(f"\nexperts divided among the 8 GPUs of a machine, 128 samples a GPU: {spread / 1e9:.0f} GB of rows, "
      f"{spread / NVLINK / REACHED:.1f} s; saves {saved / 1e9:.0f} GB of gradients, "
      f"{exchange_seconds(saved, 64):.1f} s on 64 GPUs")
PROMPT, COMPLETION = 256, 3840
parts_32, tokens_32 = step(32, 64)
seconds_32 = sum(parts_32.values())
print(f"\nsequences of 4,096 tokens, 64 samples on each of 32 GPUs: {tokens_32 / seconds_32:,.0f} tokens/s a GPU, "
      f"{seconds_32:.0f} s, of which rollout {parts_32['rollout']:.0f} s")
