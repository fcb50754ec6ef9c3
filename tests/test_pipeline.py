"""Examples of one size with labels checked, and batches that are a function of their step."""

import dataclasses
import itertools
import platform
import resource
import threading
import time

import numpy as np
import pytest
import scipy.ndimage

from jaxseg import Batch
from jaxseg.config import Data
from jaxseg.data import DataError, Example, batches, eval_positions, train_positions
from jaxseg.data.pipeline import example_spec, make_loader


class Numbered:
    """Examples that carry their index in every pixel, and an account of who read them."""

    def __init__(self, length, delay=0.0, bad=()):
        self.length, self.delay, self.bad = length, delay, bad
        self.reads, self.threads = [], set()

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        self.reads.append(int(index))
        self.threads.add(threading.get_ident())
        # Unequal waits, so that examples are ready in another order than they are asked for.
        time.sleep(self.delay * (index * 7 % 5) / 5)
        mask = np.full((2, 3), 99 if index in self.bad else index % 2, np.uint8)
        return Example(np.full((2, 3, 1), index, np.uint8), mask)

    def name(self, index):
        return f"example {index}"


SMALL = Data(image_size=(2, 3))


def read(source, positions, config=SMALL, **bounds):
    return list(batches(source, positions, config, **bounds))


def indices(batch):
    return batch.images[:, 0, 0, 0].tolist()


def join(shares):
    """The global batches, of which each host has a block of rows."""
    return [
        Batch(*map(np.concatenate, zip(*step, strict=True))) for step in zip(*shares, strict=True)
    ]


def assert_same(found, expected):
    """The same batches, bit for bit."""
    assert len(found) == len(expected) > 0
    for a, b in zip(found, expected, strict=True):
        assert isinstance(a, Batch)
        for x, y in zip(a, b, strict=True):
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)


# The order of training.


