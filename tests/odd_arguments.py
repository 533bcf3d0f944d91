"""Argument lists no sane client sends, for the parser, the sandbox and live WebUIs alike.

Only what a host can take in and give back. It echoes the request in its answer, so NaN, lone surrogates and
integers beyond 64 bits (Forge writes its answers with orjson) are a server error of its own, whatever the
extension does; a dict in place of the whole list is one, too.
"""

import json

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from nag_core.settings.fields import FIELD, FIELDS, OVERRIDES_SLOT

# For every test over these: a machine under load is no reason to fail.
patient = settings(deadline=None, suppress_health_check=list(HealthCheck))

WORDS = (
    "", " ", "true", "off", "NaN", "-inf", "1e999", "0x10", "١٢", "Auto", "custom", "null", "{}", "[1]",
    "{broken", "[a:b:0.5]", "[red::0.5]", "(red:1.5)", "((((", "]]", "red AND blue", "BREAK", "# only this",
    "<lora:none:1>", "\\", '"', '"red"', "3x4", "red, blue: 5\nSteps: 1", "NAG scale: 9", "%s", "{0}", "../x",
    "\x00", "\u202e", "red 🔴 円 rød", "e\u0301" * 20, "enable", "checked", "４", "４，５", "0,5", " 4 ",
    "1_0", "4²", '{"scale": 4}', '{"enabled": "on", "phi": "4,5"}', '{"enabled": 0}', "a=b; c",
)  # fmt: skip
TEXTS = st.sampled_from(WORDS) | st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
NUMBERS = (
    st.integers(-30, 30)
    | st.floats(-2, 25, width=32)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([2**64 - 1, -(2**63), 1e300, 5e-324, -0.0])
)


def _nested(depth):
    value = 1
    for _ in range(depth):
        value = [value]
    return value


JUNK = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS | st.just(_nested(30)),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=4,
)


def _value(field):
    """A value of the field, and now and then one that is none."""
    fits = {
        "bool": st.booleans(),
        "float": st.floats(field.minimum, field.maximum, width=32),
        "choice": st.sampled_from(field.choices or ("",)),
        "text": TEXTS,
    }[field.kind]
    return st.one_of(fits, fits, fits, JUNK)


SLOTS = [_value(field) for field in FIELDS]
NAMED = st.builds(
    lambda known, other: {**known, **other},
    st.fixed_dictionaries({}, optional={name: _value(field) for name, field in FIELD.items()}),
    st.dictionaries(
        st.sampled_from(["phi", "nag_scale", "nag_tau", "Scale", "strenght", "__class__"]), JUNK, max_size=2
    ),
)
OVERRIDES = NAMED.map(json.dumps) | NAMED | JUNK
FULL = st.tuples(*SLOTS[:OVERRIDES_SLOT], OVERRIDES, *SLOTS[OVERRIDES_SLOT:]).map(list)

ARGUMENTS = st.one_of(
    NAMED.map(lambda named: [named]),
    st.tuples(st.booleans(), NAMED).map(list),
    FULL,
    st.tuples(FULL, st.integers(0, OVERRIDES_SLOT)).map(lambda both: [True, *both[0][1 : both[1]]]),
    st.lists(JUNK, max_size=14),
)
JOBS = st.fixed_dictionaries(
    {
        "nag": ARGUMENTS,
        "cfg_scale": st.sampled_from([1, 7]),
        "batch_size": st.sampled_from([1, 1, 2]),
        "negative_prompt": st.sampled_from(["red", "", "blue square"]),
    }
)
