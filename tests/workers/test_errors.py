"""The errors: every one survives the way between processes, with all that it says."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest

from hyperslab_workers import errors

CLASSES = [getattr(errors, name) for name in errors.__all__]
ATTRIBUTES = {
    "KernelError": {"kernel": "anomaly", "region": "[0:4, 0:8]"},
    "WorkerLost": {"signal": "SIGKILL", "regions": ("[0:4]", "[4:8]")},
    "SpecError": {"problems": ("line 3: no such field", "line 5: no file")},
}


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_a_round_trip_keeps_type_message_and_attributes(kind, protocol):
    attributes = ATTRIBUTES.get(kind.__name__, {})
    error = kind("value 3, limit 2: give 2", **attributes)
    back = pickle.loads(pickle.dumps(error, protocol))
    assert type(back) is kind
    assert str(back) == "value 3, limit 2: give 2"
    assert back.args == error.args
    assert {name: getattr(back, name) for name in attributes} == attributes
    assert vars(copy.copy(error)) == vars(error)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_attribute_is_tried_above_and_has_a_default(kind):
    own = {name for name in inspect.signature(kind.__init__).parameters if name != "self"}
    own -= {"message", "args", "kwargs"}
    assert own == set(ATTRIBUTES.get(kind.__name__, {}))
    assert str(kind("only a message")) == "only a message"


def test_the_list_is_the_whole_tree():
    defined = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, BaseException)
    }
    assert defined == set(errors.__all__)
    assert all(issubclass(kind, errors.HyperslabError) for kind in CLASSES)
    assert all(kind.__doc__ for kind in CLASSES)


def test_who_knows_nothing_of_hyperslab_still_catches_the_usual_kinds():
    assert issubclass(errors.LockTimeout, TimeoutError)
    assert issubclass(errors.JobInterrupted, KeyboardInterrupt)