@pytest.mark.parametrize(("length", "batch_size"), [(10, 4), (12, 4), (3, 8), (1, 2), (97, 8)])
def test_every_epoch_is_a_permutation(length, batch_size):
    """Each example once in an epoch, though batches reach across epochs."""
    positions = train_positions(length, batch_size=batch_size, seed=1)
    steps = -(-4 * length // batch_size)
    order = np.concatenate([positions[step][:, 0] for step in range(steps)])[: 4 * length]
    for epoch in order.reshape(4, length):
        assert sorted(epoch) == list(range(length))


def epochs(seed, count, length=30):
    positions = train_positions(length, batch_size=length, seed=seed)
    return [tuple(positions[step][:, 0].tolist()) for step in range(count)]


def test_epochs_differ():
    assert len(set(epochs(0, 12)) - {tuple(range(30))}) == 12


def test_seeds_differ():
    """No epoch of a seed is one of another seed: runs of seeds 0, 1, 2 are independent."""
    orders = [order for seed in range(5) for order in epochs(seed, 5)]
    assert len(set(orders)) == 25


def test_seed_decides():
    assert epochs(3, 5) == epochs(3, 5)


def test_batches_have_no_end():
    """Training reads any step, far beyond the first epochs, at once."""
    source = Numbered(10)
    positions = train_positions(10, batch_size=4, seed=0)
    late = batches(source, positions, SMALL, start=10**9, stop=10**9 + 5)
    found = list(itertools.islice(late, 6))
    assert sorted(i for batch in found for i in indices(batch)) == sorted([*range(10)] * 2)
    assert len(source.reads) == 20


@pytest.mark.parametrize(("batch_size", "hosts"), [(1, 1), (2, 1), (2, 2), (8, 2), (4, 4), (8, 4)])
def test_any_share_of_a_batch(batch_size, hosts):
    """A host's share may be one image."""
    shares = [
        train_positions(10, batch_size=batch_size, seed=0, host=host, hosts=hosts)[5][:, 0].tolist()
        for host in range(hosts)
    ]
    assert [len(share) for share in shares] == [batch_size // hosts] * hosts
    assert len(set(itertools.chain(*shares))) == batch_size


# Batches.


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_share_the_same_global_batches(hosts):
    """The hosts' batches, one below the other, are the batch of a single host, at every step."""
    source = Numbered(10)

    def positions(**share):
        return train_positions(10, batch_size=8, seed=5, **share)

    alone = read(source, positions(), stop=7)
    shares = [read(source, positions(host=h, hosts=hosts), stop=7) for h in range(hosts)]
    joined = join(shares)
    assert_same(joined, alone)


def test_hosts_read_disjoint_parts():
    """In one epoch the hosts together read each example once, each no more than its part."""
    sources = [Numbered(16) for _ in range(4)]
    for host, source in enumerate(sources):
        read(source, train_positions(16, batch_size=8, seed=0, host=host, hosts=4), stop=2)
    assert [len(source.reads) for source in sources] == [4] * 4
    assert sorted(itertools.chain(*(source.reads for source in sources))) == list(range(16))


def test_threads_leave_the_order():
    """One thread and eight give the same batches, though the eight run together."""
    found = []
    for threads in (1, 8):
        source = Numbered(40, delay=0.01)
        config = Data(image_size=(2, 3), threads=threads)
        positions = train_positions(40, batch_size=2, seed=2)
        found.append(read(source, positions, config, start=3, stop=30))
        assert (len(source.threads) > 1) == (threads > 1)
    assert_same(*found)


@pytest.mark.parametrize("start", [1, 2, 3, 6, 8])
def test_starting_in_the_middle(start):
    """From any step on, the batches are those of the run from 0: in and between epochs."""
    positions = train_positions(10, batch_size=4, seed=4)
    whole = read(Numbered(10), positions, stop=9)
    rest = read(Numbered(10), positions, start=start, stop=9)
    assert_same(rest, whole[start:])


def test_starting_in_the_middle_reads_nothing_before():
    source = Numbered(100)
    positions = train_positions(100, batch_size=4, seed=4)
    read(source, positions, start=20, stop=22)
    assert sorted(source.reads) == sorted([*positions[20][:, 0], *positions[21][:, 0]])


def test_training_without_a_stop():
    """Without `stop` the batches go on, and the first are the same."""
    positions = train_positions(10, batch_size=4, seed=4)
    endless = list(itertools.islice(batches(Numbered(10), positions, SMALL), 12))
    assert_same(endless, read(Numbered(10), positions, stop=12))


def test_a_stop_at_the_start_is_no_batch():
    assert read(Numbered(10), train_positions(10, batch_size=4, seed=4), start=5, stop=5) == []


@pytest.mark.parametrize("hosts", [1, 2, 4])
@pytest.mark.parametrize(("length", "batch_size"), [(8, 4), (10, 4), (3, 8), (1, 4), (9, 8)])
def test_evaluation_covers_every_image_once(length, batch_size, hosts):
    """In order, the last batch filled up to the same shape with images that don't count."""
    source = Numbered(length)
    shares = [
        read(source, eval_positions(length, batch_size=batch_size, host=h, hosts=hosts))
        for h in range(hosts)
    ]
    joined = join(shares)
    assert len(joined) == -(-length // batch_size)
    assert {x.images.shape for share in shares for x in share} == {(batch_size // hosts, 2, 3, 1)}
    images, labels, where, sizes = map(np.concatenate, zip(*joined, strict=True))
    np.testing.assert_array_equal(images[:length, 1, 2, 0], np.arange(length))
    np.testing.assert_array_equal(labels[:length, 1, 2], np.arange(length) % 2)
    assert where[:length].all()
    assert not where[length:].any()
    assert not images[length:].any()
    assert not labels[length:].any()
    assert sizes.tolist() == [[2, 3]] * length + [[0, 0]] * (len(sizes) - length)
    assert sorted(source.reads) == list(range(length))


def test_an_error_in_a_thread_arrives():
    """A label outside the classes ends the run with the line that names the file."""
    found = batches(Numbered(10, bad=(5,)), eval_positions(10, batch_size=2), SMALL)
    assert [indices(next(found)), indices(next(found))] == [[0, 1], [2, 3]]
    with pytest.raises(DataError, match=r"^example 5: mask value 99 \(6 pixels\).*label_map"):
        next(found)


def test_batches_are_small_until_the_step():
    """Images and labels cross to the device as bytes."""
    (batch,) = read(Numbered(4), train_positions(4, batch_size=4, seed=0), stop=1)
    assert [x.dtype for x in batch] == [np.uint8, np.uint8, np.bool_, np.int32]
    assert [x.shape for x in batch] == [(4, 2, 3, 1), (4, 2, 3), (4, 2, 3), (4, 2)]


# One example.


class Given(list):
    """Examples from memory."""

    def name(self, index):
        return f"example {index}"


def load(mask, image=None, **config):
    mask = np.asarray(mask)
    if image is None:
        image = np.arange(mask.size, dtype=np.uint8).reshape(*mask.shape, 1)
    config = {"image_size": mask.shape, "classes": ("a", "b", "c"), **config}
    return make_loader(Given([Example(image, mask)]), Data(**config))(0)


@pytest.mark.parametrize("ignore_label", [255, 3, -1, 70_000])
def test_ignored_labels_do_not_count(ignore_label):
    """ignore_label becomes `where` False and label 0, whatever number it is."""
    mask = np.array([[0, 1, 2], [2, 1, 0]], np.int32)
    mask[0, 1] = mask[1, 2] = ignore_label
    batch = load(mask, ignore_label=ignore_label)
    np.testing.assert_array_equal(batch.where, mask != ignore_label)
    np.testing.assert_array_equal(batch.labels, np.where(mask == ignore_label, 0, mask))


@pytest.mark.parametrize(("classes", "ignore_label"), [(3, 0), (3, 2), (256, 255)])
def test_ignored_label_of_a_class(classes, ignore_label):
    """Without a label_map nobody can say which is meant; the last of 256 classes would be lost."""
    names = tuple(f"class {i}" for i in range(classes))
    message = rf"ignore_label is {ignore_label}, .* class 'class {ignore_label}'.* -1"
    with pytest.raises(DataError, match=message):
        load(np.zeros((2, 2), np.uint8), ignore_label=ignore_label, classes=names)
    load(np.zeros((2, 2), np.uint8), ignore_label=-1, classes=names)


@pytest.mark.parametrize("ignore_label", [255, 3, -1, 70_000])
def test_label_map(ignore_label):
    """Values become classes; the ignored value needs no entry, and can be the target of one."""
    mask = np.array([[10, 20, 30], [40, 10, 65_535]], np.int32)
    mask[1, 1] = ignore_label
    label_map = ((10, 2), (20, 0), (30, 1), (40, ignore_label), (65_535, 2))
    batch = load(mask, label_map=label_map, ignore_label=ignore_label)
    np.testing.assert_array_equal(batch.where, [[True] * 3, [False, False, True]])
    np.testing.assert_array_equal(batch.labels, [[2, 0, 1], [0, 0, 2]])


@pytest.mark.parametrize("num_classes", [253, 254, 255, 256])
def test_bytes_and_wider_masks_become_the_same(num_classes):
    """Bytes are looked up in a table, that has no room for more classes than 254."""
    mask = np.arange(256).reshape(16, 16).astype(np.uint8)
    config = {"classes": tuple(map(str, range(num_classes))), "ignore_label": -1}
    if num_classes < 256:
        with pytest.raises(DataError, match=f"mask value {num_classes} .1 pixel"):
            load(mask, **config)
        config["label_map"] = tuple((i, i if i < num_classes else -1) for i in range(256))
    batch, wide = (load(x, **config) for x in (mask, mask.astype(np.int32)))
    assert_same([batch], [wide._replace(images=batch.images)])
    np.testing.assert_array_equal(batch.where, mask < num_classes)
    np.testing.assert_array_equal(batch.labels, np.where(mask < num_classes, mask, 0))


def test_label_map_goes_before_ignore_label():
    """Masks of 0 and 255 need their map alone: 255 is a class where label_map says so."""
    batch = load([[0, 255, 255]], label_map=((0, 0), (255, 1)), ignore_label=255)
    np.testing.assert_array_equal(batch.labels, [[0, 1, 1]])
    assert batch.where.all()


def test_ignored_values_are_told_from_classes():
    """Masks 1..N with 0 unlabelled: value 0 doesn't count, while class 0 does, or it's refused."""
    try:
        batch = load([[0, 1, 2, 3]], label_map=((1, 0), (2, 1), (3, 2)), ignore_label=0)
    except DataError:
        return
    np.testing.assert_array_equal(batch.where, [[False, True, True, True]])
    np.testing.assert_array_equal(batch.labels, [[0, 0, 1, 2]])


@pytest.mark.parametrize("ignore_label", [255, -1, -2, 70_000])
def test_unlisted_values_are_not_ignored(ignore_label):
    """A value that label_map leaves out is an error, however values that don't count are marked."""
    with pytest.raises(DataError, match=r"^example 0: mask value 7 .1 pixel.*add it to data\."):
        load([[0, 1, 7]], label_map=((0, 0), (1, 1)), ignore_label=ignore_label)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int32, np.int64])
def test_masks_of_any_integers(dtype):
    mask = np.array([[0, 1], [2, 7]], dtype)
    for config in ({"ignore_label": 7}, {"label_map": ((0, 0), (1, 1), (2, 2), (7, 255))}):
        batch = load(mask, **config)
        np.testing.assert_array_equal(batch.labels, [[0, 1], [2, 0]])
        np.testing.assert_array_equal(batch.where, [[True, True], [True, False]])


@pytest.mark.parametrize("size", [(20, 30), (10, 15)])
def test_many_classes(size):
    """More than 256 classes keep their numbers, also through scaling down."""
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 70_000, (10, 15)).repeat(2, 0).repeat(2, 1).astype(np.int32)
    batch = load(mask, classes=tuple(map(str, range(70_000))), ignore_label=-1, image_size=size)
    assert batch.labels.max() > 65_536
    step = 30 // size[1]
    np.testing.assert_array_equal(batch.labels, mask[::step, ::step])


@pytest.mark.parametrize("found", [1, 3, 4])
@pytest.mark.parametrize("channels", [1, 3])
def test_channels(found, channels):
    """Grey is repeated, colours are weighted, alpha is dropped."""
    image = np.random.default_rng(0).integers(0, 256, (4, 5, found), dtype=np.uint8)
    rgb = np.repeat(image, 3, -1) if found == 1 else image[..., :3]
    images = load(np.zeros((4, 5), np.uint8), image, channels=channels).images
    if channels == 3:
        np.testing.assert_array_equal(images, rgb)
    else:
        grey = rgb @ np.array([0.299, 0.587, 0.114])
        np.testing.assert_allclose(images[..., 0].astype(float), grey, atol=0.51)


def test_smaller_images_are_padded():
    """Never scaled up: the pixels stay as they are, at the top left; the rest doesn't count."""
    mask = np.array([[1, 2, 0], [2, 2, 1]], np.uint8)
    image = np.arange(10, 16, dtype=np.uint8).reshape(2, 3, 1)
    batch = load(mask, image, image_size=(5, 4))
    np.testing.assert_array_equal(batch.images[:2, :3], image)
    np.testing.assert_array_equal(batch.labels[:2, :3], mask)
    inside = np.zeros((5, 4), bool)
    inside[:2, :3] = True
    np.testing.assert_array_equal(batch.where, inside)
    assert not batch.images[~inside].any()
    assert not batch.labels[~inside].any()


@pytest.mark.parametrize(
    ("old", "size", "new"),
    [
        ((40, 60), (20, 20), (13, 20)),
        ((60, 40), (20, 20), (20, 13)),
        ((40, 60), (40, 59), (39, 59)),
        ((100, 10), (20, 30), (20, 2)),
        ((3, 900), (30, 30), (1, 30)),
        ((21, 30), (20, 40), (20, 29)),
        ((401, 10), (400, 20), (400, 10)),
    ],
)
def test_larger_images_are_scaled_down(old, size, new):
    """By one factor for both sides, as large as fits; the rest is padding."""
    image = np.full((*old, 3), (200, 100, 50), np.uint8)
    batch = load(np.ones(old, np.uint8), image, channels=3, image_size=size)
    inside = np.zeros(size, bool)
    inside[: new[0], : new[1]] = True
    np.testing.assert_array_equal(batch.where, inside)
    np.testing.assert_array_equal(batch.labels, inside)
    np.testing.assert_array_equal(batch.images, inside[..., None] * np.uint8([200, 100, 50]))


def test_scaled_images_are_averaged():
    """Each pixel is the mean of those it stands for, so that fine texture becomes grey."""
    image = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    found = load(np.zeros((24, 40), np.uint8), image, channels=3, image_size=(6, 10)).images
    expected = image.reshape(6, 4, 10, 4, 3).mean((1, 3))
    np.testing.assert_allclose(found.astype(float), expected, atol=0.51)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("new", [16, 17, 25, 30, 39])
def test_scaled_labels_stay_on_their_image(new, axis):
    """An edge at any pixel is at the same place in the image, the labels and `where`.

    The image's pixels are averages over their area, so that they are bright where more than half
    of them is; the label there must be that of the bright side.
    """
    for edge in range(41):
        bright = np.arange(40) >= edge
        bright = np.broadcast_to(bright[:, None] if axis == 0 else bright, (40, 40))
        image = np.where(bright, 254, 0).astype(np.uint8)[..., None]
        batch = load(bright.astype(np.uint8), image, image_size=(new, new))
        clear = np.abs(batch.images[..., 0].astype(int) - 127) > 4
        assert clear.mean() >= 1 - 1 / new
        np.testing.assert_array_equal(batch.labels[clear], (batch.images[..., 0] > 127)[clear])
        ignored = load(np.where(bright, 255, 1), image, image_size=(new, new))
        np.testing.assert_array_equal(ignored.where, batch.labels == 0)


def test_scaled_labels_are_old_labels():
    """Scaling down never mixes classes, and an ignored region never becomes a class."""
    mask = np.where(np.add.outer(np.arange(37), np.arange(53)) % 7 < 3, 0, 2)
    mask[5:20, 7:30] = 255
    batch = load(mask, image=np.zeros((37, 53, 1), np.uint8), image_size=(20, 20))
    assert set(np.unique(batch.labels)) == {0, 2}
    inside = batch.where[:14]
    assert 1 - inside.mean() == pytest.approx((mask == 255).mean(), abs=0.03)
    assert not batch.labels[~batch.where].any()


def test_past_the_end_nothing_counts():
    batch = make_loader(Given(), Data(image_size=(3, 4), channels=3))(7)
    assert batch.images.shape == (3, 4, 3)
    assert not any(x.any() for x in batch)


def test_sizes_that_differ():
    with pytest.raises(DataError, match="example 0: the image is 2x3, but its mask 3x2"):
        load(np.zeros((3, 2), np.uint8), np.zeros((2, 3, 1), np.uint8))


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_images_that_are_not_bytes(dtype):
    with pytest.raises(DataError, match=rf"example 0: the image is {np.dtype(dtype)}.*uint8"):
        load(np.zeros((2, 3), np.uint8), np.zeros((2, 3, 1), dtype))


def test_channels_that_can_not_be_made():
    with pytest.raises(DataError, match=r"example 0: .*5 channels.*data\.channels=5"):
        load(np.zeros((2, 3), np.uint8), np.zeros((2, 3, 5), np.uint8), channels=3)


@pytest.mark.parametrize(
    ("values", "named"), [([0, 3, 3], "value 3 .2 pixels"), ([-1, 9, 9], "value -1 .1 pixel")]
)
@pytest.mark.parametrize("label_map", [(), ((0, 1), (1, 2))])
def test_labels_outside(values, named, label_map):
    """With a map or without, a value that means nothing is an error, not class 0."""
    with pytest.raises(DataError, match=rf"^example 0: mask {named}.*data\.label_map"):
        load(np.array([values], np.int32), label_map=label_map)


# Patches.

VARIED = Data(image_size=(40, 40), patch_size=(8, 6), classes=("a", "b"), foreground=0.0)


class Varied:
    """Images that hold their coordinates, of many sizes, with one pixel of class 1 each."""

    def __init__(self, sizes):
        self.sizes = sizes

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        rows, columns = np.mgrid[: self.sizes[index][0], : self.sizes[index][1]]
        mask = np.zeros(self.sizes[index], np.uint8)
        mask[self.pixel(index)] = 1
        return Example((rows * 40 + columns).astype(np.uint16)[..., None], mask)

    def pixel(self, index):
        height, width = self.sizes[index]
        return height - 1, width // 3

    def name(self, index):
        return f"example {index}"

    def version(self, index):
        return f"version {index}"


def patches(config, size, count=400):
    config = dataclasses.replace(config, bits=16)
    load = make_loader(Varied([size]), config)
    return [load(0, draw) for draw in range(count)]


def test_patches_are_everywhere():
    """Each place that a patch can have occurs about equally often, and no other."""
    found = patches(VARIED, (11, 9))
    corners = [divmod(int(x.images[0, 0, 0]), 40) for x in found]
    counts = {corner: corners.count(corner) for corner in set(corners)}
    assert set(counts) == set(itertools.product(range(4), range(4)))
    assert min(counts.values()) > 25 - 5 * 5  # five standard deviations
    for example, (row, column) in zip(found, corners, strict=True):
        rows, columns = np.mgrid[row : row + 8, column : column + 6]
        np.testing.assert_array_equal(example.images[..., 0], rows * 40 + columns)
        assert example.where.all()


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_patches_of_the_foreground(share):
    """So many of them have a pixel of the foreground, anywhere in the patch."""
    found = patches(dataclasses.replace(VARIED, foreground=share), (39, 31))
    have = np.array([x.labels.any() for x in found])
    by_chance = 6 / (31 - 6 + 1) / (39 - 8 + 1)  # in the last row, of those that reach it
    expected = share + (1 - share) * by_chance
    assert abs(have.mean() - expected) <= 5 * np.sqrt(expected * (1 - expected) / 400)
    places = {tuple(np.argwhere(x.labels)[0]) for x in found if x.labels.any()}
    if share == 1.0:
        assert places == {(7, column) for column in range(6)}


def test_patches_of_small_images():
    """Sides that are too short are padded."""
    (example,) = patches(dataclasses.replace(VARIED, foreground=1.0), (5, 30), count=1)
    assert example.sizes.tolist() == [5, 6]
    assert example.where[:5].all()
    assert not example.where[5:].any()


def test_patches_are_a_function_of_their_draw():
    """Other hosts, threads and starts give the same patches; other seeds and epochs others."""
    config = dataclasses.replace(VARIED, bits=16)
    source = Varied([(20 + i, 15 + i) for i in range(6)])

    def of(seed=3, hosts=1, start=0, **fields):
        positions = [
            train_positions(6, batch_size=4, seed=seed, host=h, hosts=hosts) for h in range(hosts)
        ]
        page = dataclasses.replace(config, **fields)
        return join([read(source, x, page, start=start, stop=9) for x in positions])

    straight = of()
    assert_same(of(hosts=4, start=5, threads=1), straight[5:])
    assert_same(of(hosts=2), straight)

    def rows(batches):
        return np.concatenate([x.images for x in batches])[:36]  # six epochs of six images

    def number_alike(a, b):
        return sum(np.array_equal(x, y) for x, y in zip(a, b, strict=True))

    epochs = rows(straight).reshape(6, 6, -1)
    assert all(len({x.tobytes() for x in epoch}) > 3 for epoch in epochs)
    assert number_alike(rows(straight), rows(of(seed=4))) < 4


def test_evaluation_takes_whole_images():
    """Of the size that is asked for, or an error: nothing is scaled where training is not."""
    config = dataclasses.replace(VARIED, bits=16)
    (batch,) = read(Varied([(20, 15)]), eval_positions(1, batch_size=1), config)
    assert batch.sizes.tolist() == [[20, 15]]
    with pytest.raises(DataError, match=r"41x20, larger than data\.image_size 40x40"):
        read(Varied([(41, 20)]), eval_positions(1, batch_size=1), config)


def test_patches_of_votes_and_shares():
    """Soft labels are cut as images are."""
    sizes, kinds = (30, 30), {"votes": (3, 30, 30), "shares": (30, 30, 2)}
    for masks, shape in kinds.items():
        mask = np.random.default_rng(0).integers(0, 2, shape, np.uint8)
        whole = Varied([sizes])[0].image

        class One(Varied):
            def __getitem__(self, index, image=whole, mask=mask):
                return Example(image, mask)

        config = dataclasses.replace(VARIED, bits=16, masks=masks, foreground=0.5)
        for draw in range(5):
            found = make_loader(One([sizes]), config)(0, draw)
            row, column = divmod(int(found.images[0, 0, 0]), 40)
            part = np.s_[row : row + 8, column : column + 6]
            amounts = mask
            if masks == "votes":
                amounts = np.stack([(mask == label).sum(0) for label in range(2)], -1)
            np.testing.assert_array_equal(found.labels, amounts[part])


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"patch_size": (8, 8, 8)}, "data.patch_size is .* must have 2 positive numbers"),
        ({"patch_size": (0, 8)}, "data.patch_size"),
        ({"image_size": (8, 8, 8, 8)}, r"data.image_size is .* must be \(height, width\), or"),
        ({"image_size": (0, 8)}, "data.image_size"),
        ({"spacing": (1.0,)}, "data.spacing"),
        ({"foreground": 1.5}, "data.foreground is 1.5"),
        ({"bits": 12}, "data.bits is 12"),
        ({"unreadable": "ignore"}, "data.unreadable is 'ignore'"),
        ({"value_range": (2.0, 1.0)}, "data.value_range"),
        ({"value_percentiles": (0.0, 101.0)}, "data.value_percentiles"),
        ({"value_range": (0.0, 1.0), "value_percentiles": (0.0, 1.0)}, "choose one"),
    ],
)
def test_fields_that_make_no_example(fields, part):
    with pytest.raises(DataError, match=part):
        make_loader(Numbered(1), dataclasses.replace(SMALL, **fields))


