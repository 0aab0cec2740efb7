"""What a piece of a notebook's code may change, judged by its shape alone: an approximation for `notebook_slice`.

A method called as a statement of its own changes its object, unless its name says that it shows or looks something up;
a function changes the arguments that its body changes; a loop that changes anything changes what it calls.
It runs nothing, and resolves no types.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

BUILTINS = frozenset(dir(builtins)) | {"__name__", "__file__", "__doc__"}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
COMPOUND = (ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.If, ast.Try, ast.TryStar)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ASIDE = _words(
    "matplotlib pylab seaborn plotly bokeh altair IPython ipywidgets pprint logging os shutil subprocess threading "
    "requests httpx urllib wget gdown webbrowser google uvicorn pyngrok"
)
"""Packages whose calls show something or act on the world outside; calling them changes no object of the notebook."""
_CHANGING = _words(
    "fit partial_fit fit_transform fit_predict fit_resample train compile build adapt load_state_dict load_weights add "
    "append extend insert update setdefault pop popitem remove clear sort reverse step backward eval freeze"
)
"""Methods that change their object, even where their value is used."""
_HARMLESS = _words(
    "print pprint display show plot draw visualize head tail info describe summary dump save savefig export write log "
    "hist boxplot imshow scatter bar legend title grid axis figure close flush view launch serve mainloop evaluate "
    "score predict transform report parameters get count counts copy keys values items mean sum min max corr unique "
    "nunique isnull isna groupby csv excel to_json to_dict sample"
)
"""Words in the names of functions and methods whose value is looked at, or that only put something out."""
_SHOWING = ("print", "display", "show", "plot", "draw", "visualize", "save")
"""What the names of a notebook's own functions begin with, if they are not to be called: the rest is known of them."""
_LOSSES = ("loss", "crit")
_SETUP = re.compile(
    r"(\w+_)?seed(_all|_everything)?|set_\w+|use_\w+|(en|dis)able_\w+|filterwarnings|simplefilter|download"
)
"""Functions of a package that change how the package behaves."""


@dataclass(slots=True)
class World:
    """What is known of names, whatever the place: an approximation that no rebinding refines."""

    imports: set[str] = field(default_factory=set)
    aside: set[str] = field(default_factory=set)
    defined: set[str] = field(default_factory=set)
    """Functions and classes of the notebook."""
    parameters: dict[str, tuple[list[str], set[str]]] = field(default_factory=dict)
    """Of a function: its parameters' names, and those whose objects it may change."""
    changing: set[str] = field(default_factory=lambda: set(_CHANGING))
    methods: set[str] = field(default_factory=set)
    holds: dict[str, set[str]] = field(default_factory=dict)
    """`optimizer` holds `model` after `optimizer = Adam(model.parameters())`."""


def survey(statements: Sequence[ast.stmt]) -> World:
    """What the whole notebook tells of its names."""
    world = World()
    for statement in statements:
        for node in ast.walk(statement):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                _survey_import(node, world)
            elif isinstance(node, (*FUNCTIONS, ast.ClassDef)):
                world.defined.add(node.name)
        for node in _outside_functions(statement):
            if isinstance(node, ast.Assign):
                _survey_assignment(node, world)
    # Twice: a function may call one that is defined below it.
    for statement in [*statements, *statements]:
        if isinstance(statement, FUNCTIONS):
            _survey_function(statement, world)
        elif isinstance(statement, ast.ClassDef):
            for method in statement.body:
                if isinstance(method, FUNCTIONS):
                    world.methods.add(method.name)
                    if changes_of(method.body, world):
                        world.changing.add(method.name)
    return world


def _outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    if not isinstance(node, (*FUNCTIONS, ast.ClassDef)):
        yield node
        for child in ast.iter_child_nodes(node):
            yield from _outside_functions(child)


def _survey_import(node: ast.Import | ast.ImportFrom, world: World) -> None:
    for alias in node.names:
        name = (alias.asname or alias.name).partition(".")[0]
        package = (node.module or "") if isinstance(node, ast.ImportFrom) else alias.name
        world.imports.add(name)
        if package.partition(".")[0] in _ASIDE:
            world.aside.add(name)


def _survey_assignment(node: ast.Assign, world: World) -> None:
    """An object holds what it was constructed from; a second name, or a bound method, holds the object itself."""
    value = node.value
    if isinstance(value, ast.Call) and _last(value.func)[:1].isupper():
        held = {name for part in [*value.args, *value.keywords] for name in _names(part)}
    elif isinstance(value, (ast.Name, ast.Attribute)):
        held = _names(value)
    else:
        return
    for target in node.targets:
        for name in _names(target):
            world.holds.setdefault(name, set()).update(held - world.imports - {name})


