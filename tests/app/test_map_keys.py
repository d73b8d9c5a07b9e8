"""The map of clusters by the keyboard alone: in a file of its own, and in the page."""

import numpy as np
import pytest
from playwright.sync_api import expect

from bioscan_hf.clustering.map import write_map

expect.set_options(timeout=30_000)

#: A cross around P0, with P5 at the place of P1, and P6 of another order.
POINTS = [(0, 0), (4, 0), (-4, 0), (0, 4), (0, -4), (4, 0), (4, 3)]
IDS = [f"P{i}" for i in range(len(POINTS))]
LABELS = {
    "order": ["Diptera"] * 6 + ["Coleoptera"],
    "species": ["A a", "A b", None, "A d", "A e", "A f", "B b"],
}


@pytest.fixture
def own(browser, tmp_path):
    """The page of a map, opened from disk, with the focus before the map."""
    path = tmp_path / "map.html"
    write_map(path, np.array(POINTS, float), IDS, LABELS, [0, 1, 1, 2, 2, 1, 3])
    page = browser.new_page(viewport={"width": 900, "height": 600})
    page.goto(path.as_uri())
    page.keyboard.press("Tab")
    yield page
    page.close()


def press(page, *keys):
    """What is said after each key."""
    said = []
    for key in keys:
        page.keyboard.press(key)
        said.append(page.locator("#said").text_content())
    return said


def test_arrows_reach_the_nearest_point_of_a_direction(own):
    """The middle first, then each arm of the cross and back; beyond the end nothing changes."""
    assert own.evaluate("document.activeElement.id") == "map"
    assert own.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    first = own.evaluate("towards(0, 1)")
    said = press(own, "ArrowDown")[0]
    assert said.startswith(f"{IDS[first]}, ") and own.locator("#said").get_attribute("aria-live") == "polite"
    own.evaluate("reach(0)")
    for there, back, name in (
        ("ArrowRight", "ArrowLeft", "P1, species A b, cluster 1"),
        ("ArrowLeft", "ArrowRight", "P2, order Diptera, cluster 1"),
        ("ArrowUp", "ArrowDown", "P3, species A d, cluster 2"),
        ("ArrowDown", "ArrowUp", "P4, species A e, cluster 2"),
    ):
        assert press(own, there, back) == [name, "P0, species A a, cluster 0"]
        assert "P0" in own.locator("#card").inner_text()
    assert press(own, "ArrowLeft", "ArrowLeft") == ["P2, order Diptera, cluster 1"] * 2


def test_every_point_is_reached_in_the_order_of_clusters(own):
    """Points at one place, too; those of a hidden group are passed over."""
    found = [said.split(",")[0] for said in press(own, *["PageDown"] * 8)]
    assert found == ["P0", "P2", "P1", "P5", "P3", "P4", "P6", "P6"]
    assert press(own, "PageUp")[0].startswith("P4, ")
    group = own.get_by_role("button", name="Coleoptera")
    for _ in range(6):
        if group.evaluate("element => element === document.activeElement"):
            break
        own.keyboard.press("Tab")
    own.keyboard.press("Enter")
    expect(group).to_have_attribute("aria-pressed", "false")
    own.locator("#map").focus()
    assert [said.split(",")[0] for said in press(own, *["PageDown"] * 7)][-2:] == ["P4", "P4"]


def test_enter_keeps_the_card_as_a_click_does(own):
    card = own.locator("#card")
    press(own, "PageDown")
    expect(card).to_be_visible()
    own.keyboard.press("Tab")
    expect(card).to_be_hidden()
    own.keyboard.press("Shift+Tab")
    press(own, "PageDown", "Enter")
    own.keyboard.press("Tab")
    expect(card).to_be_visible()
    own.keyboard.press("Shift+Tab")
    own.keyboard.press("Escape")
    expect(card).to_be_hidden()
    x, y = own.evaluate("[across(4), down(4)]")
    own.mouse.click(x, y)
    own.mouse.move(5, 5)
    expect(card).to_contain_text("P4")


def test_a_point_that_is_reached_is_in_view(own):
    press(own, "PageDown", "+", "+", "+", "+", "ArrowRight")
    x, y = own.evaluate("[across(hovered), down(hovered)]")
    box = own.locator("#map").bounding_box()
    assert own.evaluate("scale") > 0 and 0 < x < box["width"] and 0 < y < box["height"]
    zoomed = own.evaluate("scale")
    press(own, "0")
    assert own.evaluate("scale") < zoomed / 4
    reached = own.evaluate("hovered")
    own.set_viewport_size({"width": 420, "height": 700})
    expect(own.locator("#card")).to_be_visible()
    assert own.evaluate("hovered") == reached, "a phone that hides its address bar changes the size too"


def test_a_card_does_not_cover_its_point_on_a_narrow_screen(own):
    own.set_viewport_size({"width": 420, "height": 700})
    for _ in POINTS:
        press(own, "PageDown")
        x, y = own.evaluate("[across(hovered), down(hovered)]")
        box, place = own.locator("#card").bounding_box(), own.locator("#map").bounding_box()
        left, top = box["x"] - place["x"], box["y"] - place["y"]
        assert not (left < x < left + box["width"] and top < y < top + box["height"]), (x, y, box)
        assert left >= 0 and left + box["width"] <= 420 and top >= 0 and top + box["height"] <= place["height"]


def test_enter_in_the_page_opens_the_record(browser, served):
    """Tab from the view's name to the map, a key, Enter: the record of that specimen opens below, in view."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(served.address)
    page.get_by_role("tab", name="Clusters", exact=True).click()
    frame = page.frame_locator("iframe.bh-fixed")
    expect(frame.locator("#map")).to_be_visible()
    page.get_by_role("tab", name="Map", exact=True).focus()
    for _ in range(8):
        if frame.locator("#map").evaluate("element => element === document.activeElement"):
            break
        page.keyboard.press("Tab")
    page.keyboard.press("PageDown")
    expect(frame.locator("#said")).to_contain_text("cluster")
    name = frame.locator("#said").text_content().split(",")[0]
    page.keyboard.press("Enter")
    record = page.locator("h3:visible", has_text=name)
    expect(record).to_be_visible()
    expect(record).to_be_in_viewport()
    page.get_by_role("tab", name="BINs", exact=True).click()
    expect(page.locator("#bh-opened h3")).to_have_count(0)
    page.close()
