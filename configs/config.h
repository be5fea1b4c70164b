// SPDX-License-Identifier: Apache-2.0
// Every key of a run's config. One list a kind of object, one row a key: X(type, name, default, lo,
// hi, help). Of these rows rl/config makes the structs' fields, the parser with its ranges and "did
// you mean", the dump of the resolved config, `gradus config` and the JSON Schema; a key that is
// not here does not exist. A key has TRL's name where TRL has the same thing. Types: int, real,
// flag (true or false), text, path, ints and texts (lists), objects, lists and maps of objects, and
// the sets of words below. lo and hi bound numbers (of a list: each of its elements). Included by
// rl only, which hands plain structs down.
#ifndef CONFIGS_CONFIG_H
#define CONFIGS_CONFIG_H

// A default that says "derived from other keys"; the row's help says how. The resolved config holds
// the derived value.
#define CONFIG_DERIVED (-1)
#define CONFIG_INTS(...)                                                                           \
    {                                                                                              \
        sizeof((int[]){__VA_ARGS__}) / sizeof(int), (const int[]) { __VA_ARGS__ }                  \
    }
#define CONFIG_NONE                                                                                \
    {                                                                                              \
        0                                                                                          \
    }

// ---- sets of words: W(enum constant, word)

#define CONFIG_STAGE_KIND(W)                                                                       \
    W(STAGE_SFT, "sft")                                                                            \
    W(STAGE_PRM, "prm")                                                                            \
    W(STAGE_GRPO, "grpo")                                                                          \
    W(STAGE_EVAL, "eval")

#define CONFIG_GENERATOR(W)                                                                        \
    W(GENERATE_NOTHING, "")                                                                        \
    W(GENERATE_GAMES, "games")                                                                     \
    W(GENERATE_PROGRAMS, "programs")

#define CONFIG_PURPOSE(W)                                                                          \
    W(FOR_DERIVED, "")                                                                             \
    W(FOR_TRAIN, "train")                                                                          \
    W(FOR_EVAL, "eval")                                                                            \
    W(FOR_BOTH, "both")

#define CONFIG_SAMPLES_FROM(W)                                                                     \
    W(SAMPLES_FROM_DATASET, "dataset")                                                             \
    W(SAMPLES_FROM_POLICY, "policy")

// From here on, the enums are those of the modules that use them: rl/grpo.h, reward/prm.h,
// policy/optimizer.h.
#define CONFIG_LOSS_TYPE(W)                                                                        \
    W(GRPO_LOSS_GRPO, "grpo")                                                                      \
    W(GRPO_LOSS_BNPO, "bnpo")                                                                      \
    W(GRPO_LOSS_DAPO, "dapo")                                                                      \
    W(GRPO_LOSS_DR_GRPO, "dr_grpo")                                                                \
    W(GRPO_LOSS_SEQ_SUM, "seq_sum")

#define CONFIG_LEVEL(W)                                                                            \
    W(GRPO_LEVEL_TOKEN, "token")                                                                   \
    W(GRPO_LEVEL_SEQUENCE, "sequence")

#define CONFIG_SCALE_REWARDS(W)                                                                    \
    W(GRPO_SCALE_GROUP, "group")                                                                   \
    W(GRPO_SCALE_BATCH, "batch")                                                                   \
    W(GRPO_SCALE_NONE, "none")

#define CONFIG_CREDIT(W)                                                                           \
    W(GRPO_CREDIT_SUM, "sum")                                                                      \
    W(GRPO_CREDIT_MIN, "min")

#define CONFIG_KL_ESTIMATOR(W)                                                                     \
    W(GRPO_KL_K1, "k1")                                                                            \
    W(GRPO_KL_K2, "k2")                                                                            \
    W(GRPO_KL_K3, "k3")

#define CONFIG_AGGREGATE(W)                                                                        \
    W(PRM_MIN, "min")                                                                              \
    W(PRM_PRODUCT, "product")                                                                      \
    W(PRM_LAST, "last")                                                                            \
    W(PRM_MEAN, "mean")

#define CONFIG_SCHEDULE(W)                                                                         \
    W(SCHEDULE_CONSTANT, "constant")                                                               \
    W(SCHEDULE_LINEAR, "linear")                                                                   \
    W(SCHEDULE_COSINE, "cosine")

#define CONFIG_DTYPE(W)                                                                            \
    W(DTYPE_F32, "float32")                                                                        \
    W(DTYPE_BF16, "bfloat16")

