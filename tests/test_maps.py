"""The figure of maps over scans."""

import matplotlib.pyplot as plt
import numpy as np

from kdoct_utils.show.maps import maps_figure


def test_the_figure_has_a_column_for_every_map_and_marks_the_largest_pixel():
    images, masks = np.zeros((2, 16, 16), np.uint8), np.zeros((2, 16, 16), bool)
    masks[:, 3:6, 3:6] = True
    maps = {"a": np.random.default_rng(0).random((2, 16, 16)), "nothing": np.zeros((2, 16, 16))}
    figure = maps_figure(images, masks, maps, ["first", "second"], title="Where")
    axes = np.array(figure.axes).reshape(2, 3)
    assert [axis.get_title(plt.rcParams["axes.titlelocation"]) for axis in axes[0]] == ["lesion", "a", "nothing"]
    assert [len(axis.get_lines()) for axis in axes[1]] == [0, 2, 0]
    plt.close(figure)