def test_example_spec_is_what_loads():
    """Of every kind of example, for training and for evaluation."""
    for fields in ({}, {"bits": 16, "patch_size": (2, 2)}, {"masks": "votes"}):
        config = dataclasses.replace(SMALL, **fields)
        for training, draw in ((False, -1), (True, 4)):
            found = make_loader(Numbered(0), config)(5, draw)
            for array, spec in zip(found, example_spec(config, training=training), strict=True):
                assert (array.shape, array.dtype) == (spec.shape, spec.dtype)


def test_examples_are_written_over_what_was_there():
    """Of smaller images, of those beyond the end and of those that can't be read, too."""
    examples = [
        Example(np.full((*size, 1), 9, np.uint8), np.ones(size, np.uint8))
        for size in ((4, 5), (3, 2))
    ]
    examples.append(Example(examples[0].image, np.full((4, 5), 99, np.uint8)))
    load = make_loader(Given(examples), Data(image_size=(4, 5), unreadable="skip"))
    for index in range(4):
        fresh = load(index)
        assert fresh.where.sum() == (20, 6, 0, 0)[index]
        used = Batch(*(np.full_like(x, 7) for x in fresh))
        assert load(index, -1, used) is used
        assert_same([used], [fresh])
        assert not used.images[~used.where].any()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone is asked")
