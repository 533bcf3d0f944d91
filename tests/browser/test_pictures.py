"""The program that takes the pages' pictures of the accordion."""

from PIL import Image

from tests.browser import pictures


def test_six_pictures_of_the_accordion_which_differ(chromium, url, tmp_path):
    made = pictures.take(chromium, url, "sandbox", tmp_path)
    assert [file.name for file in made] == [
        f"accordion-sandbox-{state}-{theme}.png"
        for theme in ("light", "dark")
        for state in ("closed", "open", "advanced")
    ]
    sizes, corners = [], []
    for file in made:
        with Image.open(file) as picture:
            sizes.append(picture.height)
            corners.append(sum(picture.convert("RGB").getpixel((picture.width // 2, 8))))
    assert sizes[:3] == sorted(set(sizes[:3])), "closed, open, with Advanced"
    assert min(corners[:3]) > max(corners[3:]), "light and dark"
