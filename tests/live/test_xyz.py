"""Our axes in the X/Y/Z plot of any WebUI, through its API."""

import pytest

from nag_core.settings.parse import FIELDS

ON = [{"enabled": True}]


def plot_args(webui, axes, route):
    """The plot's arguments: hosts differ in their number and tabs in their axes, so all are found by label.

    csv mode: without it an axis with choices takes its values from the dropdown and draws nothing here.
    """
    script = webui.plot(route)
    # In other words on SD.Next.
    on = ("include sub images", "include images", "use text inputs")
    given = [*axes.items(), *[("Nothing", "")] * (3 - len(axes))]
    types = [arg for arg in script["args"] if arg["label"] in ("X type", "Y type", "Z type")]
    args = [
        value
        for arg, (label, text) in zip(types, given, strict=True)
        for value in (arg["choices"].index(label), text, [])
    ]
    rest = script["args"][len(args) :]
    return args + [True if arg["label"].lower().startswith(on) else arg["value"] for arg in rest]


def request(webui, axes, nag=None, route="txt2img", **more):
    return {
        "nag": nag,
        "script_name": webui.plot(route)["name"],
        "script_args": plot_args(webui, axes, route),
        **more,
    }


def plot(webui, axes, nag=None, route="txt2img", **more):
    """The cells' pixels and infotexts; the grid is the first picture."""
    result = webui.txt2img(route=route, **request(webui, axes, nag, route, **more))
    return result.pixels[1:], result.infotexts[1:]


def pixels(webui, nag=None, **more):
    return webui.txt2img(nag, **more).pixels[0]


def test_every_axis_is_offered_once_in_both_tabs(webui):
    for script in map(webui.plot, ("txt2img", "img2img")):
        choices = [label for label in script["args"][0]["choices"] if label.startswith("[NAG] ")]
        names = ["Enabled", "Preset", "Scale", "Tau", "Alpha", "Start", "End", "Method", "Hires", "Negative"]
        later = [field.name.replace("_", " ").capitalize() for field in FIELDS if field.axis]
        later[later.index("Vsf offset")] = "VSF offset"
        assert choices == [f"[NAG] {name}" for name in (*names, "Negative S/R", "Override", *later)]


def test_off_and_on_side_by_side(webui):
    (off, on), (off_text, on_text) = plot(webui, {"[NAG] Enabled": "off,on"})
    assert off == pixels(webui)
    assert on == pixels(webui, ON)
    assert off != on
    assert "NAG" not in off_text
    assert "NAG scale" in on_text


def test_three_scales_by_off_and_on(webui):
    drawn, texts = plot(webui, {"[NAG] Scale": "1,3,6", "[NAG] Enabled": "on,off"})
    off = [cell for cell, text in zip(drawn, texts, strict=True) if "NAG" not in text]
    on = [cell for cell, text in zip(drawn, texts, strict=True) if "NAG scale" in text]
    assert off == [pixels(webui)] * 3
    assert on == [pixels(webui, [{"scale": scale}]) for scale in (1, 3, 6)]


def test_two_axes_combine_and_the_compound_axis_equals_them(webui):
    expected = pixels(webui, [{"scale": 6, "tau": 1.5, "alpha": 0.5}])
    two, _ = plot(webui, {"[NAG] Tau": "1.5", "[NAG] Alpha": "0.5"}, [{"scale": 6}])
    one, _ = plot(webui, {"[NAG] Override": "scale=6 tau=1.5 alpha=0.5"}, ON)
    assert two == one == [expected]


def test_the_compound_axis_takes_the_names_of_the_api_and_quotes(webui):
    text = "blue, a=b; c"
    second = f'"nag_scale=7 nag_tau=1.5 negative=""{text}"""'
    if webui.is_sdnext:  # its plot knows no quotes, and ends a value at every comma
        text = "blue; a=b"
        second = f'nag_scale=7 nag_tau=1.5 negative="{text}"'
    drawn, _ = plot(webui, {"[NAG] Override": f"phi=6 nag_tau=1.5, {second}"}, ON)
    wanted = ({}, {"negative": text})
    assert drawn == [pixels(webui, [{"scale": 6, "tau": 1.5, **more}]) for more in wanted]


def test_a_range_of_the_host(webui):
    webui.unless_sdnext("has another way to write a range of its plot")
    drawn, texts = plot(webui, {"[NAG] Alpha": "0.2-0.4 (+0.1)"}, ON)
    assert len(set(drawn)) == 3
    for text, alpha in zip(texts, ("0.2", "0.3", "0.4"), strict=True):
        assert f"NAG alpha: {alpha}," in text


@pytest.mark.parametrize("label", ["Preset", "Method"])
def test_axes_with_choices(webui, label):
    values = {"Preset": ["SD1.5", "SD3.5"], "Method": ["NAG", "No refinement"]}[label]
    drawn, _ = plot(webui, {f"[NAG] {label}": ",".join(values)}, ON)
    assert drawn == [pixels(webui, [{label.lower(): value}]) for value in values]
    assert len(set(drawn)) == 2


def test_the_negative_whole_and_by_search_and_replace(webui):
    expected = [pixels(webui, [{"negative": f"{x} circle"}]) for x in ("red", "blue")]
    whole, _ = plot(webui, {"[NAG] Negative": "red circle,blue circle"}, ON)
    own, _ = plot(webui, {"[NAG] Negative S/R": "red,blue"}, [{"negative": "red circle"}])
    main, _ = plot(webui, {"[NAG] Negative S/R": "red,blue"}, ON, negative_prompt="red circle")
    assert whole == own == expected
    assert all(webui.same_but_for_main_negative(*pair) for pair in zip(main, expected, strict=True))


@pytest.mark.parametrize(
    ("axis", "text", "said"),
    [
        ("[NAG] Scale", "4,21", "allowed are 0 to 20"),
        ("[NAG] Override", "strenght=4", "no setting 'strenght'"),
        ("[NAG] Negative S/R", "purple,blue", "did not find purple"),
    ],
)
def test_an_error_of_an_axis_reaches_the_client(webui, axis, text, said):
    response = webui.post("txt2img", webui.payload(**request(webui, {axis: text}, ON)))
    assert response.status_code == 500
    assert said in response.text


def test_an_axis_never_turns_nag_on(webui):
    drawn, texts = plot(webui, {"[NAG] Scale": "1,6"})
    assert set(drawn) == {pixels(webui)}
    assert "NAG scale" not in "".join(texts)


def test_an_axis_in_img2img(webui):
    import base64

    image = base64.b64encode(webui.txt2img().pngs[0]).decode()
    job = {"route": "img2img", "init_images": [image], "denoising_strength": 0.7}
    drawn, _ = plot(webui, {"[NAG] Enabled": "off,on"}, **job)
    assert drawn == [pixels(webui, nag, **job) for nag in (None, ON)]
    assert drawn[0] != drawn[1]


def test_a_plot_leaves_nothing_behind(webui):
    before = webui.txt2img()
    plot(webui, {"[NAG] Scale": "1,6"}, ON)
    assert webui.txt2img().pngs == before.pngs
