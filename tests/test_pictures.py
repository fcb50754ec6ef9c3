"""Pictures of images, volumes and label distributions, pixel by pixel."""

import numpy as np
import pytest

from jaxseg import pictures

CAPTION = 18  # rows of text above a panel
CLASSES = ("background", "inside", "border")


def example(shape, seed=0):
    """An image, labels, `where` and probabilities."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (*shape, 1), np.uint8)
    labels = rng.integers(0, 3, shape).astype(np.uint8)
    probs = rng.dirichlet((1.0,) * 3, shape).astype(np.float32)
    return image, labels, rng.random(shape) < 0.9, probs


def split(row, number):
    """The pictures of a row of panels, without captions and gaps."""
    return [x[CAPTION:, :-4] for x in np.split(row, number, 1)]


def pixels_of(picture, shape):
    """The pixels of a picture that was enlarged."""
    return picture[:: picture.shape[0] // shape[0], :: picture.shape[1] // shape[1]]


def test_a_volume_is_shown_by_the_slice_with_most_that_is_labelled():
    """Where it does not count, nothing is labelled; the caption names the slice."""
    image, labels, where, probs = example((4, 7, 9))
    labels[:] = 0
    labels[1, :2] = 1
    labels[2, :3] = 2
    labels[3] = 1
    where[:] = True
    where[3, 1:] = False
    found = pictures.panels(image, labels, where, probs, CLASSES)
    flat = pictures.panels(image[2], labels[2], where[2], probs[2], CLASSES)
    np.testing.assert_array_equal(found[CAPTION:], flat[CAPTION:])
    assert (found[:CAPTION] != flat[:CAPTION]).any()
    _, label, *_ = split(found, 4)
    wanted = pictures.palette(3)[labels[2]]
    np.testing.assert_array_equal(pixels_of(label, (7, 9)), wanted)


@pytest.mark.parametrize("soft", [False, True])
def test_volumes_are_compared_by_the_slice_with_most_errors(soft):
    """Of pixels that count; without errors it is the one with most that is labelled."""
    image, labels, where, probs = example((4, 6, 5))
    where[:] = True
    labels[:] = 0
    labels[1, :4] = 1
    preds = labels.copy()
    targets = np.eye(3, dtype=np.uint8)[labels] * np.uint8(5) if soft else labels
    for index, wrong in ((1, None), (3, np.s_[3, 0, :3]), (0, np.s_[0])):
        if wrong is not None:
            preds[wrong] = 2
        found = pictures.comparison(image, targets, where, preds, probs, 3)
        cut = (x[index] for x in (image, targets, where, preds, probs))
        flat = pictures.comparison(*cut, 3)
        np.testing.assert_array_equal(found[CAPTION:], flat[CAPTION:])
    where[0] = False
    found = pictures.comparison(None, targets, where, preds, None, 3)
    flat = pictures.comparison(None, targets[3], where[3], preds[3], None, 3)
    np.testing.assert_array_equal(found[CAPTION:], flat[CAPTION:])


def test_segments_of_volumes():
    """Ids are none of the other mask's: wrong is a pixel that is of a segment in one alone."""
    labels, preds = np.zeros((2, 3, 6, 5), np.int64)
    where = np.ones(labels.shape, bool)
    labels[0, :3], preds[0, :3] = 1, 7
    for index, wrong in ((0, None), (2, np.s_[2, 0])):
        if wrong is not None:
            preds[wrong] = 3
        found = pictures.segments(labels, where, preds)
        flat = pictures.segments(labels[index], where[index], preds[index])
        np.testing.assert_array_equal(found[CAPTION:], flat[CAPTION:])


def test_amounts_are_drawn_as_mixtures_of_colours():
    """By their shares; over the image, the share of class 0 is the image."""
    image, _, _, probs = example((2, 2))
    amounts = np.array([[[4, 0, 0], [1, 3, 0]], [[0, 0, 2], [0, 2, 2]]], np.uint8)
    where = np.ones((2, 2), bool)
    shown, label, mixed, _ = split(pictures.panels(image, amounts, where, probs, CLASSES), 4)
    np.testing.assert_allclose(pixels_of(mixed, (2, 2)), probs @ pictures.palette(3), atol=1)
    _, inside, border = pictures.palette(3).astype(float)
    wanted = np.array([[0 * inside, 0.75 * inside], [border, inside / 2 + border / 2]])
    np.testing.assert_allclose(pixels_of(label, (2, 2)), wanted, atol=1)
    halves = (amounts / 8).astype(np.float16)
    found = pictures.panels(image, halves, where, probs, CLASSES)
    np.testing.assert_allclose(split(found, 4)[1], label, atol=1)

    preds = np.zeros((2, 2), np.uint8)
    row = pictures.comparison(image, amounts, where, preds, None, 3)
    over, pred, wrong = split(row, 3)
    shown = pixels_of(shown, (2, 2)).astype(float)
    seen = np.array([[0, 0.75], [1, 1]])[..., None]
    np.testing.assert_allclose(pixels_of(over, (2, 2)), shown * (1 - seen / 2) + wanted / 2, atol=2)
    np.testing.assert_array_equal(pixels_of(pred, (2, 2)), shown)
    red = (pixels_of(wrong, (2, 2)) == (220, 30, 30)).all(-1)
    np.testing.assert_array_equal(red, [[False, True], [True, True]])

    row = pictures.comparison(image, amounts, where, preds, probs, 3)
    wanted = shown * (1 + probs[..., :1]) / 2 + probs @ pictures.palette(3) / 2
    np.testing.assert_allclose(pixels_of(split(row, 4)[1], (2, 2)), wanted, atol=2)


@pytest.mark.parametrize("soft", [False, True])
def test_contact_sheets_mix_what_becomes_one_pixel(soft):
    """Lines of one pixel in four are a quarter of their colour, and votes are by their share."""
    image = np.full((704, 704, 1), 9, np.uint8)
    labels = np.zeros((704, 704), int)
    labels[:, ::4] = 2
    where = np.arange(704)[:, None] >= np.full((1, 704), 352)
    if soft:
        labels = np.uint8([[4, 0, 0], [0, 0, 0], [2, 0, 2]])[labels]
    found = pictures.contact_sheet([("a", image, labels, where)], CLASSES)
    tile = found[CAPTION : CAPTION + 176, 180:356].astype(int)
    _, _, colour = pictures.palette(3).astype(int)
    share = 0.5 if soft else 1.0  # of the label's colour alone, or half over the image, black here
    wanted = colour * share / 4 * (1 if soft else 0.5)
    np.testing.assert_allclose(tile[96:], np.broadcast_to(wanted, (80, 176, 3)), atol=1)
    np.testing.assert_allclose(tile[:80], 64, atol=1)


def test_images_of_16_bits_are_shown_as_those_of_8():
    image, *others = example((20, 30))
    found = pictures.panels(image.astype(np.uint16) * 257, *others, CLASSES)
    wanted = pictures.panels(image, *others, CLASSES)
    np.testing.assert_allclose(found.astype(int), wanted, atol=1)
    assert np.std(wanted[CAPTION:, :100]) > 50
