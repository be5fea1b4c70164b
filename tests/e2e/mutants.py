# SPDX-License-Identifier: Apache-2.0
"""Published solutions, each damaged in one place: `gradus score` must call right exactly those whose tests pass in a
plain Python, which is asked as well. A damage that changes nothing that is tested is right in both.

usage: mutants.py GRADUS TESTDATA     (TAP on standard output)
"""
import ast
import copy
import gzip
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile

gradus, testdata = sys.argv[1], sys.argv[2]
MUTANTS = 2  # of a solution, at most
SWAPS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult,
         ast.Mod: ast.Add,
         ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
         ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And}


def damages(node):
    """Functions that damage this node in place."""
    if isinstance(node, (ast.BinOp, ast.BoolOp, ast.AugAssign)) and type(node.op) in SWAPS:
        yield lambda n: setattr(n, "op", SWAPS[type(n.op)]())
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        yield lambda n: n.ops.__setitem__(0, SWAPS[type(n.ops[0])]())
    if isinstance(node, ast.Constant) and type(node.value) in (int, bool):
        yield lambda n: setattr(n, "value", not n.value if isinstance(n.value, bool) else n.value + 1)
    if isinstance(node, ast.Return) and node.value is not None:
        yield lambda n: setattr(n, "value", ast.Tuple([n.value, ast.Constant(None)], ast.Load()))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield lambda n: setattr(n, "op", ast.UAdd())


def mutants(source):
    tree = ast.parse(source)
    places = [(i, k) for i, node in enumerate(ast.walk(tree)) for k, _ in enumerate(damages(node))]
    step = max(1, len(places) // MUTANTS)
    for i, k in places[step // 2::step][:MUTANTS]:
        mutant = copy.deepcopy(tree)
        node = list(ast.walk(mutant))[i]
        list(damages(node))[k](node)
        yield ast.unparse(ast.fix_missing_locations(mutant))


def passes(source, check):
    """In a fork of this Python: the solutions are not hostile, only damaged."""
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_RDWR), 0)
        os.dup2(0, 1)
        os.dup2(0, 2)
        resource.setrlimit(resource.RLIMIT_CPU, (1, 1))
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
        status = 1
        try:
            names = {"__name__": "__main__"}
            exec(compile(source, "<mutant>", "exec"), names)
            exec(compile(check, "<tests>", "exec"), names)
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1] == 0


def rows_of(name):
    with gzip.open(os.path.join(testdata, "data", "code", name), "rt", encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def cases():
    """(id, source of a mutant, source of the tests, the row's own fields of tests)."""
    for row in rows_of("HumanEval.jsonl.gz"):
        check = f"{row['test']}\n\ncheck({row['entry_point']})\n"
        for source in mutants(row["prompt"] + row["canonical_solution"]):
            yield row["task_id"], source, check, {k: row[k] for k in ("test", "entry_point")}
    for row in rows_of("mbpp.jsonl.gz")[::8]:
        check = "\n".join([row.get("test_setup_code") or "", *row["test_list"]])
        for source in mutants(row["code"]):
            yield f"MBPP/{row['task_id']}", source, check, {"test_list": row["test_list"],
                                                            "test_setup_code": row.get("test_setup_code") or ""}


def main():
    if not os.path.exists(os.path.join(testdata, "data", "code", "HumanEval.jsonl.gz")):
        print("1..0 # SKIP the published problems are not here")
        return 0
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    all_cases = list(cases())
    expected = [passes(source, check) for _, source, check, _ in all_cases]
    with tempfile.TemporaryDirectory(prefix="gradus-mutants-") as folder:
        data, reward, out = (os.path.join(folder, n) for n in ("mutants.jsonl", "reward.json", "out.jsonl"))
        with open(data, "w", encoding="utf-8") as f:
            for i, (name, source, _, tests) in enumerate(all_cases):
                completion = f"```python\n{source}\n```\n"
                f.write(json.dumps({"id": f"{name}#{i}", "prompt": "", "completion": completion, **tests}) + "\n")
        with open(reward, "w", encoding="utf-8") as f:
            f.write('[{"use": "code", "weight": 1, "time_limit": 1, "memory_mb": 1024}]')
        done = subprocess.run([gradus, "score", "--reward", reward, "--out", out, data], capture_output=True, text=True)
        if done.returncode == 5:
            print(f"1..0 # SKIP {done.stderr.strip()}".replace("\n", " "))
            return 0
        rows = [json.loads(line) for line in open(out, encoding="utf-8")] if done.returncode == 0 else []
    print("1..3")
    print(f"# {done.stderr.strip()}".replace("\n", "\n# "))
    wrong = [f"{c[0]}: {r}" for c, e, r in zip(all_cases, expected, rows) if (r["reward"]["value"] == 1) != e]
    print("\n".join(f"# {line[:300]}" for line in wrong[:20]))
    failed = sum(not e for e in expected)
    print(f"# {len(all_cases)} mutants, of which {failed} fail in a plain Python")
    results = [(len(rows) == len(all_cases), "every mutant is scored"),
               (not wrong, "mutants are judged as a plain Python does"),
               (failed > len(all_cases) // 2, "most damages are found by the tests")]
    for number, (good, name) in enumerate(results, 1):
        print(f"{'ok' if good else 'not ok'} {number} - {name}")
    return not all(good for good, _ in results)


sys.exit(main())
