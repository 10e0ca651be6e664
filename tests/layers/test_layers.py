import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import keras
import numpy as np
import pytest
from PIL import Image

from kerasimg import layers


def array(tensor):
    return keras.ops.convert_to_numpy(tensor)


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def test_drop_path_drops_whole_images_and_keeps_their_mean():
    found = array(layers.DropPath(0.25, seed=3)(np.ones((400, 2, 2, 3), "float32"), training=True))
    by_image = found.reshape(400, -1)
    assert (by_image == by_image[:, :1]).all()
    np.testing.assert_allclose(np.unique(by_image), [0, 4 / 3], rtol=1e-6)
    assert found.mean() == pytest.approx(1, abs=0.1)


def test_layer_scale_starts_with_one_small_factor_a_channel():
    layer = layers.LayerScale(0.01)
    images = random(2, 3, 3, 4)
    np.testing.assert_allclose(array(layer(images)), images * 0.01, rtol=1e-6)
    layer.gamma.assign([1, 2, 3, 4])
    np.testing.assert_allclose(array(layer(images)), images * [1, 2, 3, 4], rtol=1e-6)


def test_squeeze_excite_gates_channels_by_their_means():
    layer = layers.SqueezeExcite(ratio=0.5)
    images = random(2, 3, 4, 4)
    layer.build(images.shape)
    reduce, reduce_bias, expand, expand_bias = (random(*weight.shape, seed=n) for n, weight in enumerate(layer.weights))
    layer.set_weights([reduce, reduce_bias, expand, expand_bias])
    squeezed = np.maximum(images.mean(axis=(1, 2)) @ reduce[0, 0] + reduce_bias, 0)
    gates = sigmoid(squeezed @ expand[0, 0] + expand_bias)
    np.testing.assert_allclose(array(layer(images)), images * gates[:, None, None], rtol=1e-4, atol=1e-5)


def test_squeeze_excite_counts_its_channels_by_ratio_or_as_given():
    for arguments, squeezed in (({"ratio": 0.3}, 3), ({"ratio": 0.01}, 1), ({"units": 7}, 7)):
        layer = layers.SqueezeExcite(**arguments)
        layer.build((None, 4, 4, 10))
        assert layer.reduce.filters == squeezed


def test_global_response_norm_is_as_in_the_paper():
    layer = layers.GlobalResponseNorm()
    images = random(2, 3, 4, 5)
    np.testing.assert_array_equal(array(layer(images)), images)
    gamma, beta = random(5, seed=1), random(5, seed=2)
    layer.set_weights([gamma, beta])
    norms = np.sqrt((images**2).sum(axis=(1, 2), keepdims=True))
    expected = gamma * images * norms / (norms.mean(axis=-1, keepdims=True) + 1e-6) + beta + images
    np.testing.assert_allclose(array(layer(images)), expected, rtol=1e-4, atol=1e-5)


def test_gem_lies_between_average_and_maximum():
    images = np.abs(random(2, 3, 4, 5)) + 0.1
    np.testing.assert_allclose(array(layers.GeMPooling2D(p=1)(images)), images.mean(axis=(1, 2)), rtol=1e-5)
    np.testing.assert_allclose(array(layers.GeMPooling2D(p=60)(images)), images.max(axis=(1, 2)), rtol=0.1)
    np.testing.assert_allclose(
        array(layers.GeMPooling2D()(images)), (images**3).mean(axis=(1, 2)) ** (1 / 3), rtol=1e-4
    )


def test_blur_pool_spreads_a_point_by_the_binomial_filter():
    image = np.zeros((1, 5, 5, 1), "float32")
    image[0, 2, 2] = 16
    found = array(layers.BlurPool2D(strides=1)(image))[0, :, :, 0]
    np.testing.assert_array_equal(found[1:4, 1:4], [[1, 2, 1], [2, 4, 2], [1, 2, 1]])
    assert found.sum() == 16


@pytest.mark.parametrize("kernel_size", range(2, 8))
def test_blur_pool_leaves_a_plain_image_alone(kernel_size):
    found = array(layers.BlurPool2D(kernel_size)(np.full((1, 9, 8, 2), 3.0, "float32")))
    np.testing.assert_allclose(found, np.full((1, 5, 4, 2), 3.0), rtol=1e-6)