// Words that stay text.
#define CONFIG_SCORER(W)                                                                           \
    W(0, "steps")                                                                                  \
    W(0, "answer")                                                                                 \
    W(0, "code")                                                                                   \
    W(0, "format")                                                                                 \
    W(0, "prm")

#define CONFIG_FORMAT(W)                                                                           \
    W(0, "steps")                                                                                  \
    W(0, "think")                                                                                  \
    W(0, "program")                                                                                \
    W(0, "pattern")

// ---- objects

// clang-format off
#define CONFIG_KEYS(X) \
    X(model, model, CONFIG_NONE, 0, 0, \
      "a Hugging Face directory, or an object with the fields of its config.json and init_seed: a new model") \
    X(path, adapter, NULL, 0, 0, \
      "directory of a LoRA adapter in PEFT's files, merged into the weights of the model directory at the start") \
    X(path, tokenizer, NULL, 0, 0, "a tokenizer.json; default: the model directory's") \
    X(path, prm, NULL, 0, 0, \
      "directory of a process reward model that is there already; default: the one that a prm stage trains") \
    X(sources, data, CONFIG_NONE, 0, 0, \
      "what is learned from and measured on; a key is the SOURCE of eval/SOURCE/...") \
    X(rewards, reward, CONFIG_NONE, 0, 0, \
      "components of the reward by source; those of \"*\" are added to every source") \
    X(rollout, rollout, CONFIG_NONE, 0, 0, "how samples are drawn in training") \
    X(optimizer, optimizer, CONFIG_NONE, 0, 0, "AdamW and its learning rate") \
    X(eval, eval, CONFIG_NONE, 0, 0, "when and how held-out items are evaluated") \
    X(run, run, CONFIG_NONE, 0, 0, "the run as a whole") \
    X(stages, stages, CONFIG_NONE, 0, 0, "what is done, in order")

#define CONFIG_SOURCE_KEYS(X) \
    X(generator, generate, GENERATE_NOTHING, 0, 0, \
      "problems that the program makes itself: number games, or list functions to infer") \
    X(ints, numbers, CONFIG_INTS(3), 2, 6, "games: how many numbers a puzzle has; each count equally often") \
    X(int, max, 30, 1, 399, "games: numbers are drawn from 1 to this") \
    X(ints, target, CONFIG_INTS(10, 99), 0, 399, "games: lowest and highest target") \
    X(real, wins, 1.0, 0, 1, \
      "games: share of the completions to learn from that win; the others are random legal play") \
    X(int, depth, 2, 1, 4, "programs: functions are compositions of at most this many primitives") \
    X(int, examples, 3, 1, 8, "programs: examples that the prompt shows") \
    X(int, holdout, 0, 0, 10000000, "items kept from training, for evaluation") \
    X(path, file, NULL, 0, 0, "JSON Lines (.gz and .zst as they are): the other way to give items") \
    X(purpose, for_, FOR_DERIVED, 0, 0, "what the items are for; default: both with a holdout, else train") \
    X(int, limit, 0, 0, 1000000000, "use at most this many rows of the file; 0: all")

#define CONFIG_COMPONENT_KEYS(X) \
    X(scorer, use, NULL, 0, 0, "which scorer") \
    X(real, weight, 1.0, -1e6, 1e6, "factor of its value; 0: only measured") \
    X(flag, per_step, false, 0, 0, \
      "true: its step values are part of the process reward; false: its value is part of the outcome reward") \
    X(format, kind, NULL, 0, 0, "format: what the completion must look like; default: what its task asks for") \
    X(text, pattern, NULL, 0, 0, "format: of kind pattern; PCRE2, must match the whole completion") \
    X(text, separator, "\n", 0, 0, "what ends a step") \
    X(aggregate, aggregate, PRM_MIN, 0, 0, "prm: how the scores of steps make the value of a completion") \
    X(flag, fraction, false, 0, 0, "code: true: the value is the share of tests passed; false: all or nothing") \
    X(real, time_limit, 2.0, 0.05, 600, "code: seconds of CPU that a program may use") \
    X(int, memory_mb, 256, 16, 65536, "code: MiB of memory that a program may use") \
    X(text, language, "python", 0, 0, "code: what programs are written in: python or c")

