import gc

from pygrade._util.memo import cached_by_object


class Subject:
    name = ""


def test_a_result_is_computed_once_and_goes_with_its_object():
    calls = []

    @cached_by_object
    def number(subject):
        calls.append(subject.name)
        return [len(calls)]

    first, second = Subject(), Subject()
    first.name, second.name = "first", "second"
    assert number(first) is number(first)
    assert number(second) == [2] and calls == ["first", "second"]
    del first
    gc.collect()
    assert number(second) == [2]
