"""Functions of parameters that are known only when they are made."""


def numbered(count):
    """Names for that many parameters: a0, a1, …"""
    return tuple(f"a{i}" for i in range(count))


def with_parameters(name, parameters, body, scope, before=()):
    """A function `name(*before, *parameters)`. All of these are names.

    body: its one line, in which `{parameters}` stands for them; scope: the names that it uses, none of which a
    parameter may have. Numba counts the parameters of what it compiles, so that `*arguments` will not do, and tells
    their names where a call has too few. Its cache wants the file of a function: text compiled as part of this file
    has one.
    """
    line = body.format(parameters=", ".join(parameters))
    text = f"def {name}({', '.join([*before, *parameters])}):\n    {line}"
    namespace = {"__name__": __name__, **scope}
    exec(compile(text, __file__, "exec"), namespace)
    return namespace[name]
