"""Functions of a number of parameters that is known only when they are made."""


def with_arity(name, arity, body, scope, before=()):
    """A function `name(*before, a0, a1, …)` with `arity` parameters after those in `before`.

    body: its one line, in which `{names}` stands for the parameters a0, a1, …; scope: the names that it uses. Numba
    counts the parameters of what it compiles, so that `*arguments` will not do. Its cache wants the file of a
    function: text compiled as part of this file has one.
    """
    names = [f"a{i}" for i in range(arity)]
    line = body.format(names=", ".join(names))
    text = f"def {name}({', '.join([*before, *names])}):\n    {line}"
    namespace = {"__name__": __name__, **scope}
    exec(compile(text, __file__, "exec"), namespace)
    return namespace[name]
