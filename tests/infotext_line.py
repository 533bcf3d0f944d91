"""Settings through a host's parameter line and back, for the sandbox's grammar and for that of a checkout."""

from nag_core.settings import strength
from nag_core.settings.parse import FIELDS, parse
from nag_core.webui import infotext

TEXTS = [
    "red", " red ", '"red"', 'a "red" one', '"red" and "blue"', '"', '\\', "3x4", "512x768", "red, blue: 5",
    "line one\nline two", "Steps: 1, Size: 3x4", "NAG scale: 9", "Negative prompt: x", "{}", "[1]",
    "rød 円 🔴", "#", "<lora:none:1>", "tab\there", "x" * 500, "NAG negative", "NAG negatives", "None",
]  # fmt: skip


def read_back(utils, settings):
    """What the readers make of the line that a picture with these settings carries.

    utils: the host's modules.infotext_utils. The line is put together as modules/processing.py does it.
    """
    parameters = {"Steps": 4, "Sampler": "Euler", "CFG scale": 1.0, "Size": "64x64"}
    infotext.write(parameters, settings, strength.of(settings, "SDXL"))
    line = ", ".join(
        key if key == value else f"{key}: {utils.quote(value)}" for key, value in parameters.items()
    )
    parsed = utils.parse_generation_parameters(f"a circle\nNegative prompt: red\n{line}, Version: 1.0", [])
    return {name: reader(parsed) for name, reader in infotext.READERS.items()}


def assert_survives(utils, text, **more):
    """Every field of a job with this negative comes back from the line as it was."""
    settings = parse([{"negative": text, "preset": "Custom", "scale": 3.25, **more}]).settings
    back = read_back(utils, settings)
    for field in FIELDS:
        assert back[field.name] == getattr(settings, field.name), field.name
