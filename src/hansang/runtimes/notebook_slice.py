"""Which statements of a notebook a name needs: a backward slice over its top-level statements.

It decides; it runs nothing and reads no file.

Rule 1  A statement is needed if it binds a name that is needed below it, or at the end, where the wanted name is used.
Rule 2  ... or if it may change the object of such a name: `model.fit(x, y)`, `data["a"] = 1`, `train(model)`, a
        training loop. Shown values, plots, saved files and talk with the outside are no changes.
Rule 3  What it reads is needed too; what a function reads is needed where the function is.
Rule 4  A sure binding (`x = ...`) makes what was bound to that name above it needless.

Where it cannot tell, it takes the statement: an untrained model would be a silent wrong answer, a needless statement
only costs time.
"""

from __future__ import annotations

import ast
import symtable
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field

from hansang.runtimes.notebook_changes import (
    BUILTINS,
    COMPOUND,
    FUNCTIONS,
    World,
    changes_of,
    is_harmless,
    root_of,
    survey,
)

_ALWAYS = ("os.environ", "sys.path", "load_dotenv", "dotenv.load_dotenv")
"""What is changed here shows elsewhere without being named there."""


@dataclass(frozen=True, slots=True)
class Slice:
    """The statements to run, by index, and the names that nothing binds."""

    indexes: tuple[int, ...]
    unbound: frozenset[str]


@dataclass(slots=True)
class _Facts:
    """One top-level statement: what happens when it runs, and when functions it defines are called later."""

    reads: set[str] = field(default_factory=set)
    binds: set[str] = field(default_factory=set)
    changes: set[str] = field(default_factory=set)
    later_reads: set[str] = field(default_factory=set)
    later_changes: set[str] = field(default_factory=set)
    calls: set[str] = field(default_factory=set)
    sure: bool = False
    always: bool = False
    star: bool = False


@dataclass(frozen=True, slots=True)
class _State:
    """For each name bound so far: what is read, and what is changed, when what it stands for is called or used."""

    later: dict[str, set[str]]
    effects: dict[str, set[str]]


def needed(statements: Sequence[ast.stmt], wanted: str) -> Slice:
    """The statements that `wanted` needs, in order."""
    world = survey(statements)
    facts = [_facts(statement, world) for statement in statements]
    states = _states(facts, world)
    bound = {name for fact in facts for name in fact.binds | fact.later_changes} | BUILTINS
    live = _reach({wanted}, states[-1].later)
    chosen = []
    for index in range(len(facts) - 1, -1, -1):
        fact, state = facts[index], states[index + 1]
        changes = _reach(fact.changes, world.holds)
        for name in _reach(fact.calls, state.later):
            changes |= state.effects.get(name, set())
        if fact.always or (fact.star and live - bound) or live & fact.binds or live & changes:
            chosen.append(index)
            if fact.sure:
                live -= fact.binds
            live |= _reach(fact.reads, state.later)
    stars = any(facts[index].star for index in chosen)
    return Slice(tuple(reversed(chosen)), frozenset() if stars else frozenset(live - bound))


def _states(facts: Sequence[_Facts], world: World) -> list[_State]:
    """The state before each statement, and at the end."""
    states = [_State({}, {})]
    for fact in facts:
        state = _State(dict(states[-1].later), dict(states[-1].effects))
        for name in fact.binds:
            made_of = fact.later_reads | (fact.reads & world.defined) | world.holds.get(name, set())
            before = _State({}, {}) if fact.sure else state
            state.later[name] = before.later.get(name, set()) | made_of
            state.effects[name] = before.effects.get(name, set()) | fact.later_changes
        states.append(state)
    return states


def _reach(names: Iterable[str], edges: Mapping[str, set[str]]) -> set[str]:
    """The names, and all that can be reached from them."""
    reached: set[str] = set()
    ahead = list(names)
    while ahead:
        name = ahead.pop()
        if name not in reached:
            reached.add(name)
            ahead.extend(edges.get(name, ()))
    return reached


