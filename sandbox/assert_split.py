# SPDX-License-Identifier: Apache-2.0
# Runs in a box, on the text of tests. Rewrites assert source as calls, so that results can be compared outside the
# program's process: every `assert f(...) == expected` becomes a record of the arguments and of what is expected, and
# the source is run to make them. Gives (entry, [(args, expected), ...]), or None where the tests say more than that.
import ast
import copy


def find_entry(tree):
    """The function under test; its name in the asserts; and the one other mention of it that is allowed."""
    last = tree.body[-1] if tree.body else None
    call = last.value if isinstance(last, ast.Expr) else None
    # HumanEval: `def check(candidate): ...`, `check(function)`.
    if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and len(call.args) == 1:
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.name == call.func.id and len(node.args.args) == 1:
                if isinstance(call.args[0], ast.Name):
                    return call.args[0].id, node.args.args[0].arg, call.args[0]
    # MBPP: bare asserts.
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert) and isinstance(node.test, ast.Compare):
            for side in (node.test.left, node.test.comparators[0]):
                if isinstance(side, ast.Call) and isinstance(side.func, ast.Name):
                    return side.func.id, side.func.id, None
    return None, None, None


class Rewrite(ast.NodeTransformer):
    def __init__(self, name):
        self.name = name

    def is_call(self, node):
        plain = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        return plain and node.func.id == self.name and not node.keywords

    def visit_Assert(self, node):
        test = node.test
        if not (isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq)):
            return node
        call, want = test.left, test.comparators[0]
        if not self.is_call(call):
            call, want = want, call
        if not self.is_call(call):
            return node
        args = ast.List(call.args, ast.Load())
        record = ast.Call(ast.Name("__record__", ast.Load()), [args, want], [])
        return ast.copy_location(ast.Expr(record), node)


def split(text):
    tree = ast.parse(text)
    entry, name, allowed = find_entry(tree)
    if entry is None:
        return None
    tree = ast.fix_missing_locations(Rewrite(name).visit(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in (entry, name) and node is not allowed:
            return None
    calls = []

    def record(args, want):
        calls.append(copy.deepcopy((args, want)))

    exec(compile(tree, "<tests>", "exec"), {"__name__": "tests", "__record__": record, entry: None})
    return (entry, calls) if calls else None
