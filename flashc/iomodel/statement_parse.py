"""Reads a statement as users write it: ``S[i, j] += Q[i, k] * K[j, k]``.

    statement := reference ("=" | "+=" | "max=" | "min=") operands
    reference := name "[" expression ("," expression)* "]"          expressions of flashc.ir.intparse
    operands  := references, numbers and names joined by any of + - * / ( ) , and function calls

A bound depends on which elements are combined, not on how: of the right-hand side only the references count.
"""

from __future__ import annotations

from flashc.errors import IRError
from flashc.iomodel.statements import Reference, Update
from flashc.ir.intexpr import Item
from flashc.ir.intparse import Reader

BETWEEN = frozenset("+-*/(),")


def parse_statement(text: str) -> tuple[Reference, Update, tuple[Reference, ...]]:
    """Target, update and operands. Raises IRError with line and column."""
    reader = Reader(text, IRError)
    target = _reference(reader)
    update = _update(reader)
    operands: list[Reference] = []
    depth = 0
    while reader.token.kind != "end":
        token = reader.token
        following = reader.tokens[reader.position + 1].text
        if token.kind == "name" and following == "[":
            operands.append(_reference(reader))
            continue
        if token.kind == "sign" and token.text not in BETWEEN:
            raise reader.complaint(token.at, f"expected a reference such as A[i, j], found {token.text!r}")
        depth += (token.text == "(") - (token.text == ")")
        if depth < 0:
            raise reader.complaint(token.at, "')' without '('")
        reader.next()
    if depth:
        raise reader.complaint(reader.token.at, "'(' is not closed")
    return target, update, tuple(dict.fromkeys(operands))


def _reference(reader: Reader) -> Reference:
    token = reader.token
    if token.kind != "name" or reader.tokens[reader.position + 1].text != "[":
        raise reader.complaint(token.at, f"expected an element such as A[i, j], found {token.text!r}")
    item = reader.atom()
    assert isinstance(item, Item)
    return Reference(item.table, item.index)


def _update(reader: Reader) -> Update:
    at = reader.token.at
    sign = reader.accept("=", "+", "max", "min")
    if sign is None or (sign != "=" and reader.accept("=") is None):
        raise reader.complaint(at, "expected =, +=, max= or min= after the element that is written")
    updates: dict[str, Update] = {"=": "=", "+": "+=", "max": "max=", "min": "min="}
    return updates[sign]
