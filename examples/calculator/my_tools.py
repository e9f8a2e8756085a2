"""A calculator for the model to call."""

import ast
import math
import operator

OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: math.pow,  # of floats: no number grows without end
    ast.USub: operator.neg,
}


def calculator(expression: str) -> float:
    """Return the value of an arithmetic expression.

    Args:
        expression: numbers, + - * / // % ** and brackets, for example (3 + 4) * 2
    """
    return value(ast.parse(expression, mode="eval").body)


def value(node: ast.expr) -> float:
    """Return the value of a parsed expression."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](value(node.left), value(node.right))
    if isinstance(node, ast.UnaryOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](value(node.operand))
    raise ValueError("only numbers, + - * / // % ** and brackets")