def _facts(statement: ast.stmt, world: World) -> _Facts:
    facts = _Facts()
    try:
        plain = _Generators().visit(deepcopy(statement))
        table = symtable.symtable(ast.unparse(plain), "cell", "exec")
    except SyntaxError:  # a `return` at top level, say; running it will tell, if it is needed
        return facts
    _read_scope(table, facts, later=False)
    if isinstance(statement, ast.AugAssign):
        facts.reads |= facts.binds
    facts.sure = _is_sure(statement)
    facts.changes = changes_of([statement], world)
    for node in ast.walk(statement):
        if isinstance(node, FUNCTIONS):
            facts.later_changes |= changes_of(node.body, world) & facts.later_reads
    facts.always = _reaches_everywhere(statement)
    facts.star = isinstance(statement, ast.ImportFrom) and statement.names[0].name == "*"
    facts.calls = _calls(statement, world)
    return facts


class _Generators(ast.NodeTransformer):
    """Makes all comprehensions generators: from Python 3.12 on, only those have a scope of their own in `symtable`."""

    def visit_ListComp(self, node: ast.ListComp) -> ast.AST:
        return self.generic_visit(ast.GeneratorExp(node.elt, node.generators))

    def visit_SetComp(self, node: ast.SetComp) -> ast.AST:
        return self.generic_visit(ast.GeneratorExp(node.elt, node.generators))

    def visit_DictComp(self, node: ast.DictComp) -> ast.AST:
        pair = ast.Tuple([node.key, node.value], ast.Load())
        return self.generic_visit(ast.GeneratorExp(pair, node.generators))


def _calls(statement: ast.stmt, world: World) -> set[str]:
    """The names that are called, or given as functions to be called, when the statement runs."""
    if isinstance(statement, (*FUNCTIONS, ast.ClassDef)):
        return set()
    called: set[str] = set()
    for node in ast.walk(statement):
        if isinstance(node, ast.Call):
            shows = isinstance(statement, ast.Expr) and node is statement.value and is_harmless(node, world)
            parts = [*node.args, *(word.value for word in node.keywords)]
            called |= {part.id for part in parts if isinstance(part, ast.Name) and part.id in world.defined}
            called |= set() if shows else {root_of(node.func) or ""}
    return called


def _is_sure(statement: ast.stmt) -> bool:
    """Whether what it binds is bound for certain."""
    if isinstance(statement, (ast.With, ast.AsyncWith)):
        return not any(isinstance(part, COMPOUND) for part in statement.body)
    return not isinstance(statement, (ast.AugAssign, *COMPOUND))


def _read_scope(table: symtable.SymbolTable, facts: _Facts, *, later: bool) -> None:
    """Sort the names of a scope and those inside it into reads and binds, now and later."""
    top = table.get_type() == "module"
    for symbol in table.get_symbols():
        name = symbol.get_name()
        if not (top or symbol.is_global()):
            continue
        if symbol.is_referenced():
            (facts.later_reads if later else facts.reads).add(name)
        if symbol.is_assigned() or symbol.is_imported():
            if later:
                facts.later_changes.add(name)
            else:
                facts.binds.add(name)
    for child in table.get_children():
        function = child.get_type() == "function" and child.get_name() != "genexpr"
        _read_scope(child, facts, later=later or function)
        if function and child.get_name() == "lambda" and not later:
            _read_scope(child, facts, later=False)


def _reaches_everywhere(statement: ast.stmt) -> bool:
    """`sys.path.append(...)`, `os.environ["KEY"] = ...`, `load_dotenv()`, `from __future__ import ...`."""
    if isinstance(statement, ast.ImportFrom):
        return statement.module == "__future__"
    parts: list[ast.expr] = []
    if isinstance(statement, ast.Assign):
        parts = list(statement.targets)
    elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        parts = [statement.value.func]
    return any(ast.unparse(part).startswith(_ALWAYS) for part in parts)
