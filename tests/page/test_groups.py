"""Every mask of a picture: the job, groups that follow the sliders, and table and picture that lead to each other."""

import re

import pytest
from playwright.sync_api import expect


@pytest.fixture(scope="session")
def backend(threshold_sam):
    """Known masks."""
    return threshold_sam


def hover(desk, mask: int) -> None:
    """Move the mouse onto a mask's row."""
    desk.find(f"tr[data-row='{mask}']").hover()


def test_a_search_shows_progress_and_ends_in_groups(with_coins):
    desk = with_coins
    desk.find_masks("32")
    expect(desk.find("#job-text")).to_contain_text(re.compile(r"\d+ of 1024 points, \d+ masks so far"))
    desk.wait_masks()
    expect(desk.find("#job-text")).to_have_count(0)
    assert desk.sent("generate_masks")[0]["points_per_side"] == 32
    expect(desk.find(".histogram rect").first).to_be_visible()
    rows = desk.find("#masks tbody tr").count()
    assert 15 < rows < 60  # 24 coins lie on the table, and tiny's thresholds let their parts in
    assert re.match(rf"{rows}\s+of \d+ masks", desk.find("#summary").inner_text())


def test_a_search_is_cancelled(with_coins, state):
    desk = with_coins
    desk.find_masks("64")
    expect(desk.find("#job-text")).to_contain_text("points")
    desk.page.get_by_role("button", name="Cancel").click()
    expect(desk.find("#job-text")).to_have_count(0)
    expect(desk.page.get_by_role("button", name="Find every mask")).to_be_enabled()
    (job,) = {request.url.split("/jobs/")[1].split("/")[0] for request in desk.requests if "/jobs/" in request.url}
    ended = state.jobs.get(job)
    for _ in range(50):
        if ended.state == "cancelled":
            break
        ended = state.jobs.wait(job, ended.version, 0.2)
    assert ended.state == "cancelled"
    expect(desk.find("#summary")).to_have_count(0)


def test_a_slider_groups_again_at_once_without_the_model(with_masks):
    desk = with_masks
    before = desk.find("#masks tbody tr").count()
    searches = len(desk.sent("generate_masks"))
    desk.find(".card summary").click()
    slider = desk.find("#filters-min_diameter")
    slider.focus()
    for _ in range(30):
        slider.press("PageUp")
        if desk.find("#masks tbody tr").count() < before:
            break
    expect(desk.find("#groups-panel")).to_contain_text("too small")
    assert desk.find("#masks tbody tr").count() < before
    assert len(desk.sent("generate_masks")) == searches
    assert desk.sent("group_masks")[-1]["filters"]["min_diameter"] > 0
    while desk.find("#undo").is_enabled() and desk.find("#masks tbody tr").count() < before:
        desk.find("#undo").click()
        desk.page.wait_for_timeout(50)
    expect(desk.find("#masks tbody tr")).to_have_count(before)


@pytest.mark.parametrize(
    "choice", ["preset:parts", "method:shape", "method:size", "method:proximity", "method:overlap"]
)
def test_presets_and_methods_group_anew(with_masks, choice):
    desk = with_masks
    desk.find("#choice").select_option(choice)
    method = {"preset:parts": "hierarchy"}.get(choice, choice.split(":")[1])
    expect(desk.find("legend").first).to_have_text(f"Method: {method}")
    expect(desk.find(".groups button").first).to_be_visible()
    asked = desk.sent("group_masks")[-1]
    assert [each["method"] for each in asked["methods"]] == [method]


def test_table_leads_to_picture_and_back(with_masks):
    desk = with_masks
    first = desk.find("#masks tbody tr").first
    mask = int(first.get_attribute("data-row"))
    first.locator("button").click()
    expect(first).to_have_attribute("data-selected", "true")
    expect(desk.find("tr[data-selected=true]")).to_have_count(1)
    desk.page.mouse.move(*desk.place(0.5, 0.5))
    desk.find("#canvas").hover(position=desk._position(0.5, 0.5))
    tip = desk.find("#tooltip")
    for x, y in [(0.5, 0.5), (0.4, 0.4), (0.6, 0.6), (0.45, 0.6), (0.6, 0.4), (0.35, 0.5)]:
        desk.page.mouse.move(*desk.place(x, y))
        if tip.is_visible():
            break
    expect(tip).to_contain_text("circularity")
    hovered = desk.find("tr.hovered")
    expect(hovered).to_have_count(1)
    assert tip.inner_text().startswith(f"Mask {hovered.get_attribute('data-row')} ")
    desk.page.mouse.down()
    desk.page.mouse.up()
    group = desk.find(".groups button[aria-pressed=true]")
    expect(group).to_have_count(1)
    assert mask >= 0
    expect(desk.find("tr[data-selected=true]")).to_have_count(int(group.locator(".count").inner_text()))


def test_groups_have_their_colours_everywhere(with_masks):
    desk = with_masks
    desk.find("#choice").select_option("method:size")
    expect(desk.find("legend").first).to_have_text("Method: size")
    desk.find("#size-classes").fill("3")
    groups = desk.find(".groups button")
    expect(groups).to_have_count(3)
    chips = desk.find(".groups .chip")
    colours = [chips.nth(number).evaluate("chip => getComputedStyle(chip).backgroundColor") for number in range(3)]
    assert len(set(colours)) == 3
    desk.page.mouse.move(1, 1)
    shown = {tuple(colour) for colour in desk.shot().reshape(-1, 3).tolist()}
    assert all(tuple(map(int, re.findall(r"\d+", colour))) in shown for colour in colours)
    bars = desk.find(".histogram rect")
    fills = [bars.nth(number).evaluate("bar => getComputedStyle(bar).fill") for number in range(bars.count())]
    assert set(fills) == set(colours)
    counted = sum(int(re.search(r": (\d+) of", title)[1]) for title in bars.locator("title").all_text_contents())
    assert counted == sum(int(count) for count in desk.find(".groups .count").all_inner_texts())


