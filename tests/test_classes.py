"""The classes a user has: their names, their images, a head for them alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from jettison.errors import DataError, ModelError
from jettison.training.data import class_indices, classifier, load, only_classes, shrink_head, with_others
from jettison.training.data.dataset import StoredImages


def test_a_data_set_of_the_chosen_classes() -> None:
    data = load("digits")
    chosen = class_indices(data, ["7", "2"])
    assert chosen == [2, 7]
    few, same = only_classes(data, chosen, "shrink"), only_classes(data, chosen, "keep")
    assert few.classes == ("2", "7") and same.classes == data.classes
    assert set(few.test.labels) == {0, 1} and set(same.test.labels) == {2, 7}
    of_seven = np.asarray(data.test.images)[data.test.labels == 7]
    np.testing.assert_array_equal(np.asarray(few.test.images)[few.test.labels == 1], of_seven)
    assert few.train is not None and data.train is not None and len(few.train) == np.isin(data.train.labels, [2, 7]).sum()
    lazy = replace(data, train=None, test=replace(data.test, images=StoredImages(np.asarray(data.test.images))))
    seen = only_classes(lazy, chosen, "shrink").test
    assert len(seen.images) == len(seen) and (seen.images[0] == np.asarray(few.test.images)[0]).all()


def test_names_are_found_as_people_write_them() -> None:
    data = replace(load("digits"), classes=("n01440764 tench, Tinca tinca", "n02123045 tabby cat", "Dog", "dog", *"456789"))
    assert class_indices(data, ["Tench", "n02123045", "Dog"]) == [0, 1, 2]
    for names, message in (
        (["tabby", "4"], "class 'tabby' is not in digits; did you mean 'tabby cat'"),
        (["DOG", "4"], "may be 'Dog' or 'dog'; write one in full, if it has commas in a file: --classes @FILE"),
        (["4", "4"], "class '4' is named twice"),
        (["4"], "at least two classes"),
        (["zebra", "4"], "class 'zebra' is not in digits; it has n01440764 tench"),
    ):
        with pytest.raises(DataError, match=message):
            class_indices(data, names)
    bare = replace(data, test=replace(data.test, images=np.asarray(data.test.images)[:1], labels=np.array([4])))
    with pytest.raises(DataError, match="class '5' has no test images in digits"):
        only_classes(bare, [4, 5], "keep")
    assert data.train is not None
    unseen = replace(data, train=replace(data.train, labels=np.minimum(data.train.labels, 4)))
    with pytest.raises(DataError, match="class '5' has no training images in digits; leave it out or add some"):
        only_classes(unseen, [4, 5], "keep")


def test_a_shrunk_head_gives_the_scores_of_the_chosen_classes() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 12, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10))
    x = torch.rand(6, 1, 8, 8)
    whole = model(x)
    shrink_head(model, [2, 7, 9], 10)
    torch.testing.assert_close(model(x), whole[:, [2, 7, 9]])
    assert model[4].out_features == 3
    with pytest.raises(ModelError, match="has 3 outputs for 10 classes"):
        shrink_head(model, [0, 1], 10)
    with pytest.raises(ModelError, match="no convolution and no linear layer"):
        classifier(nn.ReLU())


@pytest.mark.parametrize("memory", [True, False])
def test_other_images_are_drawn_for_each_epoch(memory: bool) -> None:
    data = load("digits")
    assert data.train is not None
    if not memory:
        data = replace(data, train=replace(data.train, images=StoredImages(np.asarray(data.train.images))))
    few = only_classes(data, [2, 7], "keep")
    both = with_others(few, data, 0.75)
    assert few.train is not None and both.train is not None and both.test is few.test
    count = len(few.train)
    assert both.train.epoch == pytest.approx(4 * count, abs=2)
    seen = []
    for epoch in (0, 0, 1):
        order = both.train.order(torch.Generator().manual_seed(epoch)).numpy()
        assert len(set(order)) == len(order) == both.train.epoch
        labels = both.train.labels[order]
        assert np.isin(labels, [2, 7]).sum() == count
        seen.append(order)
    assert (seen[0] == seen[1]).all() and set(seen[0]) != set(seen[2])
    place = int(seen[0][np.isin(both.train.labels[seen[0]], [2, 7], invert=True)][0])
    image, label = np.asarray(both.train.images[place]), both.train.labels[place]
    assert any((np.asarray(data.train.images[int(i)]) == image).all() for i in np.flatnonzero(data.train.labels == label))
    assert with_others(few, data, 0.0) is few
    most = with_others(few, data, 0.999).train
    assert most is not None and most.epoch == len(data.train)