def test_memory_is_used_again():
    """The system has to give out few pages that it has cleared, once a few batches are read."""
    size = (1024, 1024)

    class Decoded(Given):
        def __getitem__(self, index):
            image = np.full((*size, 3), 7, np.uint8)
            return Example(image.copy(), np.zeros(size, np.uint8))  # as OpenCV does

    config = Data(image_size=size, channels=3, threads=1)
    found = batches(Decoded([0]), train_positions(1, batch_size=2, seed=0), config)
    pages = sum(x.nbytes for x in next(found)) // resource.getpagesize()
    for _ in range(10):
        next(found)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        next(found)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 10 * pages / 4


# What can't be read.


def test_unreadable_examples_are_skipped():
    """They don't count, each is told, and all others are where they were."""
    config = dataclasses.replace(SMALL, unreadable="skip")
    positions = train_positions(10, batch_size=4, seed=0)
    told = []
    found = read(Numbered(10, bad=(2, 7)), positions, config, stop=5, on_skip=told.append)
    straight = read(Numbered(10), positions, stop=5)
    for batch, good, rows in zip(found, straight, positions, strict=False):
        bad = np.isin(rows[:, 0], (2, 7))
        assert not batch.where[bad].any()
        assert not batch.images[bad].any()
        assert batch.sizes[bad].sum() == 0
        for a, b in zip(batch, good, strict=True):
            np.testing.assert_array_equal(a[~bad], b[~bad])
    assert len(told) == 4  # two epochs
    assert all("mask value 99" in text for text in told)
    assert {text.split(":")[0] for text in told} == {"example 2", "example 7"}


