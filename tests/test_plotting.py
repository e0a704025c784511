"""Plotting: what reaches the page, read back from the rendered pixels and the drawn artists."""

import sys

import jax.numpy as jnp
import numpy as np
import pytest

import jbism.data
import jbism.plotting

pytest.importorskip("matplotlib")

BOUNDS = (-1.0, 2.0, 0.0, 1.0)


def _render(figure):
    """Returns the figure's pixels ``[height, width, 3]`` in [0, 1]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3] / 255


def _contains(page, picture):
    """Whether a picture is on the page, pixel by pixel up to its 8 bits."""
    windows = np.lib.stride_tricks.sliding_window_view(page, picture.shape)[..., 0, :, :, :]
    corner = np.abs(windows[:, :, 0] - picture[0]).max(axis=(-2, -1)) < 0.01
    return any(np.abs(windows[y, x] - picture).max() < 0.01 for y, x in np.argwhere(corner))


def _framed(image, factor):
    """The picture of one grey image: enlarged, in a grey frame of one pixel."""
    picture = np.kron(image, np.ones((factor, factor)))
    return np.pad(picture, 1, constant_values=0.6)[..., None].repeat(3, axis=-1)


def _images(num, height, width, *channels, seed=0):
    return np.random.default_rng(seed).random((num, height, width, *channels))


def _texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts] + [
        text.get_text() for text in figure.texts
    ]


@pytest.mark.parametrize("titles", [None, ["a", "a longer title", "c", "d", "e"]])
@pytest.mark.parametrize("pixels", [5, 30])
def test_image_grid_shows_every_pixel_of_every_image_in_a_frame(titles, pixels):
    images = _images(5, 8, 6)
    page = _render(jbism.plotting.image_grid(images, columns=3, titles=titles, pixels=pixels))
    for image in images:
        assert _contains(page, _framed(image, {5: 1, 30: 4}[pixels]))
    assert not _contains(page, _framed(1 - images[0], {5: 1, 30: 4}[pixels]))


def test_image_grid_orders_by_rows_and_separates_by_white():
    images = np.stack([np.full((4, 4), level) for level in (0.0, 0.25, 0.75)])
    page = _render(jbism.plotting.image_grid(images, columns=2, pixels=4))[..., 0]

    def centre(level):
        return np.argwhere(np.abs(page - level) < 0.01).mean(axis=0)

    first, second, third = centre(0), centre(0.25), centre(0.75)
    np.testing.assert_allclose(second - first, (0, 9), atol=0.01)
    np.testing.assert_allclose(third - first, (9, 0), atol=0.01)
    row = page[int(first[0]), : int(second[1])]
    assert np.sum(np.diff(row > 0.99)) >= 3  # white page, first image, white gap, second image


def test_image_grid_clips_and_takes_colour(caplog):
    images = np.stack([np.full((4, 4), -3.0), np.full((4, 4), 3.0)])
    page = _render(jbism.plotting.image_grid(images, columns=2, pixels=4))
    assert not caplog.records  # matplotlib, left to clip for itself, would say so
    assert _contains(page, _framed(np.zeros((4, 4)), 1))
    assert _contains(page, _framed(np.ones((4, 4)), 1))
    colour = _images(1, 5, 5, 3)
    page = _render(jbism.plotting.image_grid(colour, columns=1, pixels=5))
    assert _contains(page, colour[0])
    single = jbism.plotting.image_grid(jnp.asarray(colour[..., :1]), columns=1, pixels=5)
    assert _contains(_render(single), _framed(colour[0, ..., 0], 1))


def _inside_page_and_apart(figure):
    """Whether all texts lie on the page and none overlaps another."""
    _render(figure)
    artists = [text for axes in figure.axes for text in axes.texts] + figure.texts
    boxes = [text.get_window_extent() for text in artists if text.get_text()]
    page = figure.bbox
    within = all(
        box.x0 >= 0 and box.y0 >= 0 and box.x1 <= page.x1 and box.y1 <= page.y1 for box in boxes
    )
    return within and not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])


def test_image_titles_stand_over_their_images_apart_from_each_other():
    titles = ["E = -1234.5", "b", "WWWWWWWW", "d", "e"]
    figure = jbism.plotting.image_grid(
        _images(5, 8, 8), columns=4, titles=titles, title="all of them", pixels=8
    )
    assert _texts(figure) == [*titles, "all of them"]
    assert _inside_page_and_apart(figure)
    with pytest.raises(ValueError, match="titles must be one for each of 5 images, got 1"):
        jbism.plotting.image_grid(_images(5, 8, 8), columns=4, titles=["a"])


def test_image_panels_title_each_grid():
    panels = {
        "data": _images(4, 8, 8, seed=1),
        "samples that start at the posterior of training images": _images(6, 5, 5, seed=2),
        "joint": _images(1, 8, 8, 1, seed=3),
    }
    figure = jbism.plotting.image_panels(panels, columns=2, pixels=16)
    assert [" ".join(text.split()) for text in _texts(figure)] == list(panels)
    assert _inside_page_and_apart(figure)
    page = _render(figure)
    for images in panels.values():
        assert _contains(page, _framed(images[-1].reshape(images.shape[1:3]), 16 // len(images[0])))
    lefts = [axes.get_window_extent().x0 for axes in figure.axes]
    for text, left in zip(figure.texts, lefts, strict=True):
        assert text.get_window_extent().x0 == pytest.approx(left, abs=2)
    with pytest.raises(ValueError, match="panels must hold at least one"):
        jbism.plotting.image_panels({})
    with pytest.raises(ValueError, match="per_row must be an integer >= 1, got 0"):
        jbism.plotting.image_panels({"a": np.zeros((1, 2, 2))}, per_row=0)


@pytest.mark.parametrize(
    ("num", "columns"),
    [(1, 1), (4, 2), (7, 7), (8, 4), (11, 8), (16, 4), (36, 6), (64, 8), (72, 9)],
)
def test_image_panels_are_full_where_they_can_be(num, columns):
    figure = jbism.plotting.image_panels({"a": _images(num, 4, 4)}, pixels=4)
    height, width = figure.axes[0].images[0].get_array().shape[:2]
    assert (height // 9, width // 9) == (-(-num // columns), columns)


@pytest.mark.parametrize("num", [1, 4])
def test_image_panels_have_a_title_above_theirs(num):
    panels = {f"{i}\nof {num}": _images(2, 4, 4) for i in range(num)}
    title = "what all of these panels show, and then some more"
    figure = jbism.plotting.image_panels(panels, columns=1, title=title)
    head, *texts = figure.texts
    assert head.get_text().split() == title.split()
    assert [text.get_text() for text in texts] == list(panels)  # broken where they say
    assert _inside_page_and_apart(figure)
    assert all(text.get_window_extent().y1 < head.get_window_extent().y0 for text in texts)


def test_image_panels_in_rows_hold_what_they_hold_side_by_side():
    images = np.linspace(0, 1, 3 * 2 * 4 * 4).reshape(3, 2, 4, 4)
    panels = dict(zip("abc", images, strict=True))
    beside = jbism.plotting.image_panels(panels, columns=2)
    rows = jbism.plotting.image_panels(panels, columns=2, per_row=2)
    for one, other in zip(beside.axes, rows.axes, strict=True):
        np.testing.assert_array_equal(one.images[0].get_array(), other.images[0].get_array())
    tops = [axes.get_position().y1 for axes in rows.axes]
    assert tops[0] == tops[1] > tops[2]
    assert rows.axes[2].get_position().x0 == rows.axes[0].get_position().x0
    boxes = [axes.get_position() for axes in rows.axes]
    assert boxes[2].y1 < boxes[0].y0


def test_reconstructions_stand_under_their_originals():
    originals, reconstructed = np.full((5, 4, 4), 0.25), np.full((5, 4, 4), 0.75)
    figure = jbism.plotting.reconstructions(originals, reconstructed, columns=3, pixels=4)
    assert _texts(figure) == ["original", "reconstruction"] * 2
    assert _inside_page_and_apart(figure)
    page = _render(figure)[..., 0]
    left = round(figure.axes[0].get_window_extent().x0)
    column = page[:, left + 3]
    levels = [level for level in np.round(column, 2) if level in (0.25, 0.75)]
    assert levels == [0.25] * 4 + [0.75] * 4 + [0.25] * 4 + [0.75] * 4
    labels = [text.get_window_extent() for text in figure.axes[0].texts]
    height = len(page)
    for label, level in zip(labels, (0.25, 0.75), strict=False):
        rows = np.flatnonzero(np.abs(column - level) < 0.01)[:4]
        assert (label.y0 + label.y1) / 2 == pytest.approx(height - rows.mean(), abs=3)
    with pytest.raises(ValueError, match="reconstructed must have the shape of originals"):
        jbism.plotting.reconstructions(originals, reconstructed[:4])


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (np.zeros((3, 8, 8), np.uint8), TypeError, "images must have a floating dtype"),
        (np.zeros((3, 64)), ValueError, r"images must have shape .* \(3, 64\)"),
        (np.zeros((3, 8, 8, 2)), ValueError, r"1 or 3\].*\(3, 8, 8, 2\)"),
        (np.zeros((0, 8, 8)), ValueError, "not be empty"),
        (np.full((3, 8, 8), np.nan), ValueError, "images must be finite, but index 0"),
    ],
)
def test_image_grid_rejects(images, error, message):
    with pytest.raises(error, match=message):
        jbism.plotting.image_grid(images, columns=2)


@pytest.mark.parametrize("argument", ["columns", "pixels"])
def test_image_grid_rejects_sizes(argument):
    with pytest.raises(ValueError, match=f"{argument} must be an integer >= 1"):
        jbism.plotting.image_grid(_images(2, 4, 4), **{"columns": 1, argument: 0})


def _grid(figure):
    return figure.axes[0].images[0].get_array()


def test_density_evaluates_at_cell_centres_lowest_row_first():
    figure = jbism.plotting.density(
        lambda v: jnp.log(v[:, 0] + 10 * v[:, 1] + 2), bounds=BOUNDS, resolution=4, title="p"
    )
    x = -1 + 3 * (np.arange(4) + 0.5) / 4
    y = (np.arange(4) + 0.5) / 4
    np.testing.assert_allclose(_grid(figure), x + 10 * y[:, None] + 2, rtol=1e-5)
    image = figure.axes[0].images[0]
    assert image.origin == "lower"
    assert tuple(image.get_extent()) == BOUNDS
    assert figure.axes[0].get_title() == "p"
    assert figure.axes[1].get_ylabel() == "density"
    grid = np.log(x + 10 * y[:, None] + 2)
    same = jbism.plotting.density(grid, bounds=BOUNDS)
    np.testing.assert_allclose(_grid(same), _grid(figure), rtol=1e-5)


def test_density_of_the_checkerboard_is_two_on_the_board():
    log_density = jbism.data.checkerboard_log_density
    figure = jbism.plotting.density(log_density, bounds=(0, 1, 0, 1), resolution=10)
    np.testing.assert_allclose(_grid(figure), np.kron(2 * np.eye(2), np.ones((5, 5))), rtol=1e-6)


def test_density_normalizes_an_energy_with_any_constant():
    figure = jbism.plotting.density(
        lambda v: 5000 - 0.5 * jnp.sum(v**2, axis=1), bounds=(-8, 8, -8, 8), normalize=True
    )
    assert _grid(figure).max() == pytest.approx(1 / (2 * np.pi), rel=5e-3)
    assert _grid(figure).sum() * (16 / 200) ** 2 == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize(
    ("log_density", "options", "message"),
    [
        (lambda v: v, {}, r"log_density\(points\) must have shape"),
        (np.zeros(3), {}, "log_density must have rank 2"),
        (np.array([[0, np.nan]]), {}, "log_density must be below infinity"),
        (np.array([[0, np.inf]]), {}, "log_density must be below infinity"),
        (np.array([[0, 1000.0]]), {}, "give normalize=True"),
        (np.full((2, 2), -np.inf), {"normalize": True}, "above -inf somewhere"),
        (np.zeros((2, 2)), {"resolution": 3}, "resolution must be None for values"),
        (np.zeros((2, 2)), {"bounds": (0, 0, 0, 1)}, "bounds must be left < right"),
    ],
)
def test_density_rejects(log_density, options, message):
    with pytest.raises(ValueError, match=message):
        jbism.plotting.density(log_density, **{"bounds": BOUNDS, **options})


def test_scatter_draws_every_point_and_counts_those_outside():
    points = np.random.default_rng(0).normal(size=(50, 2))
    figure = jbism.plotting.scatter(points, title="samples")
    np.testing.assert_allclose(figure.axes[0].collections[0].get_offsets(), points, rtol=1e-6)
    assert "outside" not in figure.axes[0].get_xlabel()
    bounded = jbism.plotting.scatter(points, bounds=(-1, 1, -0.5, 0.5)).axes[0]
    outside = np.sum((np.abs(points) > (1, 0.5)).any(axis=1))
    assert f"{outside} of 50 points lie outside" in bounded.get_xlabel()
    assert (*bounded.get_xlim(), *bounded.get_ylim()) == (-1, 1, -0.5, 0.5)
    with pytest.raises(ValueError, match="points must have shape"):
        jbism.plotting.scatter(np.zeros((4, 3)))
    with pytest.raises(ValueError, match="non-empty"):
        jbism.plotting.scatter(np.zeros((0, 2)))
    with pytest.raises(ValueError, match="points must be finite, but index 1"):
        jbism.plotting.scatter(np.array([[0, 0], [np.nan, 0]]))


def test_planes_draw_into_given_axes():
    from matplotlib.figure import Figure

    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert jbism.plotting.scatter(np.zeros((3, 2)), axes=left) is figure
    assert jbism.plotting.density(np.zeros((2, 2)), bounds=BOUNDS, axes=right) is figure
    assert len(left.collections) == 1
    assert len(right.images) == 1


def test_curves_draw_raw_values_under_their_moving_mean():
    steps = np.arange(0, 2000, 10)
    values = np.random.default_rng(0).normal(size=200)
    values[50] = np.nan
    series = {"loss": (steps, values), "score": ([1, 2], [3.0, 4.0])}
    figure = jbism.plotting.curves(series, x_label="iteration")
    raw, smooth = figure.axes[0].lines
    np.testing.assert_array_equal(raw.get_ydata(), values)
    expected = [np.nanmean(values[max(0, i - 4) : i + 5]) for i in range(200)]
    np.testing.assert_allclose(smooth.get_ydata(), expected, rtol=1e-10, atol=1e-12)
    assert raw.get_alpha() < 0.5
    assert smooth.get_zorder() >= raw.get_zorder()
    (few,) = figure.axes[1].lines
    np.testing.assert_array_equal(few.get_xydata(), [[1, 3], [2, 4]])
    assert few.get_marker() == "o"
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "score"]
    assert {axes.get_xlabel() for axes in figure.axes} == {"iteration"}


def test_curves_log_axis_only_where_asked():
    series = {"loss": ([0, 1], [1.0, 2.0]), "elbo": ([0, 1], [-1.0, 2.0])}
    figure = jbism.plotting.curves(series, log_y=["loss"])
    assert [axes.get_yscale() for axes in figure.axes] == ["log", "linear"]
    with pytest.raises(ValueError, match=r"'elbo' holds values <= 0, the least -1\.0"):
        jbism.plotting.curves(series, log_y=["elbo"])
    with pytest.raises(ValueError, match="log_y must be one of 'loss', 'elbo', got 'los'"):
        jbism.plotting.curves(series, log_y=["los"])


@pytest.mark.parametrize("log_y", [(), ("loss",)])
def test_curves_render_a_run_that_diverged(log_y):
    values = np.concatenate([np.linspace(3, 1, 50), [np.inf] * 50, [np.nan] * 100])
    page = _render(jbism.plotting.curves({"loss": (np.arange(200), values)}, log_y=log_y))
    blue = (page[..., 2] > page[..., 0] + 0.2).any(axis=0)
    columns = np.flatnonzero(blue)
    assert 0.1 * page.shape[1] < columns.min() < columns.max()


@pytest.mark.parametrize(
    ("series", "options", "message"),
    [
        ({}, {}, "series must hold at least one metric"),
        ({"a": ([0, 1], [1.0])}, {}, r"series\['a'\] must be steps and values"),
        ({"a": ([], [])}, {}, r"series\['a'\] must be steps and values"),
        ({"a": ([0], [1.0])}, {"smoothing": 2.0}, r"smoothing must be in \[0, 1\]"),
        ({"a": ([0], [1.0])}, {"columns": 0}, "columns must be an integer >= 1"),
    ],
)
def test_curves_reject(series, options, message):
    with pytest.raises(ValueError, match=message):
        jbism.plotting.curves(series, **options)


def test_save_writes_the_pixels_and_makes_folders(tmp_path):
    from matplotlib.image import imread

    figure = jbism.plotting.image_grid(_images(3, 8, 8), columns=2)
    path = tmp_path / "deep" / "images.png"
    jbism.plotting.save(figure, path)
    np.testing.assert_allclose(imread(path)[..., :3], _render(figure), atol=1e-6)
    jbism.plotting.save(figure, str(tmp_path / "deep" / "images.pdf"))
    assert (tmp_path / "deep" / "images.pdf").read_bytes().startswith(b"%PDF")
    assert sorted(file.name for file in path.parent.iterdir()) == ["images.pdf", "images.png"]


def test_save_that_fails_keeps_the_old_file_and_leaves_nothing_behind(tmp_path, monkeypatch):
    figure = jbism.plotting.curves({"a": ([0], [1.0])})
    path = tmp_path / "curves.png"
    path.write_bytes(b"old")

    def broken(name, **options):
        name.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(figure, "savefig", broken)
    with pytest.raises(OSError, match="disk full"):
        jbism.plotting.save(figure, path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_save_rejects_formats(tmp_path):
    figure = jbism.plotting.curves({"a": ([0], [1.0])})
    with pytest.raises(ValueError, match="path must end in a format's suffix"):
        jbism.plotting.save(figure, tmp_path / "curves")
    with pytest.raises(ValueError, match="nonsense"):
        jbism.plotting.save(figure, tmp_path / "curves.nonsense")
    assert not list(tmp_path.iterdir())


def test_missing_matplotlib_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'jbism\[experiments\]'"):
        jbism.plotting.scatter(np.zeros((3, 2)))


def test_plotting_does_without_pyplot(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it now raises
    figures = {
        "curves": jbism.plotting.curves({"a": ([0], [1.0])}),
        "density": jbism.plotting.density(np.zeros((2, 2)), bounds=BOUNDS),
        "images": jbism.plotting.image_grid(_images(2, 4, 4), columns=2),
    }
    for name, figure in figures.items():
        jbism.plotting.save(figure, tmp_path / f"{name}.png")
    assert len(list(tmp_path.iterdir())) == 3
