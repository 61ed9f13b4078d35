"""Objects by clicks: masks, candidates, refinement, boxes, undo, and a server that forgets or is busy."""

from contextlib import ExitStack

import numpy as np
import pytest
from playwright.sync_api import expect


def facts(desk):
    """The line of measures of every object."""
    return desk.find(".objects .facts")


def test_a_click_gives_a_mask_and_its_candidates(with_coins):
    desk = with_coins
    before = desk.colours()
    desk.click()
    expect(facts(desk)).to_contain_text("predicted IoU")
    expect(desk.find("#last")).to_contain_text("segment in")
    assert desk.colours() != before
    buttons = desk.find(".candidates button")
    expect(buttons).to_have_count(3)
    first = facts(desk).inner_text()
    buttons.nth(1).click()
    expect(buttons.nth(1)).to_have_attribute("aria-pressed", "true")
    assert facts(desk).inner_text() != first
    (request,) = desk.sent("segment")
    assert request["multimask_output"] is True
    (x, y), *_ = request["points"]
    assert abs(x - 192) < 2
    assert abs(y - 151.5) < 2


def test_right_click_and_shift_take_away_from_the_same_mask(with_coins):
    desk = with_coins
    desk.click()
    expect(desk.find(".candidates button")).to_have_count(3)
    desk.click(0.6, 0.6, button="right")
    expect(desk.find(".candidates")).to_have_count(0)
    desk.click(0.4, 0.4, modifiers=["Shift"])
    expect(facts(desk)).to_contain_text("predicted IoU")
    labels = [request["point_labels"] for request in desk.sent("segment")]
    assert labels == [[1], [1, 0], [1, 0, 0]]
    assert desk.sent("segment")[1]["mask_id"]


def test_a_drag_gives_a_box(with_coins):
    desk = with_coins
    desk.drag((0.4, 0.4), (0.6, 0.6))
    expect(facts(desk)).to_contain_text("predicted IoU")
    (request,) = desk.sent("segment")
    left, top, right, bottom = request["box"]
    assert 0 < left < right < 384
    assert 0 < top < bottom < 303


def test_undo_and_redo_of_every_step(with_coins):
    desk = with_coins
    desk.click()
    expect(desk.find(".candidates button")).to_have_count(3)
    first = facts(desk).inner_text()
    desk.find(".candidates button").nth(2).click()
    desk.click(0.55, 0.5)
    expect(desk.find(".candidates")).to_have_count(0)
    expect(facts(desk)).to_contain_text("predicted IoU")
    last = facts(desk).inner_text()
    name = desk.find(".objects input")
    name.fill("a coin")
    name.press("Enter")
    undo, redo = desk.find("#undo"), desk.find("#redo")
    undo.click()
    expect(name).to_have_value("Object 1")
    undo.click()
    expect(desk.find(".candidates button").nth(2)).to_have_attribute("aria-pressed", "true")
    undo.click()
    expect(facts(desk)).to_have_text(first)
    undo.click()
    expect(desk.find(".objects li")).to_have_count(0)
    expect(undo).to_be_disabled()
    for _ in range(4):
        redo.click()
    expect(redo).to_be_disabled()
    expect(name).to_have_value("a coin")
    expect(facts(desk)).to_have_text(last)


def test_several_objects_with_names_and_colours(with_coins):
    desk = with_coins
    desk.click(0.45, 0.45)
    expect(facts(desk)).to_contain_text("predicted IoU")
    desk.page.get_by_role("button", name="New object").click()
    desk.click(0.55, 0.55)
    expect(facts(desk)).to_have_count(2)
    expect(facts(desk).nth(1)).to_contain_text("predicted IoU")
    chips = desk.find(".objects .chip")
    colours = [chips.nth(number).evaluate("chip => getComputedStyle(chip).backgroundColor") for number in range(2)]
    assert colours[0] != colours[1]
    expect(desk.find(".objects li").nth(1)).to_have_attribute("aria-current", "true")
    desk.page.get_by_role("button", name="Delete Object 1").click()
    expect(desk.find(".objects input")).to_have_value("Object 2")


PLACES = [(0.45, 0.45), (0.55, 0.5), (0.5, 0.6)]


def mask_file(desk) -> bytes:
    """The mask of the object, as it is exported."""
    desk.find("#tab-export").click()
    content = desk.download("mask")[1]
    desk.find("#tab-objects").click()
    return content


def test_fast_clicks_give_the_mask_of_slow_ones(with_coins, state):
    desk = with_coins
    for place in PLACES:
        desk.click(*place)
        expect(facts(desk)).to_contain_text("predicted IoU")
    slow = mask_file(desk)
    desk.page.get_by_role("button", name="Delete Object 1").click()
    with state.gate.enter():
        for place in PLACES:
            desk.click(*place)
        expect(facts(desk)).to_have_text("…")
        assert len(desk.sent("segment")) == 4
    expect(facts(desk)).to_contain_text("predicted IoU")
    assert mask_file(desk) == slow
    asked = [(body["points"], body["multimask_output"], "mask_id" in body) for body in desk.sent("segment")]
    assert asked[3:] == asked[:3]
    assert [with_mask for _, _, with_mask in asked[:3]] == [False, True, True]
    # Every step has its mask, also those that were passed while they waited.
    for _ in PLACES[1:]:
        desk.find("#undo").click()
        expect(facts(desk)).to_contain_text("predicted IoU")
    assert len(desk.sent("segment")) == 6