def test_patches_stand_row_by_row():
    image = np.arange(24, dtype="float32").reshape(1, 4, 6, 1)
    layer = layers.PatchEmbed(4, 2, use_bias=False)
    layer.build(image.shape)
    layer.set_weights([np.eye(4).reshape(2, 2, 1, 4)])
    tokens = array(layer(image))[0]
    np.testing.assert_array_equal(tokens[:4], [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11], [12, 13, 18, 19]])


def test_the_class_token_goes_first_and_can_be_taken():
    tokens = random(2, 4, 3)
    layer = layers.ClassToken(count=2)
    layer.build(tokens.shape)
    layer.set_weights([np.array([[[1, 2, 3], [4, 5, 6]]])])
    found = array(layer(tokens))
    np.testing.assert_array_equal(found[:, 2:], tokens)
    np.testing.assert_array_equal(array(layers.TakeToken()(found)), [[1, 2, 3]] * 2)
    np.testing.assert_array_equal(array(layers.TakeToken(1)(found)), [[4, 5, 6]] * 2)


def test_sincos_positions_differ_and_class_tokens_have_none():
    found = array(layers.PositionEmbedding("sincos", extra_tokens=1, grid=[3, 4])(np.zeros((1, 13, 16), "float32")))[0]
    assert not found[0].any()
    assert len(np.unique(found[1:].round(5), axis=0)) == 12
    # The place at the top left is 0: sin 0 and cos 1, of the column and of the row.
    np.testing.assert_array_equal(found[1], [0] * 4 + [1] * 4 + [0] * 4 + [1] * 4)
    np.testing.assert_allclose(found[2, :4], np.sin(1 / 10000 ** (np.arange(4) / 3)), rtol=1e-5)


def positioned(side, **arguments):
    image = keras.Input((side * side + arguments.get("extra_tokens", 0), 4))
    return keras.Model(image, layers.PositionEmbedding(**arguments, name="positions")(image))


def test_learned_positions_are_resized_when_they_are_loaded(tmp_path):
    small, large = positioned(4, extra_tokens=1), positioned(8, extra_tokens=1)
    y, x = np.mgrid[:4, :4] / 3
    grid = np.stack([y, x, y * 0 + 5, x * 0 - 7], axis=-1).reshape(1, 16, 4)
    small.get_layer("positions").embedding.assign(np.concatenate([np.full((1, 1, 4), 9.0), grid], axis=1))
    small.save_weights(tmp_path / "small.weights.h5")
    large.load_weights(tmp_path / "small.weights.h5")
    found = array(large.get_layer("positions").embedding)[0]
    np.testing.assert_array_equal(found[0], [9] * 4)
    np.testing.assert_allclose(found[1:, 2:], [[5, -7]] * 64, rtol=1e-5)
    map_ = found[1:].reshape(8, 8, 4)
    assert (np.diff(map_[:, 4, 0]) > 0).all()
    assert (np.diff(map_[4, :, 1]) > 0).all()
    np.testing.assert_allclose(map_[:, 4, 0] + map_[::-1, 4, 0], np.ones(8), atol=1e-4)


def test_the_grid_of_loaded_positions_need_not_be_square(tmp_path):
    def model(grid):
        image = keras.Input((grid[0] * grid[1], 4))
        return keras.Model(image, layers.PositionEmbedding(grid=grid, name="positions")(image))

    wide, tall = model([2, 8]), model([8, 2])
    columns = np.tile(np.arange(8.0)[None, :, None], (2, 1, 4)).reshape(1, 16, 4)
    wide.get_layer("positions").embedding.assign(columns)
    wide.save_weights(tmp_path / "wide.weights.h5")
    tall.load_weights(tmp_path / "wide.weights.h5")
    found = array(tall.get_layer("positions").embedding).reshape(8, 2, 4)
    np.testing.assert_allclose(found, np.tile(found[:1], (8, 1, 1)), atol=1e-4)
    assert (found[:, 1] > found[:, 0] + 2).all()


# Keras warns of what it skipped before it raises.
@pytest.mark.filterwarnings("ignore:Skipping nested container")
def test_positions_of_other_channels_are_refused(tmp_path):
    positioned(2).save_weights(tmp_path / "four.weights.h5")
    image = keras.Input((9, 8))
    other = keras.Model(image, layers.PositionEmbedding(name="positions")(image))
    with pytest.raises(ValueError, match="cannot be resized to"):
        other.load_weights(tmp_path / "four.weights.h5")