def test_nothing_but_unreadable_examples_is_an_error():
    """What is wrong with all of them, such as a label_map, is no matter of a file."""
    config = dataclasses.replace(SMALL, unreadable="skip")
    positions = eval_positions(4, batch_size=2)
    with pytest.raises(DataError, match="mask value 99"):
        read(Numbered(4, bad=range(4)), positions, config)


# Objects.


def test_borders_of_objects_that_are_scaled_down():
    """They are drawn at the size that is seen: what touches stays apart."""
    ids = np.zeros((96, 96), np.uint16)
    ids[16:80, 16:48], ids[16:80, 48:80] = 7, 300

    class Touching(list):
        def name(self, index):
            return "touching"

    source = Touching([Example(np.zeros((96, 96, 1), np.uint8), ids)])
    for side in (96, 64, 40, 24, 16):
        config = Data(
            masks="borders", classes=("background", "inside", "border"), image_size=(side, side)
        )
        labels = make_loader(source, config)(0).labels
        _, count = scipy.ndimage.label(labels == 1)
        assert count == 2, side


# The cache.


def test_cache_decodes_once(tmp_path):
    """The second time nothing is read, and batches are the same; other configs don't share it."""
    cached = dataclasses.replace(SMALL, cache=str(tmp_path / "new" / "cache"))
    positions = eval_positions(7, batch_size=2)
    source = Versioned(7)
    first = read(source, positions, cached)
    assert sorted(source.reads) == list(range(7))
    again = read(source, positions, dataclasses.replace(cached, threads=1))
    assert len(source.reads) == 7
    assert_same(again, first)
    assert_same(first, read(Numbered(7), positions))
    read(source, positions, dataclasses.replace(cached, image_size=(1, 2)))
    assert len(source.reads) == 14


