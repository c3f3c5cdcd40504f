"""The exception tree: what is drawn is what there is, and code that knows nothing of qexplore can catch it."""

import inspect
import re

import pytest

from qexplore import errors

CLASSES = {
    name: cls for name, cls in vars(errors).items() if inspect.isclass(cls) and cls.__module__ == errors.__name__
}


def test_tree_in_the_docstring_draws_every_error_with_its_builtin_base() -> None:
    drawn = dict(re.findall(r"[├└]── (\w+)(?: \((\w+)\))?", errors.__doc__ or ""))
    assert set(drawn) == set(CLASSES) - {"QExploreError"}
    for name, builtin in drawn.items():
        bases = [base.__name__ for base in CLASSES[name].__mro__[1:]]
        assert "QExploreError" in bases
        assert not builtin or builtin in bases


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_every_error_is_caught_as_the_packages_own(name: str) -> None:
    with pytest.raises(errors.QExploreError, match="a sentence"):
        raise CLASSES[name]("a sentence")