def _survey_function(node: ast.FunctionDef | ast.AsyncFunctionDef, world: World) -> None:
    arguments = node.args
    names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    world.parameters[node.name] = (names, changes_of(node.body, world) & set(names))


def changes_of(nodes: Iterable[ast.stmt], world: World) -> set[str]:
    """The names whose objects these statements may change when they run."""
    finder = _Changes(world)
    for node in nodes:
        finder.visit(node)
    return finder.found


class _Changes(ast.NodeVisitor):
    """Collects the names whose objects some code may change. Bodies of functions defined in it are not looked at."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.found: set[str] = set()
        self.count = 0

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        pass

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        pass

    def visit_Lambda(self, node: ast.Lambda) -> None:
        pass

    def generic_visit(self, node: ast.AST) -> None:
        if isinstance(node, (ast.Attribute, ast.Subscript)) and isinstance(node.ctx, (ast.Store, ast.Del)):
            self._add(root_of(node))
        before = self.count
        super().generic_visit(node)
        if isinstance(node, COMPOUND) and self.count > before:
            # A loop that steps an optimizer changes the model that it calls; not so a loss, or a function.
            world = self.world
            for part in ast.walk(node):
                name = part.func.id if isinstance(part, ast.Call) and isinstance(part.func, ast.Name) else ""
                if not name.startswith(_LOSSES) and name not in world.imports | world.defined:
                    self._add(name or None)

    def visit_Expr(self, node: ast.Expr) -> None:
        call = node.value.value if isinstance(node.value, ast.Await) else node.value
        if not isinstance(call, ast.Call):
            self.generic_visit(node)
        elif is_harmless(call, self.world):
            # print(model.fit(x, y)) prints, and fits.
            for part in [call.func, *call.args, *call.keywords]:
                self.visit(part)
        else:
            self._statement(call)
            self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = _last(node.func)
        if isinstance(node.func, ast.Attribute) and name in self.world.changing:
            self._add_object(node.func, name)
        elif isinstance(node.func, ast.Name) and name in self.world.parameters:
            names, changed = self.world.parameters[name]
            given = [*zip(names, node.args, strict=False), *((word.arg, word.value) for word in node.keywords)]
            for parameter, value in given:
                if parameter in changed:
                    self._add(root_of(value))
        self.generic_visit(node)

    def _statement(self, call: ast.Call) -> None:
        """A call whose value nobody uses was made for what it changes."""
        function = call.func
        if isinstance(function, ast.Attribute):
            self._add_object(function, function.attr)
        given = [*call.args, *(word.value for word in call.keywords)]
        root = root_of(function)
        if root is None:
            given = []
        elif isinstance(function, ast.Attribute) and root not in self.world.imports:
            # `trainer.fit(model, x)` trains a model that is given whole; x, as in `tree.fit(x, y)`, is data.
            given = [value for value in given if isinstance(value, ast.Name) and value.id in self.world.holds]
        elif root in self.world.parameters:
            return  # visit_Call knows better
        for value in given:
            self._add(root_of(value))

    def _add_object(self, function: ast.Attribute, name: str) -> None:
        made = function.value
        if isinstance(made, ast.Call) and _last(made.func)[:1].isupper():
            # Trainer(model).train()
            for value in [*made.args, *(word.value for word in made.keywords)]:
                self._add(root_of(value))
        root = root_of(function)
        if root not in self.world.imports or _SETUP.fullmatch(name):
            self._add(root)

    def _add(self, name: str | None) -> None:
        if name is not None and name not in self.world.aside and name not in BUILTINS:
            self.found.add(name)
            self.count += 1


def is_harmless(call: ast.Call, world: World) -> bool:
    """Whether this call, a statement of its own, only shows, saves or looks up something."""
    name = _last(call.func)
    words = name.lower().split("_")
    if isinstance(call.func, ast.Name):
        if name in world.parameters:
            return words[0] in _SHOWING
        if name in BUILTINS:
            return name not in ("setattr", "delattr")
    elif name in world.methods:
        return name not in world.changing
    if root_of(call.func) in world.aside:
        return True
    return world.changing.isdisjoint(words) and not _HARMLESS.isdisjoint({name, *words})


def _names(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


def root_of(node: ast.AST) -> str | None:
    """The name that `a.b[0].c(1).d` begins with. What `f(x)` returns is not f: it has none."""
    while not isinstance(node, ast.Name):
        if isinstance(node, ast.Call) and not isinstance(node.func, ast.Name):
            node = node.func
        elif isinstance(node, (ast.Attribute, ast.Subscript, ast.Starred, ast.Await)):
            node = node.value
        else:
            return None
    return node.id


def _last(node: ast.expr) -> str:
    """The name that a called expression ends with."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""
