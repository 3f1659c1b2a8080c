"""Find the names of CuPy that a source file uses and the installed CuPy does not have."""

import ast
import importlib
import warnings
from types import ModuleType

LIBRARIES = ("cupy", "cupyx", "cupy_backends")


def missing_names(source):
    """List (line, dotted name) of what ``source`` takes from CuPy and is not there.

    Followed are imports, ``name = cupy.some.thing``, ``with cupy.some.Thing() as name`` and calls
    of a class (``cupy.cuda.Device(0).use``). Not followed are attributes of what a function
    returns, since nothing can tell without a GPU what it is.
    """
    tree = ast.parse(source)
    known = _imported_names(tree)
    while (longer := known | _assigned_names(tree, known)) != known:
        known = longer
    used = {(0, dotted) for dotted in known.values()}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and (dotted := _dotted(node, known)):
            used.add((node.lineno, dotted))
    return sorted(each for each in used if _resolve(each[1]) is None)


def _imported_names(tree):
    known = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in filter(lambda alias: _is_cupy(alias.name), node.names):
                first = alias.name.partition(".")[0]
                known[alias.asname or first] = alias.name if alias.asname else first
        elif isinstance(node, ast.ImportFrom) and not node.level and _is_cupy(node.module):
            known |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return known


def _is_cupy(module):
    return module.partition(".")[0] in LIBRARIES


def _assigned_names(tree, known):
    pairs = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target, value = node.targets[0], node.value
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                pairs += zip(target.elts, value.elts, strict=True)
            else:
                pairs.append((target, value))
        elif isinstance(node, ast.withitem):
            pairs.append((node.optional_vars, node.context_expr))
    named = [(t.id, _dotted(v, known)) for t, v in pairs if isinstance(t, ast.Name)]
    return {name: dotted for name, dotted in named if dotted}


def _dotted(node, known):
    """Write an expression as a dotted name of CuPy; an instance goes by the name of its class."""
    if isinstance(node, ast.Name):
        return known.get(node.id)
    if isinstance(node, ast.Attribute) and (parent := _dotted(node.value, known)):
        return None if _resolve(parent) is _ANYTHING else f"{parent}.{node.attr}"
    if isinstance(node, ast.Call) and (called := _dotted(node.func, known)):
        return called if isinstance(_resolve(called), type) else None
    return None


_ANYTHING = object()


def _resolve(dotted):
    """Return the module or class of that name, _ANYTHING for another object, None for nothing."""
    first, *rest = dotted.split(".")
    found = importlib.import_module(first)
    path = first
    for part in rest:
        path = f"{path}.{part}"
        if hasattr(found, part):
            found = getattr(found, part)
        elif isinstance(found, ModuleType) and _has_module(path):
            found = importlib.import_module(path)
        else:
            return None
    return found if isinstance(found, ModuleType | type) else _ANYTHING


def _has_module(path):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # CuPy's, where NCCL is missing
            importlib.import_module(path)
    except ImportError as error:
        return not isinstance(error, ModuleNotFoundError)
    return True
