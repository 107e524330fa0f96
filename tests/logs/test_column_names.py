import pytest

from pygrade.logs.column_names import event_of, is_id, is_prediction, likeness, normal, role_names


@pytest.mark.parametrize(
    ("feedback", "prediction"),
    [
        ("clicked", "pred_click"),
        ("is_click", "pCTR"),
        ("bought", "p_purchase"),
        ("ordered", "order_prob"),
        ("liked", "score_like"),
        ("wished", "pred_wish"),
        ("add_to_cart", "cart_model_score"),
        ("watch_time", "predicted_watch_time"),
        ("tapped", "tapScore"),
        ("y_long_view", "p_long_view"),
    ],
)
def test_feedback_and_prediction_of_one_event(feedback, prediction):
    assert likeness(event_of(feedback), event_of(prediction)) > 0
    assert is_prediction(prediction) and not is_prediction(feedback)


def test_events_that_differ_are_told_apart():
    for feedback, prediction in (
        ("clicked", "pred_buy"),
        ("liked", "p_click"),
        ("cart", "p_order"),
        ("price", "p_play"),
    ):
        assert likeness(event_of(feedback), event_of(prediction)) == 0
    assert likeness("order", "order") > likeness("ordered", "order") > likeness("bought", "order") > 0


def test_names_are_compared_without_case_and_separators():
    assert normal("Session-ID") == normal("sessionId") == normal("SESSION_ID") == role_names("request_id")[5]
    assert is_id("campaign_id") and is_id("adUUID") and not is_id("hour")
