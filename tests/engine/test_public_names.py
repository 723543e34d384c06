"""The public names: all there, all documented, and nothing else."""

from __future__ import annotations

import inspect
import re
import types

import pytest

import hyperslab as hs

FUNCTIONS = [name for name in hs.__all__ if inspect.isfunction(getattr(hs, name))]
CLASSES = [name for name in hs.__all__ if inspect.isclass(getattr(hs, name))]


def public_members(cls: type) -> list[tuple[str, object]]:
    return [
        (name, member)
        for name, member in vars(cls).items()
        if not name.startswith("_") and not isinstance(member, types.MemberDescriptorType)
    ]


def wanted(function) -> list[str]:
    """Parameters that a docstring has to explain; options stand there under their own names."""
    return [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if name != "self" and parameter.kind is not parameter.VAR_KEYWORD
    ]


def explained(doc: str) -> str:
    """The names in the Parameters section of a docstring."""
    found = re.search(r"Parameters\n-+\n(.*?)(\n\n[A-Z]\w+\n-+\n|\Z)", doc, re.DOTALL)
    return found[1] if found else ""


def test_the_list_is_sorted_and_complete():
    # Constants, classes, functions; each in alphabetical order, as import sorters have them.
    assert hs.__all__ == sorted(
        hs.__all__, key=lambda name: (not name.isupper(), not name[0].isupper(), name)
    )
    assert len(set(hs.__all__)) == len(hs.__all__)
    public = {
        name
        for name, value in vars(hs).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert public == set(hs.__all__)


def test_a_star_import_brings_exactly_the_list():
    names: dict[str, object] = {}
    exec("from hyperslab import *", names)  # noqa: S102 - a star import is a statement of modules
    assert set(names) - {"__builtins__"} == set(hs.__all__)


def test_the_version_is_that_of_the_distribution():
    assert re.fullmatch(r"\d+\.\d+\.\d+", hs.__version__)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_explains_its_parameters_and_its_errors(name):
    doc = inspect.getdoc(getattr(hs, name))
    assert doc
    if "Takes what :func:`run` takes" in doc:
        return
    section = explained(doc)
    for parameter in wanted(getattr(hs, name)):
        assert re.search(rf"(^|, |\*){parameter}\b[^\n]*$", section, re.MULTILINE), parameter
    assert "Raises\n------" in doc


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_and_every_public_member_is_documented(name):
    cls = getattr(hs, name)
    assert inspect.getdoc(cls)
    undocumented = [
        member
        for member, value in public_members(cls)
        if not isinstance(value, str) and not inspect.getdoc(value)
    ]
    assert undocumented == []


@pytest.mark.parametrize("name", CLASSES)
def test_what_a_user_calls_with_parameters_explains_them(name):
    cls = getattr(hs, name)
    for member, value in public_members(cls):
        if not inspect.isfunction(value):
            continue
        doc = inspect.getdoc(value) or ""
        parameters = wanted(value)
        if len(parameters) > 1 and "See :func:" not in doc:
            assert all(parameter in explained(doc) for parameter in parameters), member


def test_errors_are_named_as_users_import_them():
    for name in CLASSES:
        cls = getattr(hs, name)
        if issubclass(cls, BaseException):
            assert f"{cls.__module__}.{cls.__qualname__}" == f"hyperslab.{name}"
