from dstack.kit.weighed import WeighedCache


def test_the_least_recently_used_values_leave_above_the_bound() -> None:
    cache = WeighedCache[str, str](weight_max=10)
    for name in "abc":
        cache.put(name, name.upper(), weight=3)
    assert cache.get("a") == "A"
    cache.put("d", "D", weight=4)
    assert cache.some("abcd") == {"a": "A", "c": "C", "d": "D"}


def test_a_value_in_place_of_another_counts_once() -> None:
    cache = WeighedCache[str, int](weight_max=10)
    for weight in (6, 6, 6):
        cache.put("a", weight, weight=weight)
    cache.put("b", 4, weight=4)
    assert cache.some("ab") == {"a": 6, "b": 4}


def test_a_value_above_the_bound_is_not_kept_and_drops_no_other() -> None:
    cache = WeighedCache[str, int](weight_max=10)
    cache.put("a", 1, weight=1)
    cache.put("b", 2, weight=11)
    assert cache.some("ab") == {"a": 1}