def test_cache_notices_what_changed(tmp_path):
    """A file that is another one, and a part of the cache that was cut short, are read anew."""
    cached = dataclasses.replace(SMALL, cache=str(tmp_path))
    positions = eval_positions(3, batch_size=3)
    source = Versioned(3)
    (straight,) = read(source, positions, cached)
    victim = max(tmp_path.iterdir())
    victim.write_bytes(victim.read_bytes()[:-1])
    assert_same(read(source, positions, cached), [straight])
    assert len(source.reads) == 4
    source.versions[1] = "later"
    assert_same(read(source, positions, cached), [straight])
    assert source.reads[4:] == [1]


def test_what_vanished_is_skipped_with_a_cache_too(tmp_path):
    class Vanished(Versioned):
        def version(self, index):
            if index == 1:
                raise FileNotFoundError("it is gone")
            return super().version(index)

    told = []
    config = dataclasses.replace(SMALL, cache=str(tmp_path), unreadable="skip")
    (batch,) = read(Vanished(3), eval_positions(3, batch_size=3), config, on_skip=told.append)
    assert batch.where.any((1, 2)).tolist() == [True, False, True]
    assert len(told) == 1
    assert "example 1" in told[0]


def test_cache_of_patches(tmp_path):
    config = dataclasses.replace(VARIED, bits=16, foreground=0.5)
    source = Varied([(20 + i, 15 + i) for i in range(6)])
    positions = train_positions(6, batch_size=4, seed=0)
    straight = read(source, positions, config, stop=6)
    cached = dataclasses.replace(config, cache=str(tmp_path))
    for _ in range(2):
        assert_same(read(source, positions, cached, stop=6), straight)


class Versioned(Numbered):
    def __init__(self, length):
        super().__init__(length)
        self.versions = {}

    def version(self, index):
        return f"{index} {self.versions.get(index, 'first')}"