#define CONFIG_ROLLOUT_KEYS(X) \
    X(int, num_prompts, 64, 1, 1000000, "prompts of a step") \
    X(int, num_generations, 8, 1, 65536, "samples of a prompt: the group of GRPO") \
    X(real, temperature, 1.0, 0.01, 100, "of sampling, and of the log-probabilities that are trained on") \
    X(int, top_k, 0, 0, 1000000, "draw from this many most likely tokens; 0: from all") \
    X(real, top_p, 1.0, 1e-6, 1, "draw from the most likely tokens that together have this probability") \
    X(real, min_p, 0.0, 0, 1, "draw from tokens at least this times as likely as the likeliest") \
    X(int, max_completion_length, 256, 1, 10000000, "tokens after which a sample is cut") \
    X(int, max_batch, 512, 1, 1000000, "samples decoded at once; results do not depend on it")

#define CONFIG_OPTIMIZER_KEYS(X) \
    X(real, learning_rate, 1e-6, 0, 10, "highest learning rate") \
    X(int, warmup_steps, 0, 0, 1000000000, "updates over which the learning rate rises to it") \
    X(real, adam_beta1, 0.9, 0, 0.9999999, "decay of the first moment") \
    X(real, adam_beta2, 0.999, 0, 0.9999999, "decay of the second moment") \
    X(real, adam_epsilon, 1e-8, 1e-20, 1, "added to the root of the second moment") \
    X(real, weight_decay, 0.0, 0, 10, "decoupled weight decay of matrices") \
    X(real, max_grad_norm, 1.0, 0, 1e9, "gradients are scaled down to this norm; 0: never") \
    X(schedule, schedule, SCHEDULE_CONSTANT, 0, 0, "of the learning rate after warm-up") \
    X(real, min_lr_ratio, 0.0, 0, 1, "linear and cosine end at this share of learning_rate")

#define CONFIG_EVAL_KEYS(X) \
    X(int, every, 0, 0, 1000000000, "steps between evaluations; 0: only at a stage's start and end") \
    X(int, samples, 4, 1, 65536, "samples of an item") \
    X(ints, k, CONFIG_NONE, 1, 65536, "which pass@k; default: 1 and samples") \
    X(real, temperature, 1.0, 0, 100, "of sampling; 0: greedy") \
    X(real, top_p, 1.0, 1e-6, 1, "draw from the most likely tokens that together have this probability") \
    X(int, limit, 0, 0, 1000000000, "evaluate at most this many items of a source; 0: all") \
    X(texts, sources, CONFIG_NONE, 0, 0, "which sources; default: all that have items for evaluation")

#define CONFIG_RUN_KEYS(X) \
    X(int64, seed, 1, 0, 9007199254740991, "of all that is drawn: problems, order, samples") \
    X(int, threads, 0, 0, 4096, "CPU threads; 0: as many as this process may use; results do not depend on it") \
    X(text, device, "cpu", 0, 0, \
      "where the model is computed: cpu, cuda (the first GPU; several ranks on a machine: each its own) or cuda:N") \
    X(dtype, dtype, DTYPE_F32, 0, 0, \
      "what matrix products read; sums, weights, gradients and moments are float32 either way") \
    X(text, sandbox_tier, "jail", 0, 0, \
      "the weakest isolation of programs that will do: jail, or cage where namespaces are forbidden") \
    X(int, save_every, 0, 0, 1000000000, "steps between checkpoints; 0: only at the end of a stage") \
    X(int, save_total_limit, 0, 0, 1000000, "checkpoints that are kept, the newest; 0: all") \
    X(int, micro_batch_tokens, 16384, 1, 100000000, \
      "tokens that go through the model at once in an update, at most; a longer sequence goes alone, and a prompt " \
      "counts once for samples that follow it") \
    X(flag, gradient_checkpointing, false, 0, 0, \
      "updates keep the input of each layer alone and compute the layer again on the way back: less memory, a third " \
      "more work, the same results") \
    X(int, logging_steps, 1, 1, 1000000, "steps between lines on the console") \
    X(int, gradient_shards, 0, 0, 65536, \
      "parts of a batch whose gradients are summed in a fixed order, a multiple of the ranks: runs with as many " \
      "have the same bits on 1, 2, 4, ... ranks; 0: one a rank") \
    X(int, expert_parallel, 1, 1, 65536, \
      "ranks among which the experts of a layer are divided in training, where there are as many; results do not " \
      "depend on it") \
    X(flag, allow_nonfinite, false, 0, 0, \
      "model files with weights that are NaN or Inf are taken, and the weights counted on the console; false: they " \
      "are refused") \
    X(int, check_every, 25, 0, 1000000000, \
      "several ranks: steps between checks that all have the same weights; 0: only at the start") \
    X(real, comm_timeout_seconds, 1800, 1, 86400, \
      "several ranks: a rank that others have waited for this long has stalled, and ends the run")