def attention_pixel_by_pixel(layer, image):
    """What WindowAttention gives, from the definition: which pixels see which, and how far apart they are."""
    height, width, channels = image.shape
    size, heads = layer.window_size, layer.num_heads
    depth = channels // heads
    table, qkv, qkv_bias, out, out_bias = (array(weight) for weight in layer.weights)
    full = (-(-height // size) * size, -(-width // size) * size)
    shift = [layer.shift if side > size else 0 for side in full]
    padded = np.zeros((*full, channels))
    padded[:height, :width] = image
    q, k, v = np.split(padded @ qkv + qkv_bias, 3, axis=-1)
    places = [(y, x) for y in range(full[0]) for x in range(full[1])]
    moved = {p: tuple((c - s) % f for c, s, f in zip(p, shift, full, strict=True)) for p in places}
    found = np.zeros((height, width, channels))
    for p in places[: full[0] * full[1]]:
        if p[0] >= height or p[1] >= width:
            continue
        window = [o for o in places if all(a // size == b // size for a, b in zip(moved[o], moved[p], strict=True))]
        scores = np.zeros((heads, len(window)))
        for n, o in enumerate(window):
            # In a window that holds both ends of the image, pixels from different ends do not see each other.
            apart = any((a < s) != (b < s) for a, b, s in zip(o, p, shift, strict=True) if s)
            dy, dx = (b - a + size - 1 for a, b in zip(moved[o], moved[p], strict=True))
            for head in range(heads):
                part = slice(head * depth, (head + 1) * depth)
                scores[head, n] = q[p][part] @ k[o][part] * depth**-0.5
                scores[head, n] += table[dy * (2 * size - 1) + dx, head] - 100 * apart
        shares = softmax(scores)
        seen = [
            sum(shares[head, n] * v[o][head * depth : (head + 1) * depth] for n, o in enumerate(window))
            for head in range(heads)
        ]
        found[p] = np.concatenate(seen) @ out + out_bias
    return found


@pytest.mark.parametrize(("height", "width", "shift"), [(6, 6, 0), (6, 9, 1), (7, 5, 2), (3, 8, 1), (2, 3, 2)])
def test_window_attention_is_as_defined_pixel_by_pixel(height, width, shift):
    layer = layers.WindowAttention(2, window_size=3, shift=shift)
    image = random(1, height, width, 4)
    layer.build(image.shape)
    layer.set_weights([random(*weight.shape, seed=n) for n, weight in enumerate(layer.weights)])
    np.testing.assert_allclose(array(layer(image))[0], attention_pixel_by_pixel(layer, image[0]), rtol=1e-3, atol=1e-4)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="only TensorFlow runs with sides that are not known"
)
def test_sides_may_be_unknown():
    for layer, shape in (
        (layers.WindowAttention(2, window_size=3, shift=1), (7, 3, 4)),
        (layers.PatchMerging(), (5, 4, 3)),
        (layers.PatchEmbed(4, 2), (5, 4, 3)),
        (layers.CoordChannels(), (5, 4, 3)),
        (layers.BlurPool2D(), (5, 4, 3)),
        (layers.CBAM(ratio=1), (5, 4, 3)),
        (layers.ChannelShuffle(2), (5, 4, 4)),
        (layers.Maxout(2), (5, 4, 4)),
    ):
        image = keras.Input((None, None, shape[-1]))
        model = keras.Model(image, layer(image))
        images = random(2, *shape)
        np.testing.assert_allclose(model.predict(images, verbose=0), array(layer(images)), rtol=1e-4, atol=1e-5)


def test_patch_merging_puts_columns_before_rows():
    layer = layers.PatchMerging(units=4)
    image = np.array([[1.0, 2.0], [3.0, 5.0]], "float32").reshape(1, 2, 2, 1)
    layer.build(image.shape)
    gamma, beta, kernel = np.ones(4), np.zeros(4), np.eye(4)
    layer.set_weights([gamma, beta, kernel])
    merged = np.array([1.0, 3.0, 2.0, 5.0])
    np.testing.assert_allclose(array(layer(image))[0, 0, 0], (merged - merged.mean()) / merged.std(), rtol=1e-4)


@pytest.mark.parametrize(("channels", "size"), [(8, 3), (64, 3), (128, 5), (256, 5), (512, 5), (1024, 5), (4096, 7)])
def test_the_kernel_of_channel_attention_grows_with_the_channels(channels, size):
    layer = layers.EfficientChannelAttention()
    layer.build((None, 4, 4, channels))
    assert layer.count_params() == size


def test_channel_attention_looks_at_neighbours_only():
    layer = layers.EfficientChannelAttention(kernel_size=3)
    images = np.abs(random(1, 2, 2, 6)) + 1
    layer.build(images.shape)
    layer.set_weights([np.array([1.0, 0.0, 0.0]).reshape(3, 1, 1)])
    gates = sigmoid(np.concatenate([[0], images.mean(axis=(1, 2))[0, :-1]]))
    np.testing.assert_allclose(array(layer(images)), images * gates, rtol=1e-5)


def test_cbam_without_an_opinion_halves_twice():
    layer = layers.CBAM()
    images = random(1, 4, 4, 3)
    layer.build(images.shape)
    layer.set_weights([np.zeros(weight.shape) for weight in layer.weights])
    np.testing.assert_allclose(array(layer(images)), images / 4, rtol=1e-6)


def test_coordinates_go_from_minus_1_to_1():
    found = array(layers.CoordChannels(radius=True)(np.zeros((2, 3, 5, 1), "float32")))
    np.testing.assert_allclose(found[1, :, 0, 1], [-1, 0, 1])
    np.testing.assert_allclose(found[0, 0, :, 2], [-1, -0.5, 0, 0.5, 1])
    assert found[0, 0, 0, 3] == pytest.approx(2**0.5)
    assert found[0, 1, 2, 3] == 0


def test_channels_are_shuffled_taken_and_maximized_in_order():
    channels = np.array([[1, 2, 3, 4, 6, 5]], "float32")
    np.testing.assert_array_equal(array(layers.ChannelShuffle(2)(channels)), [[1, 4, 2, 6, 3, 5]])
    np.testing.assert_array_equal(array(layers.TakeChannels(3, 1)(channels)), [[3, 4]])
    np.testing.assert_array_equal(array(layers.Maxout(2)(channels)), [[2, 4, 6]])


def test_cosine_logits_know_no_length():
    layer = layers.CosineHead(3, scale=10)
    features = random(4, 5)
    first = array(layer(features))
    np.testing.assert_allclose(array(layer(features * 7)), first, rtol=1e-4)
    kernel = array(layer.kernel)
    cosines = features @ kernel / np.linalg.norm(features, axis=1)[:, None] / np.linalg.norm(kernel, axis=0)
    np.testing.assert_allclose(first, 10 * cosines, rtol=1e-4, atol=1e-5)


def test_the_margin_widens_the_angle_of_the_true_class_in_training():
    layer = layers.CosineHead(3, scale=10, margin=0.5)
    features, labels = random(6, 5), np.array([0, 1, 2, 0, 1, 2])
    plain = array(layer(features, labels=labels))
    found = array(layer(features, labels=labels, training=True))
    true = np.eye(3)[labels].astype(bool)
    np.testing.assert_array_equal(found[~true], plain[~true])
    cosines = plain[true] / 10
    widened = np.where(cosines < -np.cos(0.5), cosines - 0.5 * np.sin(0.5), np.cos(np.arccos(cosines) + 0.5))
    np.testing.assert_allclose(found[true], 10 * widened, rtol=1e-3, atol=1e-3)


def test_whitened_patches_are_uncorrelated_and_of_equal_size():
    images = np.cumsum(random(9, 8, 7, 2), axis=1) + 3  # neighbours are alike
    layer = layers.PatchWhitening(kernel_size=2, epsilon=0)
    layer.build(images.shape)
    assert not layer.adapted
    layer.adapt([images[:4], images[4:]])
    assert layer.adapted
    found = array(layer(images)).reshape(-1, 16)
    np.testing.assert_array_equal(found[:, 8:], -found[:, :8])
    np.testing.assert_allclose(found[:, :8].T @ found[:, :8] / len(found), np.eye(8), atol=1e-3)
    whole = layers.PatchWhitening(kernel_size=2, epsilon=0)
    whole.adapt([images])
    np.testing.assert_allclose(array(whole.kernel), array(layer.kernel), rtol=1e-4, atol=1e-5)


def test_black_images_leave_the_filters_as_they_are():
    layer = layers.PatchWhitening()
    layer.adapt([np.zeros((2, 4, 4, 1))])
    assert not layer.adapted


def test_equal_scores_pool_to_the_mean():
    layer = layers.SequencePooling()
    tokens = random(2, 4, 3)
    layer.build(tokens.shape)
    layer.set_weights([np.zeros((3, 1)), np.zeros(1)])
    np.testing.assert_allclose(array(layer(tokens)), tokens.mean(axis=1), rtol=1e-5, atol=1e-6)
    layer.set_weights([np.array([[1000.0], [0], [0]]), np.zeros(1)])
    np.testing.assert_allclose(array(layer(tokens)), tokens[[0, 1], tokens[:, :, 0].argmax(axis=1)], rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: layers.DropPath(1.0), r"DropPath: rate must be in \[0, 1\), got 1.0"),
        (lambda: layers.SqueezeExcite(0), r"SqueezeExcite: ratio must be in \(0, 1\], got 0"),
        (lambda: layers.SqueezeExcite(units=0), "SqueezeExcite: units must be 1 or more, got 0"),
        (lambda: layers.GlobalResponseNorm(0), "epsilon must be above 0, got 0"),
        (lambda: layers.GeMPooling2D(p=0), "GeMPooling2D: p must be above 0, got 0"),
        (lambda: layers.BlurPool2D(8), r"BlurPool2D: kernel_size must be in \[2, 7\], got 8"),
        (lambda: layers.PatchWhitening(8), r"PatchWhitening: kernel_size must be in \[1, 7\], got 8"),
        (lambda: layers.PatchWhitening(epsilon=-1), "PatchWhitening: epsilon must be >= 0, got -1"),
        (lambda: layers.PatchEmbed(4, [2]), r"patch_size must be an integer >= 1 or 2 of them, got \[2\]"),
        (lambda: layers.ClassToken(0), "ClassToken: count must be 1 or more, got 0"),
        (lambda: layers.PositionEmbedding("sine"), "kind must be one of learned, sincos, got 'sine'"),
        (lambda: layers.WindowAttention(2, 7, 7), r"shift must be in \[0, window_size = 7\), got 7"),
        (lambda: layers.EfficientChannelAttention(4), "kernel_size must be odd and above 0, got 4"),
        (lambda: layers.CBAM(kernel_size=2), "CBAM: kernel_size must be odd and above 0, got 2"),
        (lambda: layers.Maxout(1), "Maxout: pieces must be 2 or more, got 1"),
        (lambda: layers.CosineHead(3, margin=2), r"CosineHead: margin must be in \[0, pi / 2\), got 2"),
        (lambda: layers.TakeChannels(2, 2), r"index must be in \[0, parts = 2\), got 2"),
        (lambda: layers.GridMask(ratio=1), r"GridMask: ratio must be in \(0, 1\), got 1"),
        (lambda: layers.RandAugmentPerImage(magnitude=9), r"magnitude must be in \[0, 1\], got 9"),
        (lambda: layers.TrivialAugment(value_range=[255, 0]), r"value_range must be \[low, high\]"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (layers.SqueezeExcite(), (4, 8), r"SqueezeExcite: expected images, \(N, H, W, C\), got shape \(None, 4, 8\)"),
        (layers.LayerScale(), (4, None), r"expected \(N, ..., C\) with C known"),
        (layers.ClassToken(), (4, 4, 8), r"ClassToken: expected tokens, \(N, T, C\)"),
        (layers.WindowAttention(3), (4, 4, 8), "8 channels cannot be divided among 3 heads"),
        (layers.PositionEmbedding("sincos"), (5, 8), "5 tokens, 0 of them extra, do not fill the grid of a square"),
        (layers.PositionEmbedding("sincos"), (4, 6), "sincos needs a multiple of 4 channels, got 6"),
        (layers.PatchEmbed(4, 16), (8, 8, 3), r"patches of \(16, 16\) do not fit into \(8, 8\)"),
        (layers.ChannelShuffle(4), (6,), "6 channels make no 4 groups"),
        (layers.TakeToken(4), (4, 2), "there are 4 tokens, no index 4"),
        (layers.Maxout(4), (6,), "6 channels cannot be grouped by 4"),
        (layers.BlurPool2D(7), (3, 8, 1), "kernel_size 7 needs 4 pixels"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(layer, shape, message):
    with pytest.raises(ValueError, match=message):
        layer(keras.Input(shape))


def test_channels_first_is_refused_with_the_remedy():
    before = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_first")
    try:
        for make in (lambda: layers.SqueezeExcite()(keras.Input((3, 8, 8))), layers.TrivialAugment):
            with pytest.raises(ValueError, match="works on channels_last only"):
                make()
    finally:
        keras.config.set_image_data_format(before)


@pytest.mark.parametrize(("before", "after"), [(14, 7), (7, 14), (14, 9), (4, 1), (5, 5)])
def test_positions_are_resized_as_pillow_resizes_and_so_alike_on_every_backend(before, after):
    values = random(before, before, 1)
    small, large = positioned_map(before), positioned_map(after)
    large.load_own_variables({"0": values[np.newaxis], "grid": np.array([before, before])})
    image = Image.fromarray(values[..., 0])
    expected = np.asarray(image.resize((after, after), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(array(large.embedding)[0, ..., 0], expected, atol=1e-5)
    assert small.embedding.shape == (1, before, before, 1)


def positioned_map(side):
    layer = layers.PositionEmbedding()
    layer.build((None, side, side, 1))
    return layer


def test_gem_of_a_constant_is_the_constant_whatever_the_exponent_and_the_values():
    for p, value in [(50.0, 30.0), (300.0, 1e4), (3.0, 1e20), (0.01, 30.0), (1000.0, 1e-3)]:
        found = array(layers.GeMPooling2D(p=p)(np.full((1, 4, 4, 2), value, "float32")))
        np.testing.assert_allclose(found, np.full((1, 2), value), rtol=1e-3)
    half = layers.GeMPooling2D(p=50.0, dtype="float16")(np.full((1, 4, 4, 2), 30, "float16"))
    np.testing.assert_allclose(array(half), np.full((1, 2), 30), rtol=1e-3)


def test_features_of_zero_have_no_gradient_in_the_cosine_head():
    tensorflow = pytest.importorskip("tensorflow")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("the gradient is taken by TensorFlow's tape")
    head = layers.CosineHead(3, scale=10, dtype="mixed_float16")
    features = tensorflow.Variable([[0.0] * 8, [1.0] * 8])
    with tensorflow.GradientTape() as tape:
        logits = head(features, training=True)[:, 0]
    gradient = np.array(tape.gradient(logits, features))
    assert np.isfinite(gradient).all()
    assert not gradient[0].any()
    assert gradient[1].any()


def test_norms_of_large_values_do_not_overflow():
    images = random(2, 3, 3, 4)
    head, response = layers.CosineHead(3), layers.GlobalResponseNorm()
    features = images.reshape(2, -1)
    head.build(features.shape)
    response.build(images.shape)
    response.gamma.assign([1.0, 2.0, 3.0, 4.0])
    for factor in (1e-3, 1.0, 1e4, 1e20, 1e25):
        np.testing.assert_allclose(array(head(features * factor)), array(head(features)), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(array(response(images * factor)) / factor, array(response(images)), rtol=2e-2)
    assert not array(response(np.zeros_like(images))).any()


def test_local_response_norm_divides_by_the_neighbouring_channels():
    values = np.array([[1.0, 2.0, 3.0, 4.0]], "float32")
    sums = np.array([1 + 4, 1 + 4 + 9, 4 + 9 + 16, 9 + 16])
    expected = values / (2 + 0.6 / 3 * sums) ** 0.5
    np.testing.assert_allclose(array(layers.LocalResponseNorm(3, 0.6, 0.5, 2.0)(values)), expected, rtol=1e-6)


def test_a_standardized_kernel_has_mean_0_and_variance_1_and_with_gain_the_norm_1():
    ones = np.ones((1, 3, 3, 2), "float32")
    for gain, size in ((False, 18.0), (True, 1.0)):
        layer = layers.StandardizedConv2D(2, 3, gain=gain, use_bias=False)
        assert np.abs(array(layer(ones))).max() < 1e-5
        units = np.eye(18, dtype="float32").reshape(18, 3, 3, 2)
        np.testing.assert_allclose((array(layer(units)) ** 2).sum(axis=0).reshape(-1), [size] * 2, rtol=1e-3)


def test_layer_scale_may_have_one_factor_and_channels_may_be_parted_unequally():
    layer = layers.LayerScale(0.5, shared=True)
    np.testing.assert_array_equal(array(layer(np.full((1, 2, 3), 4.0, "float32"))), np.full((1, 2, 3), 2.0))
    assert layer.count_params() == 1
    eighths = np.arange(8, dtype="float32")[None]
    np.testing.assert_array_equal(array(layers.TakeChannels(8, 3, 5)(eighths)), [[3, 4, 5, 6, 7]])
    with pytest.raises(ValueError, match=r"count must be in \[1, parts - index = 5\], got 6"):
        layers.TakeChannels(8, 3, 6)