def test_a_tree_shows_wholes_and_their_parts(with_coins):
    desk = with_coins
    desk.find("#tab-groups").click()
    desk.find("details summary").first.click()
    desk.find("#pred_iou_thresh").fill("0.4")
    desk.find_masks()
    desk.wait_masks()
    desk.find("#choice").select_option("preset:parts")
    branches = desk.find(".tree button")
    expect(branches.filter(has_text=re.compile(r"\d+ parts?")).first).to_be_visible()
    assert desk.sent("generate_masks")[0]["pred_iou_thresh"] == 0.4
    leaf = desk.find(".tree ul button").last
    mask = re.search(r"mask (\d+)", leaf.inner_text())[1]
    leaf.click()
    expect(desk.find("tr[data-selected=true]")).to_have_attribute("data-row", mask)


def test_large_pictures_are_searched_in_tiles(with_coins):
    desk = with_coins
    desk.find("#tab-groups").click()
    desk.find("details summary").first.click()
    desk.refused = {422}
    desk.find("#tile_overlap").fill("40")
    desk.find_masks()
    expect(desk.find("#messages")).to_contain_text("needs tile_size")
    desk.find("#tile_size").fill("320")
    desk.find_masks()
    desk.wait_masks()
    sent = desk.sent("generate_masks")[-1]
    assert (sent["tile_size"], sent["tile_overlap"]) == (320, 40)
    assert 15 < desk.find("#masks tbody tr").count() < 60


def test_groups_go_on_though_the_server_forgot_the_masks(with_masks, state):
    desk = with_masks
    before = desk.find("#summary").inner_text()
    desk.refused = {410}
    state.sessions.delete(desk.sent("generate_masks")[0]["session_id"])
    desk.find("#choice").select_option("method:shape")
    expect(desk.find(".groups button").first).to_contain_text("round")
    assert desk.find("#summary").inner_text() == before
    assert len(desk.sent("generate_masks")) == 1
    assert desk.find("#messages .message:not(.note)").count() == 0


def test_a_search_is_followed_although_its_stream_breaks_off(with_coins):
    desk = with_coins
    desk.page.route("**/events", lambda route: route.fulfill(content_type="text/event-stream", body=""), times=1)
    desk.find_masks()
    desk.wait_masks()
    assert sum(request.url.endswith("/events") for request in desk.requests) == 2


def test_the_keyboard_is_enough_for_groups(with_coins):
    desk = with_coins
    keys = desk.page.keyboard
    keys.press("g")
    desk.wait_masks()
    desk.tab_to("#canvas")
    for key in ["ArrowLeft"] * 8 + ["ArrowDown"] * 9:
        keys.press(key)
    expect(desk.find("#tooltip")).to_contain_text("circularity")
    keys.press("Enter")
    group = desk.find(".groups button[aria-pressed=true]")
    expect(group).to_have_count(1)
    keys.press("Escape")
    expect(group).to_have_count(0)
    keys.press("Control+Enter")
    expect(desk.find("tr[data-selected=true]")).to_have_count(1)
    keys.press("l")
    keys.press("Enter")
    for _ in range(10):
        keys.press("ArrowRight")
    keys.press("Enter")
    expect(desk.find("dialog")).to_contain_text("How long is this line?")
    keys.type("50")
    keys.press("Enter")
    expect(desk.find("#summary")).to_contain_text("µm")
    keys.press("Control+z")
    expect(desk.find("#summary")).to_contain_text("px")
    desk.tab_to("#choice")
    keys.type("shape")
    expect(desk.find("legend").first).to_have_text("Method: shape")
    desk.tab_to("#shape-min_circularity")
    count = len(desk.sent("group_masks"))
    keys.press("ArrowLeft")
    expect(desk.find("output[for=shape-min_circularity]")).to_have_text("0.84")
    assert len(desk.sent("group_masks")) == count + 1
    keys.press("Shift+Tab")
    desk.tab_to("#masks [data-column=area]")
    keys.press("Enter")
    expect(desk.find("#masks th[aria-sort=descending]")).to_contain_text("Area")


def test_the_table_sorts_both_ways(with_masks):
    desk = with_masks
    header = desk.find("#masks [data-column=area]")
    header.click()
    expect(desk.find("#masks th[aria-sort=descending]")).to_contain_text("Area")
    down = desk.find("#masks tbody tr").first.get_attribute("data-row")
    desk.find("#masks [data-column=area]").click()
    expect(desk.find("#masks th[aria-sort=ascending]")).to_contain_text("Area")
    assert desk.find("#masks tbody tr").last.get_attribute("data-row") == down


def test_a_drawn_length_gives_the_scale(with_masks):
    desk = with_masks
    desk.page.get_by_role("button", name="Draw a length").click()
    desk.drag((0.4, 0.5), (0.6, 0.5))
    expect(desk.find("dialog")).to_contain_text("How long is this line?")
    pixels = float(re.search(r"is ([\d.]+) pixels", desk.find("dialog").inner_text())[1])
    desk.page.get_by_label("Length", exact=True).fill("100")
    desk.page.get_by_role("button", name="Use it").click()
    expect(desk.find("#summary")).to_contain_text("µm")
    asked = desk.sent("group_masks")[-1]
    assert asked["unit"] == "µm"
    assert asked["pixel_size"] == pytest.approx(100 / pixels, rel=0.01)
    assert float(desk.find("#pixel-size").input_value()) == pytest.approx(100 / pixels, rel=0.01)