#define CONFIG_ADVANTAGE_KEYS(X) \
    X(real, outcome, 1.0, 0, 1e6, "weight of the advantage from the outcome reward") \
    X(real, process, 0.0, 0, 1e6, "weight of the advantage from the process reward") \
    X(real, eps, 1e-4, 1e-12, 1, "added to the standard deviation that rewards are divided by") \
    X(credit, credit, GRPO_CREDIT_SUM, 0, 0, \
      "how step rewards reach tokens: sum (arXiv:2402.03300, 4.1.3) or min (arXiv:2504.15275)") \
    X(real, min_temperature, 0.1, 1e-6, 1e6, "credit min: temperature of the soft minimum") \
    X(flag, outcome_gate, false, 0, 0, \
      "credit sum: what a step is worth above the mean counts only in samples whose outcome is right") \
    X(flag, min_baseline, true, 0, 0, "credit min: subtract the group's mean return")

#define CONFIG_STAGE_KEYS(X) \
    X(stage_kind, kind, STAGE_SFT, 0, 0, \
      "sft: learn given completions; prm: train the process reward model; grpo: reinforce; eval: only evaluate") \
    X(text, name, NULL, 0, 0, "what metrics call the stage; default: its kind") \
    X(int, steps, 0, 0, 1000000000, "updates (grpo: rollouts); 0: by epochs") \
    X(real, epochs, 0.0, 0, 1e6, "passes over the data, where steps is not given") \
    X(int, batch, 0, 0, 10000000, \
      "sequences of an update; default: 64 (sft), all samples of a rollout (prm and grpo)") \
    X(shares, sources, CONFIG_NONE, 0, 0, \
      "share of each source in a batch; default: all sources for training, equally") \
    X(samples_from, samples_from, SAMPLES_FROM_DATASET, 0, 0, \
      "prm: dataset: the rows' labelled steps; policy: its own samples, labelled by the step checker") \
    X(flag, every_token, false, 0, 0, \
      "prm: every token of a step learns the step's label, not its last one alone (arXiv:2110.14168, 4.2)") \
    X(loss_type, loss_type, GRPO_LOSS_DAPO, 0, 0, "grpo: how the losses of tokens are averaged") \
    X(level, importance_sampling_level, GRPO_LEVEL_TOKEN, 0, 0, \
      "grpo: a ratio for each token, or one for a sequence (GSPO, arXiv:2507.18071)") \
    X(advantage, advantage, CONFIG_NONE, 0, 0, "grpo: weights of outcome and process supervision") \
    X(scale_rewards, scale_rewards, GRPO_SCALE_GROUP, 0, 0, \
      "grpo: whose standard deviation divides the rewards") \
    X(real, beta, 0.0, 0, 1e3, "grpo: weight of the KL divergence from the stage's first weights") \
    X(kl_estimator, kl_estimator, GRPO_KL_K3, 0, 0, "grpo: how the KL divergence is estimated") \
    X(real, epsilon, 0.2, 0, 1e3, "grpo: the ratio is clipped below at 1 minus this") \
    X(real, epsilon_high, CONFIG_DERIVED, 0, 1e3, "grpo: the ratio is clipped above at 1 plus this; default: epsilon") \
    X(real, delta, 0.0, 0, 1e6, "grpo: bound of the ratio where the advantage is negative; 0: none") \
    X(int, num_iterations, 1, 1, 1000, "grpo: passes over the samples of a rollout") \
    X(real, balance_rate, 0.001, 0, 1, \
      "V3 models: step of the routing bias towards balanced experts (arXiv:2412.19437, 2.1.2)") \
    X(real, aux_loss_alpha, 0.0, 0, 1e3, \
      "models with experts: weight of the balance loss of each sequence (arXiv:2405.04434, 2.2.3; of V3 models " \
      "arXiv:2412.19437, eq. 17-20), summed over layers; 0: none, whatever aux_loss_alpha the model's config.json " \
      "has (DeepSeek's have 0.001); the metric loss is without it") \
    X(rewards, reward, CONFIG_NONE, 0, 0, "overrides the config's reward, source by source") \
    X(rollout, rollout, CONFIG_NONE, 0, 0, "overrides keys of the config's rollout") \
    X(optimizer, optimizer, CONFIG_NONE, 0, 0, "overrides keys of the config's optimizer") \
    X(eval, eval, CONFIG_NONE, 0, 0, "overrides keys of the config's eval")
// clang-format on

#endif