def given_up(desk) -> list[str]:
    """Paths of requests that the page gives up from now on."""
    failed = []
    desk.page.on("requestfailed", lambda request: failed.append(request.url.rsplit("/", 1)[1]))
    return failed


def test_a_request_is_given_up_when_its_step_is_undone(with_coins, state):
    desk = with_coins
    failed = given_up(desk)
    with state.gate.enter(), desk.page.expect_event("requestfailed"):
        desk.click()
        expect(facts(desk)).to_have_text("…")
        desk.find("#undo").click()
    expect(desk.find(".objects li")).to_have_count(0)
    assert failed == ["segment"]
    desk.find("#redo").click()
    expect(facts(desk)).to_contain_text("predicted IoU")


def test_a_box_gives_up_the_request_of_the_one_before(with_coins, state):
    desk = with_coins
    failed = given_up(desk)
    with state.gate.enter(), desk.page.expect_event("requestfailed"):
        desk.drag((0.4, 0.4), (0.6, 0.6))
        expect(facts(desk)).to_have_text("…")
        desk.drag((0.3, 0.3), (0.5, 0.5))
    expect(facts(desk)).to_contain_text("predicted IoU")
    assert failed == ["segment"]
    first, second = desk.sent("segment")
    assert first["box"] != second["box"]
    assert "mask_id" not in second


def test_another_picture_gives_up_the_requests_of_the_one_before(with_coins, state, to_file):
    desk = with_coins
    failed = given_up(desk)
    with state.gate.enter(), desk.page.expect_event("requestfailed"):
        desk.click()
        expect(facts(desk)).to_have_text("…")
        other = {"name": "other.png", "mimeType": "image/png", "buffer": to_file(np.zeros((40, 60, 3), np.uint8))}
        desk.find("#file").set_input_files(other)
    desk.wait_ready()
    assert failed == ["segment"]
    expect(desk.find(".objects li")).to_have_count(0)


def test_a_forgotten_session_is_encoded_again_by_itself(with_coins, state):
    desk = with_coins
    desk.click()
    expect(facts(desk)).to_contain_text("predicted IoU")
    desk.refused = {410}
    state.sessions.delete(desk.sent("segment")[0]["session_id"])
    desk.click(0.6, 0.6)
    expect(desk.find(".candidates")).to_have_count(0)
    expect(facts(desk)).to_contain_text("predicted IoU")
    first, refused, again, second = desk.sent("segment")
    assert first["session_id"] == refused["session_id"] != again["session_id"] == second["session_id"]
    # The clicks are made again, one by one, so that the mask is that of the same clicks.
    assert again["points"] == first["points"]
    assert second["points"] == refused["points"]
    assert second["mask_id"]
    assert desk.find("#messages .message:not(.note)").count() == 0


@pytest.mark.parametrize("settings", [{"queue_length": 0}])
def test_a_busy_server_is_waited_for(with_coins, state):
    desk = with_coins
    desk.refused = {503}
    with ExitStack() as held:
        held.enter_context(state.gate.enter())
        desk.click()
        expect(desk.find("#busy-text")).to_contain_text("the server is busy")
    expect(facts(desk)).to_contain_text("predicted IoU")
    expect(desk.find("#busy")).to_be_hidden()
    assert len(desk.sent("segment")) > 1


def test_the_keyboard_is_enough(desk, coins):
    desk.open("coins.png", coins)
    keys = desk.page.keyboard
    desk.tab_to("#canvas")
    keys.press("ArrowRight")
    keys.press("Enter")
    expect(desk.find(".candidates button")).to_have_count(3)
    keys.press("c")
    expect(desk.find(".candidates button").nth(1)).to_have_attribute("aria-pressed", "true")
    keys.press("ArrowDown")
    keys.press("x")
    expect(desk.find(".candidates")).to_have_count(0)
    expect(facts(desk)).to_contain_text("predicted IoU")
    assert desk.sent("segment")[-1]["point_labels"] == [1, 0]
    keys.press("n")
    keys.press("b")
    for key in ["ArrowRight"] * 3 + ["ArrowDown"] * 3:
        keys.press(key)
    keys.press("b")
    expect(facts(desk)).to_have_count(2)
    expect(facts(desk).nth(1)).to_contain_text("predicted IoU")
    assert "box" in desk.sent("segment")[-1]
    keys.press("Delete")
    expect(facts(desk)).to_have_count(1)
    keys.press("Control+z")
    expect(facts(desk)).to_have_count(2)
    keys.press("?")
    expect(desk.find("dialog")).to_be_visible()
    keys.press("Escape")
    expect(desk.find("dialog")).to_be_hidden()


@pytest.mark.parametrize("settings", [{"api_keys": ("a-key",)}])
def test_the_page_asks_for_a_key(browser, address):
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(address)
        page.get_by_label("Key", exact=True).fill("a-key")
        page.get_by_role("button", name="Use it").click()
        expect(page.locator("#truth")).to_contain_text("tiny")
