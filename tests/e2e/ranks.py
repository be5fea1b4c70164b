# SPDX-License-Identifier: Apache-2.0
"""Runs of several processes: they write what one process writes, and a rank that fails ends all of them.

usage: ranks.py GRADUS CONFIG MPIRUN [--set KEY=VALUE]...     (TAP on standard output; MPIRUN empty: no MPI)

Ranks are started by mpirun, and, where a test needs to reach one of them or there is no MPI, as torchrun does it: by
RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT. What is mpirun's own is skipped without it, and counted. Where the
environment asks NCCL to let ranks share a GPU (NCCL_MULTI_RANK_GPU_ENABLE), all is skipped unless it does.
"""
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import tap
from runs import metrics
from tap import report

gradus, config, mpirun, *settings = os.path.abspath(sys.argv[1]), *sys.argv[2:]
# As root, and on more ranks than there are cores; Open MPI's shared memory asks for what containers forbid.
MPI = [mpirun, "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "--mca",
       "btl_vader_single_copy_mechanism", "none"]
SHARDS = ("--set", "run.gradient_shards=4")
LONG = ("--set", "stages.0.steps=1000000", "--set", "stages.0.batch=128", "--set", "eval.every=0",
        "--set", "run.save_total_limit=3")
ENDLESS = 120  # seconds after which a test gives up waiting
environment = dict(os.environ)
for name in list(environment):  # of a launcher that started this script
    if name.startswith(("OMPI_", "PMI", "SLURM_")) or name in ("RANK", "WORLD_SIZE"):
        del environment[name]
# What Open MPI does not free at its end is not this program's; ranks without it are looked at.
of_mpi = dict(environment, ASAN_OPTIONS=environment.get("ASAN_OPTIONS", "") + ":detect_leaks=0")


def skip(name):
    tap.skip(name, "this build has no MPI")


def command(run, *more, of=config):
    return [gradus, "train", of, "--run", run, *settings, *more]


