"""Answers what CPython makes of a condition: one JSON request a line in, one JSON answer a line out.

Each expression is evaluated twice. The first time every node is watched, to see whether it meets one
of the limits that the agent has and Python has not; the second time it is plain `eval`.
"""

import ast
import json
import signal
import sys
import warnings

SECONDS_MAX = 1800
INTEGER_MIN, INTEGER_MAX = -(2**127), 2**127 - 1
TEXT_BYTES_MAX = 16 * 1024
SEQUENCE_ITEMS_MAX = 4096
BUILTINS = {f.__name__: f for f in (abs, max, min, sum, len, round, float, int, bool)}


class Met(BaseException):
    """A limit; no exception of Python's, so that nothing takes it for one."""


class Ctx:
    __slots__ = ("value", "sensor_name", "timestamp", "unit", "metadata")

    def __init__(self, request):
        self.value = float(request["value"])
        self.sensor_name = request["sensor_name"]
        self.timestamp = float(request["timestamp"])
        self.unit = request["unit"]
        self.metadata = json.loads(request["metadata"])


class Previous:
    __slots__ = ("value", "timestamp")

    def __init__(self, request):
        self.value, self.timestamp = map(float, request["previous"]) if request["previous"] else (None, None)


class Window:
    __slots__ = ("mean", "max", "min", "std", "sum", "count", "start", "end")
    VALUES = (70.25, 90.0, -0.0, 1.5, 843.0, None, 1717156800.0, 1717156860.0)

    def __init__(self, request):
        for name, value in zip(self.__slots__, self.VALUES):
            known = request["window"] is not None
            setattr(self, name, request["window"] if name == "count" else value if known else None)


def names(request):
    return {"ctx": Ctx(request), "prev": Previous(request), "win": Window(request)}


def watch(value):
    if isinstance(value, int):
        if not INTEGER_MIN <= value <= INTEGER_MAX:
            raise Met("OverflowLimit")
    elif isinstance(value, complex):
        raise Met("Unsupported")
    elif isinstance(value, str):
        if len(value.encode()) > TEXT_BYTES_MAX:
            raise Met("Limit")
    elif isinstance(value, (list, tuple)):
        if len(value) > SEQUENCE_ITEMS_MAX:
            raise Met("Limit")
    return value


def watched_power(base, exponent):
    if isinstance(base, int) and isinstance(exponent, int) and exponent > 0 and abs(base) >= 2:
        if exponent * (abs(base).bit_length() - 1) > 127:
            raise Met("OverflowLimit")
    return watch(base**exponent)


def watched_shift(value, count):
    if isinstance(value, int) and isinstance(count, int) and value != 0 and count > 127:
        raise Met("OverflowLimit")
    return watch(value << count)


def watched_product(left, right):
    for sequence, times in ((left, right), (right, left)):
        if isinstance(sequence, (str, list, tuple)) and isinstance(times, int):
            if times < 2**63:
                size = len(sequence.encode()) if isinstance(sequence, str) else len(sequence)
                size_max = TEXT_BYTES_MAX if isinstance(sequence, str) else SEQUENCE_ITEMS_MAX
                if size * times > size_max:
                    raise Met("Limit")
    return watch(left * right)


def watched_modulo(left, right):
    if isinstance(left, str):
        raise Met("Unsupported")
    return watch(left % right)


def plain_sum(items, start=0, /):
    """Python 3.12 and later compensate; the agent adds as 3.11 does."""
    if isinstance(start, str):
        return sum([], start)
    iter(items)
    total = start
    for item in items:
        total = watch(total + item)
    return total


def keyword_sum(items, /, start=0):
    return plain_sum(items, start)


class Watcher(ast.NodeTransformer):
    OPERATORS = {ast.Pow: "_power", ast.LShift: "_shift", ast.Mult: "_product", ast.Mod: "_modulo"}

    def visit(self, node):
        node = super().visit(node)
        if isinstance(node, ast.BinOp) and type(node.op) in self.OPERATORS:
            name = ast.Name(self.OPERATORS[type(node.op)], ast.Load())
            return ast.Call(name, [node.left, node.right], [])
        if isinstance(node, (ast.BinOp, ast.UnaryOp, ast.Call, ast.Subscript)):
            return ast.Call(ast.Name("_watch", ast.Load()), [node], [])
        return node


WATCHED = dict(
    BUILTINS,
    sum=keyword_sum,
    _watch=watch,
    _power=watched_power,
    _shift=watched_shift,
    _product=watched_product,
    _modulo=watched_modulo,
    __builtins__={},
)
PLAIN = dict(BUILTINS, __builtins__={})
if sys.version_info >= (3, 12):
    PLAIN["sum"] = keyword_sum


def tagged(value):
    if value is None:
        return "None"
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int):
        return ["int", str(value)]
    if isinstance(value, float):
        return ["float", "nan" if value != value else value.hex()]
    if isinstance(value, str):
        return ["str", value]
    if isinstance(value, list):
        return ["list"] + [tagged(item) for item in value]
    if isinstance(value, tuple):
        return ["tuple"] + [tagged(item) for item in value]
    if isinstance(value, dict):
        return ["dict"] + [[tagged(key), tagged(item)] for key, item in value.items()]
    return ["other", type(value).__name__]


def answer(request):
    text = request["expression"]
    try:
        tree = ast.parse(text.strip(" \t\f\n\r"), "<condition>", "eval")
        code = compile(tree, "<condition>", "eval")
    except (SyntaxError, ValueError, OverflowError, MemoryError, RecursionError) as error:
        return {"syntax": type(error).__name__}
    given = names(request)
    try:
        watched = ast.fix_missing_locations(Watcher().visit(tree))
        eval(compile(watched, "<condition>", "eval"), dict(WATCHED, **given))
    except Met as met:
        return {"limit": str(met)}
    except Exception:
        pass
    try:
        return {"value": tagged(eval(code, dict(PLAIN, **given)))}
    except KeyError as error:
        # Slices are hashable since Python 3.12, so that a dict is asked for them.
        return {"error": "TypeError" if isinstance(error.args[0], slice) else "KeyError"}
    except Exception as error:
        return {"error": type(error).__name__}


def main():
    warnings.simplefilter("ignore")
    # Should the other side hang, this one does not outlive it for long.
    signal.alarm(SECONDS_MAX)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))))


main()
