# SPDX-License-Identifier: Apache-2.0
"""What the quickstart learns: the tables of the README, made from runs.

usage: quickstart.py seeds   GRADUS OUT [SEED ...]   runs the quickstart with each seed (default 1 2 3)
       quickstart.py rewards GRADUS RUN OUT          the GRPO stage of a finished run again, from its SFT checkpoint
                                                     and with its PRM: outcome, process and both, credit min and sum

Run it from the top of the tree; GRADUS is the program. Runs that are there already are not repeated. The tables are
printed as Markdown; intervals are of 95 %, over problems.
"""
import json
import os
import subprocess
import sys

CONFIG = "configs/quickstart.json"
SOURCES = ("games", "programs")


def metrics(run):
    with open(os.path.join(run, "metrics.jsonl")) as f:
        return [json.loads(line) for line in f]


def finished(run):
    try:
        with open(os.path.join(run, "status.json")) as f:
            return json.load(f)["state"] == "done"
    except FileNotFoundError:
        return False


def train(gradus, run, config, *settings):
    if not finished(run):
        command = [gradus, "train", config, "--run", run]
        for setting in settings:
            command += ["--set", setting]
        subprocess.run(command, check=True)
    return metrics(run)


def last(rows, stage, key):
    """The last value of a key in a stage; at the start of a stage, the value is of the stage before."""
    return [row[key] for row in rows if row["stage"] == stage and key in row][-1]


def mean(rows, stage, key, share=1.0):
    """The mean of a key over the last share of a stage's steps."""
    values = [row[key] for row in rows if row["stage"] == stage and row.get(key) is not None]
    values = values[-max(1, int(len(values) * share)):]
    return sum(values) / len(values)


def rate(rows, stage, source):
    low, high = (last(rows, stage, f"eval/{source}/pass@1_{end}") for end in ("low", "high"))
    return f"{100 * last(rows, stage, f'eval/{source}/pass@1'):.1f} ({100 * low:.1f} to {100 * high:.1f})"


def gain(rows, source):
    key = f"eval/{source}/pass@1"
    return 100 * (last(rows, "grpo", key) - last(rows, "sft", key))


def table(header, rows):
    print("| " + " | ".join(header) + " |\n|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def seconds(run):
    with open(os.path.join(run, "status.json")) as f:
        return {stage["name"]: stage["seconds"] for stage in json.load(f)["stages"]}


def seeds_tables(runs):
    table(["seed"] + [f"{source}, after {stage}" for source in SOURCES for stage in ("SFT", "GRPO")] +
          ["gain, games", "gain, programs"],
          [[seed] + [rate(rows, stage, source) for source in SOURCES for stage in ("sft", "grpo")] +
           [f"{gain(rows, source):+.1f}" for source in SOURCES] for seed, (_, rows) in runs.items()])
    table(["seed", "PRM: accuracy", "always the commoner label", "AUC", "AUC during GRPO", "largest `logp_diff_max`"],
          [[seed, f"{100 * mean(rows, 'prm', 'process/prm_accuracy', 0.2):.1f} %",
            f"{100 * mean(rows, 'prm', 'process/majority_accuracy', 0.2):.1f} %",
            f"{mean(rows, 'prm', 'process/prm_auc', 0.2):.3f}", f"{mean(rows, 'grpo', 'process/prm_auc'):.3f}",
            f"{max(row['sampling/logp_diff_max'] for row in rows if 'sampling/logp_diff_max' in row):g}"]
           for seed, (_, rows) in runs.items()])
    split = ("time/rollout", "time/reward", "time/update")
    table(["seed", "SFT", "PRM", "GRPO", "of a GRPO step: rollout", "reward", "update"],
          [[seed] + [f"{seconds(run)[stage]:.0f} s" for stage in ("sft", "prm", "grpo")] +
           [f"{mean(rows, 'grpo', key):.2f} s" for key in split] for seed, (run, rows) in runs.items()])


def seeds(gradus, out, names):
    os.makedirs(out, exist_ok=True)
    runs = {}
    for seed in names or ["1", "2", "3"]:
        run = os.path.join(out, f"seed-{seed}")
        runs[seed] = run, train(gradus, run, CONFIG, f"run.seed={seed}", f"model.init_seed={seed}")
    seeds_tables(runs)


def rewards(gradus, run, out):
    os.makedirs(out, exist_ok=True)
    with open(os.path.join(run, "config.json")) as f:
        config = json.load(f)
    before = sum(stage["steps"] for stage in config["stages"] if stage["kind"] != "grpo")
    checkpoint = os.path.join(run, "checkpoints", f"step-{before:06d}")
    config["stages"] = [stage for stage in config["stages"] if stage["kind"] == "grpo"]
    config.update(model=checkpoint, prm=os.path.join(checkpoint, "prm"))
    config.pop("tokenizer", None)
    own = config["stages"][0]["advantage"]
    runs = {}
    for name, outcome, process, credit in (("outcome", 1, 0, "sum"), ("process, sum", 0, 1, "sum"),
                                           ("process, min", 0, 1, "min"), ("both, sum", 1, own["process"], "sum"),
                                           ("both, min", 1, own["process"], "min")):
        path = os.path.join(out, name.replace(", ", "-"))
        config["stages"][0]["advantage"] = dict(own, outcome=outcome, process=process, credit=credit)
        with open(path + ".json", "w") as f:
            json.dump(config, f, indent=1)
        runs[name] = train(gradus, path, path + ".json")
    first = next(iter(runs.values()))
    at_start = next(row for row in first if "eval/games/pass@1" in row)
    table(["advantage from"] + [f"{source}, pass@{k}" for source in SOURCES for k in (1, 4)] + ["tokens a game sample"],
          [["before GRPO"] +
           [f"{100 * at_start[f'eval/{source}/pass@{k}']:.1f}" for source in SOURCES for k in (1, 4)] +
           [f"{at_start['eval/games/mean_length']:.1f}"]] +
          [[name] +
           [f"{100 * last(rows, 'grpo', f'eval/{source}/pass@{k}'):.1f}" for source in SOURCES for k in (1, 4)] +
           [f"{last(rows, 'grpo', 'eval/games/mean_length'):.1f}"] for name, rows in runs.items()])


if len(sys.argv) >= 4 and sys.argv[1] == "seeds":
    seeds(sys.argv[2], sys.argv[3], sys.argv[4:])
elif len(sys.argv) == 5 and sys.argv[1] == "rewards":
    rewards(*sys.argv[2:])
else:
    sys.exit(__doc__)