def unused_port():
    """Rank 0 listens on the port after MASTER_PORT."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1] - 1


def start(n, run, *more, stderr=subprocess.PIPE, of=config, folders=None, last=(), last_program=None):
    """n ranks of one run by sockets, each in its folder; last: arguments and program of the last rank alone."""
    port = str(unused_port())
    ranks = []
    for rank in range(n):
        env = dict(environment, RANK=str(rank), WORLD_SIZE=str(n), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(n),
                   MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        own = (*more, *last) if rank == n - 1 else more
        words = command(run, *own, of=of)
        if last_program and rank == n - 1:
            words[0] = last_program
        ranks.append(subprocess.Popen(words, env=env, stderr=stderr, text=True,
                                      cwd=folders[rank] if folders else None))
    return ranks


def end(ranks):
    """Exit codes and words of all ranks."""
    said = [r.communicate(timeout=ENDLESS)[1] for r in ranks]
    return [r.returncode for r in ranks], "".join(x for x in said if x)


def run_alone(run, *more):
    done = subprocess.run(command(run, *more), stderr=subprocess.PIPE, text=True, env=environment)
    return done.returncode, done.stderr


def run_ranks(n, run, *more):
    if not mpirun:
        codes, said = end(start(n, run, *more))
        return max(codes, key=abs), said
    done = subprocess.run([*MPI, "-n", str(n), *command(run, *more)], stderr=subprocess.PIPE, text=True, env=of_mpi,
                          timeout=ENDLESS)
    return done.returncode, done.stderr


def comparable(line):
    return {k: v for k, v in line.items()
            if k not in ("time", "step_time", "eval/seconds") and not k.startswith(("time/", "comm/"))}


def files(run):
    """Contents of the last checkpoint and the traces; what holds times is left out."""
    checkpoints = os.path.join(run, "checkpoints")
    found = {}
    for top in (os.path.join(checkpoints, max(os.listdir(checkpoints))), os.path.join(run, "traces")):
        for folder, _, names in os.walk(top):
            for name in names:
                if name not in ("state.json", "MANIFEST.json"):
                    path = os.path.join(folder, name)
                    with open(path, "rb") as f:
                        found[os.path.relpath(path, run)] = f.read()
    return found


def differences(a, b):
    """Names of files, and of the first metric, in which two runs differ."""
    fa, fb = files(a), files(b)
    found = [n for n in sorted(fa.keys() | fb.keys()) if fa.get(n) != fb.get(n)]
    la, lb = [comparable(x) for x in metrics(a)], [comparable(x) for x in metrics(b)]
    for i, (x, y) in enumerate(zip(la, lb)):
        if x != y:
            found.append(f"metrics, line {i + 1}: " + ", ".join(k for k in x.keys() | y.keys() if x.get(k) != y.get(k)))
            break
    if len(la) != len(lb):
        found.append(f"{len(la)} and {len(lb)} lines of metrics")
    return ", ".join(found)


def report_same(reference, run, name, result):
    good = result[0] == 0
    different = differences(reference, run) if good else ""
    report(good and not different and len(files(run)) > 8, name, f"exit code {result[0]}\n{result[1]}\n{different}")


def parameters(checkpoint):
    """Elements and tensors of a model file."""
    with open(os.path.join(checkpoint, "model.safetensors"), "rb") as f:
        header = json.loads(f.read(int.from_bytes(f.read(8), "little")))
    header.pop("__metadata__")
    sizes = [(t["data_offsets"][1] - t["data_offsets"][0]) // 4 for t in header.values()]
    return sum(sizes), len(sizes)


def skip_without_nccl(work):
    code, said = run_ranks(2, os.path.join(work, "nccl"))
    if code == 5 and "NCCL, start" in said or code == 0 and "by NCCL" not in said:
        print("1..0 # SKIP ranks cannot share a GPU by NCCL here: " + said.strip().splitlines()[0])
        sys.exit()


# ---- the same result

def check_same_bits(work):
    one = os.path.join(work, "one")
    code, said = run_alone(one, *SHARDS)
    if code == 5:  # this system forbids what the sandbox is built of
        print("1..0 # SKIP " + said.strip().replace("\n", " "))
        sys.exit()
    report(code == 0 and len(metrics(one)) > 16, "one process runs four shards", said)
    for n, more, words in ((2, (), ""), (4, (), ""), (4, (), ", and again"),
                           (2, ("--set", "run.expert_parallel=2"), ", experts divided among 2"),
                           (4, ("--set", "run.expert_parallel=2"), ", experts divided among 2"),
                           (4, ("--set", "run.expert_parallel=4"), ", experts divided among 4")):
        run = os.path.join(work, "many")
        shutil.rmtree(run, ignore_errors=True)
        report_same(one, run, f"{n} ranks write the bytes of one process{words}", run_ranks(n, run, *SHARDS, *more))
        zero = [x["sampling/logp_diff_max"] for x in metrics(run) if "sampling/logp_diff_max" in x]
        report(len(zero) == 5 and not any(zero),
               f"rollout and update of {n} ranks have the same log-probabilities{words}", f"{zero}")
    run = os.path.join(work, "sockets")
    codes, said = end(start(3, run, "--set", "run.gradient_shards=12"))
    same = os.path.join(work, "twelve")
    result = run_alone(same, "--set", "run.gradient_shards=12")
    report_same(same, run, "3 ranks by sockets write the bytes of one process", (max(codes) or result[0], said))
    return one


def check_rounding(work):
    """One shard a rank: sums in another order. Supervised steps see the same tokens whatever was rounded, but AdamW
    makes whole steps of gradients that are all rounding: measured 6e-9 and 2e-6 on two CPUs, and up to 1e-5 on one
    rank that cuts its micro-batches otherwise. A sum that misses a rank's part is off by a tenth and more."""
    name = "without shards, 2 and 4 ranks have the loss of one within rounding"
    plain = os.path.join(work, "plain")
    code, said = run_alone(plain)
    worst, at = 0.0, ""
    for n in (2, 4):
        run = os.path.join(work, f"plain{n}")
        done, more = run_ranks(n, run)
        code, said = code or done, said + more
        for x, y in zip(metrics(plain), metrics(run)):
            if x["stage"] == "sft" and "loss" in x:
                off = abs(x["loss"] - y["loss"]) / abs(x["loss"])
                if off > worst:
                    worst, at = off, f"{n} ranks, step {x['step']}"
    print(f"# the losses of the sft stage differ by at most {worst:.1e} of themselves ({at})")
    report(code == 0 and 0 < worst < 1e-4, name, said)


