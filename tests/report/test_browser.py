"""The report in a real browser: nothing to complain of, nothing from elsewhere, nothing beside the screen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser, browser
from command_ways import Answer

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


_BRIGHTNESS = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).reduce((a, b) => +a + +b) / 3"
_SHOWN = "[...document.querySelectorAll('figure.plot > svg')].filter(s => s.getBoundingClientRect().width).length"
_COLOUR = "getComputedStyle(document.querySelector('figure.plot > svg text')).fill"


@pytest.fixture(params=["VERIFIED", "DIFFERS"])
def report(request: pytest.FixtureRequest, reported: Path, differing: tuple[Path, Answer]) -> Path:
    """Two reports: of a file that passes, and of one that does not."""
    return reported / "run" / "report.html" if request.param == "VERIFIED" else differing[0]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_it_fits_the_screen(chromium: Browser, report: Path, width: int, scheme: str) -> None:
    page = chromium.open()
    page.show(report, width, scheme)
    assert page.complaints == []
    assert len(page.requests) == 1 and page.requests[0].startswith("file:")
    assert page.value("innerWidth") == width
    assert page.value("document.documentElement.scrollWidth") <= width
    page.value("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.value("document.documentElement.scrollWidth") <= width, "with all tables open"
    brightness = page.value(_BRIGHTNESS)
    assert brightness < 60 if scheme == "dark" else brightness > 200
    assert page.value(_SHOWN) == page.value("document.querySelectorAll('figure.plot').length")
    assert page.value(_COLOUR) != "rgb(0, 0, 0)", "colours of drawings are those of the page"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(chromium: Browser, report: Path, scheme: str) -> None:
    """The contrast of WCAG 2.1 level AA, 4.5, of every text against what it stands on."""
    page = chromium.open()
    page.show(report, 1280, scheme)
    page.value("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.value(_FAINT) == []


_FAINT = """(() => {
  const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = c => c.slice(0, 3).map(v => v / 255).map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = element => {
    for (; element; element = element.parentElement) {
      const colour = numbers(getComputedStyle(element).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const faint = new Set();
  for (const element of document.querySelectorAll('body *')) {
    const own = [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.getBoundingClientRect().width) continue;
    const style = getComputedStyle(element), drawn = element.closest('svg');
    const front = light(numbers(drawn ? style.fill : style.color)), back = light(behind(element));
    const contrast = (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05);
    if (contrast < 4.5) faint.add(`${element.tagName} ${element.className} ${contrast.toFixed(2)}`);
  }
  return [...faint];
})()"""