def check_traffic(work):
    detail = []
    for n in (2, 4):
        run = os.path.join(work, f"plain{n}")
        size, tensors = parameters(os.path.join(run, "checkpoints", "step-000008"))
        for x in metrics(run):
            if x["stage"] != "sft" or "loss" not in x:
                continue
            block = x["comm/weight_bytes"] / (n - 1) / 4  # of one update: P, each param filled up to 16
            if x["comm/gradient_bytes"] != x["comm/weight_bytes"] or not size <= block <= size + 16 * tensors:
                detail.append(f"{n} ranks, step {x['step']}: {x['comm/gradient_bytes']}, {x['comm/weight_bytes']}")
            parts = sum(x[f"comm/{k}_bytes"] for k in ("control", "gradient", "weight", "expert", "sample"))
            if parts != x["comm/bytes"]:
                detail.append(f"{n} ranks, step {x['step']}: the parts are {parts}, all is {x['comm/bytes']}")
    report(not detail, "bytes sent in a step are what the formula says", "\n".join(detail))


# ---- resuming

def signal_in(stage, rank, run, n, *more):
    """Sends SIGUSR1 to a rank when rank 0 has said how its first step in this stage went. What it says goes through a
    pipe of one packet, so that it cannot be further than two lines ahead."""
    reader, writer = os.pipe2(os.O_DIRECT | os.O_CLOEXEC)
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    ranks = start(n, run, *more, stderr=writer)
    os.close(writer)
    said, sent = "", False
    while packet := os.read(reader, 4096).decode():
        said += packet
        if packet.startswith(stage + " ") and not sent:
            ranks[rank].send_signal(signal.SIGUSR1)
            sent = True
    os.close(reader)
    return [r.wait(timeout=ENDLESS) for r in ranks], said


def check_resume(work, one):
    run = os.path.join(work, "resumed")
    codes, said = signal_in("sft", 3, run, 4, *SHARDS)
    report(codes == [75] * 4, "a signal to one of 4 ranks saves and ends all with 75", f"{codes}\n{said}")
    codes, said = signal_in("prm", 0, run, 2, *SHARDS, "--resume")
    report(codes == [75] * 2, "2 ranks go on, are interrupted and save", f"{codes}\n{said}")
    report_same(one, run, "resumed by 2 and then by 1, a run of 4 ranks ends with the bytes of one",
                run_alone(run, *SHARDS, "--resume"))


# ---- failures

def wait_for(run, line, ranks):
    """Until the run has written that many lines of metrics."""
    limit = time.monotonic() + ENDLESS
    while time.monotonic() < limit and all(r.poll() is None for r in ranks):
        try:
            if len(metrics(run)) >= line:
                return True
        except (OSError, ValueError):
            pass
        time.sleep(0.05)
    return False


def check_killed(work):
    run = os.path.join(work, "killed")
    ranks = start(4, run, *LONG)
    begun = wait_for(run, 4, ranks)
    ranks[2].kill()
    killed = time.monotonic()
    codes, said = end(ranks)
    took = time.monotonic() - killed
    good = begun and codes == [5, 5, -signal.SIGKILL, 5] and said.count("gradus: rank 2 (process") == 1 and took < 10
    report(good and "has died" in said, "a rank that is killed ends all within 10 s, and one line names it",
           f"{codes} after {took:.1f} s\n{said[-2000:]}")
    with open(os.path.join(run, "status.json")) as f:
        report(json.load(f)["state"] == "failed", "status.json says that the run failed")
    codes, said = signal_in("sft", 1, run, 2, *LONG, "--resume")
    report(codes == [75, 75] and f"resuming from {run}/checkpoints/step-" in said,
           "its last checkpoint is whole and is gone on from", f"{codes}\n{said[-2000:]}")


def check_killed_by_mpi(work):
    name = "under mpirun a rank that is killed is named"
    if not mpirun:
        skip(name)
        return
    run = os.path.join(work, "mpi-killed")
    job = subprocess.Popen([*MPI, "-n", "3", *command(run, *LONG)], stderr=subprocess.PIPE, text=True, env=of_mpi)
    begun = wait_for(run, 4, [job])
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(job.pid)], stdout=subprocess.PIPE, text=True)
    pids = sorted(int(x) for x in children.stdout.split())
    os.kill(pids[1], signal.SIGKILL)
    _, said = job.communicate(timeout=ENDLESS)
    report(begun and len(pids) == 3 and job.returncode != 0 and f"(process {pids[1]} on" in said and
           "has died" in said, name, f"{job.returncode}, {pids}\n{said[-2000:]}")


def check_stalled(work):
    run = os.path.join(work, "stalled")
    ranks = start(3, run, *LONG, "--set", "run.comm_timeout_seconds=2")
    begun = wait_for(run, 4, ranks)
    ranks[1].send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    ends = [ranks[0].communicate(timeout=ENDLESS)[1], ranks[2].communicate(timeout=ENDLESS)[1]]
    took = time.monotonic() - stopped
    ranks[1].send_signal(signal.SIGCONT)
    ranks[1].communicate(timeout=ENDLESS)
    codes = [r.returncode for r in ranks]
    report(begun and codes == [5, 5, 5] and "gradus: rank 1 (process" in ends[0] and "has stalled" in ends[0] and
           took < 12, "a rank that stalls is named after the timeout, and all end", f"{codes} after {took:.1f} s\n"
           f"{ends[0][-1000:]}{ends[1][-1000:]}")


def check_rank_error(work):
    """A rank that cannot find what the others find ends all with its code."""
    run, folders = os.path.join(work, "error"), [os.path.join(work, x) for x in ("with", "without")]
    own = os.path.join(work, "own", "config.json")
    for folder in (*folders, os.path.dirname(own)):
        os.makedirs(folder)
    write_data(folders[0], 1)
    with open(config) as f:
        text = "".join(x for x in f if not x.startswith("//"))
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(config))))
    text = text.replace("configs/data/", os.path.join(root, "configs/data/"))
    text = text.replace('"data": {', '"data": { "rows": {"file": "rows.jsonl", "for": "eval"},')
    with open(own, "w") as f:
        f.write(text)
    codes, said = end(start(2, run, of=own, folders=folders))
    report(codes == [3, 3] and "gradus: rank 1: " in said and "rows.jsonl" in said and said.count("gradus:") == 1,
           "the error of one rank is said once, with its rank, and is the exit code of all", f"{codes}\n{said}")
    return own, folders


def write_data(folder, answer):
    with open(os.path.join(folder, "rows.jsonl"), "w") as f:
        f.write(json.dumps({"prompt": "1+1=", "completion": f"{answer}"}) + "\n")


def check_disagreement(work, model, own, folders):
    write_data(folders[1], 2)
    codes, said = end(start(2, os.path.join(work, "data"), of=own, folders=folders))
    report(codes == [3, 3] and "disagree in content of the data files (rank 1: " in said and
           said.count("gradus:") == 1, "ranks with other data are refused, and named", f"{codes}\n{said}")
    for folder in folders:
        write_data(folder, 1)
        shutil.copytree(model, os.path.join(folder, "model"))
    with open(os.path.join(folders[1], "model", "model.safetensors"), "r+b") as f:
        f.seek(-4, os.SEEK_END)
        f.write(b"\0\0\x80\x3f")
    codes, said = end(start(2, os.path.join(work, "weights"), "--set", 'model="model"', of=own, folders=folders))
    report(codes == [4, 4] and "disagree in weights (rank 1: " in said,
           "ranks with other weights are refused, and named", f"{codes}\n{said}")
    codes, said = end(start(3, os.path.join(work, "configs"), last=("--set", "run.seed=8")))
    report(codes == [2, 2, 2] and "disagree in config (rank 2: " in said and said.count("gradus:") == 1,
           "ranks with other configs are refused, and named", f"{codes}\n{said}")


def check_programs(work):
    other = os.path.join(work, "gradus")
    shutil.copy(gradus, other)
    with open(other, "ab") as f:  # the same code; who would know
        f.write(b"x")
    codes, said = end(start(2, os.path.join(work, "programs"), last_program=other))
    report(codes == [5, 5] and "disagree in build of the program (rank 1: " in said,
           "ranks with other programs are refused, and named", f"{codes}\n{said}")


with tempfile.TemporaryDirectory() as top:
    if "NCCL_MULTI_RANK_GPU_ENABLE" in environment:
        skip_without_nccl(top)
    alone = check_same_bits(top)
    check_rounding(top)
    check_traffic(top)
    check_resume(top, alone)
    check_killed(top)
    check_killed_by_mpi(top)
    check_stalled(top)
    own_config, two_folders = check_rank_error(top)
    check_programs(top)
    check_disagreement(top, os.path.join(alone, "checkpoints", "step-000008"), own_config, two_folders)
tap.end()
