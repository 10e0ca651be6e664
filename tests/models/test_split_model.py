"""A model is cut behind what does not train, and what trains is the model's own."""

from typing import Any

import keras
import numpy as np
import pytest

from kerasimg.models.split_model import Split, split_frozen

layers = keras.layers


def images(size: int = 8, count: int = 4) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 255, (count, size, size, 3)).astype("float32")


def array(tensor: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(tensor)


def give_statistics(model: keras.Model) -> None:
    random = np.random.default_rng(1)
    for layer in model._flatten_layers():
        if isinstance(layer, layers.BatchNormalization):
            layer.moving_mean.assign(random.normal(size=layer.moving_mean.shape) * 0.1)
            layer.moving_variance.assign(random.uniform(0.5, 2, layer.moving_variance.shape))


@pytest.fixture(scope="module")
def mobile() -> tuple[keras.Model, keras.Model]:
    """(classifier, its backbone): MobileNetV2 nested in a model with a head."""
    base = keras.applications.MobileNetV2(alpha=0.35, weights=None, include_top=False, input_shape=(32, 32, 3))
    base.name = "base"
    image = keras.Input((32, 32, 3), name="image")
    x = base(layers.Rescaling(1 / 127.5, -1)(image))
    x = layers.Dropout(0.2, name="drop")(layers.GlobalAveragePooling2D(name="pool")(x))
    model = keras.Model(image, layers.Dense(5, activation="softmax", name="classes")(x))
    give_statistics(model)
    return model, base


def unfreeze(base: keras.Model, count: int) -> None:
    """As a stage of a spec does it: the last layers, but no batch statistics."""
    base.trainable = count > 0
    for place, layer in enumerate(base.layers):
        layer.trainable = place >= len(base.layers) - count and not isinstance(layer, layers.BatchNormalization)


def cut(model: keras.Model) -> Split:
    split = split_frozen(model)
    assert split is not None
    return split


@pytest.mark.parametrize("count", [0, 6, 25, 60])
def test_the_two_parts_give_what_the_model_gives_and_train_what_it_trains(mobile: Any, count: int):
    model, base = mobile
    unfreeze(base, count)
    split = cut(model)
    x = images(32)
    np.testing.assert_allclose(array(split.rest(split.frozen(x))), array(model(x)), atol=1e-6)
    assert {id(one) for one in split.rest.trainable_variables} == {id(one) for one in model.trainable_variables}
    assert not split.frozen.trainable_variables
    assert split.parameters + split.rest.count_params() == model.count_params()


def test_training_the_rest_trains_the_unfrozen_end_of_a_nested_backbone_and_nothing_else(mobile: Any):
    model, base = mobile
    unfreeze(base, 6)
    trained = {one.path for one in model.trainable_variables}
    assert 3 < len(trained) < 10
    split = cut(model)
    before = {one.path: array(one) for one in model.weights}
    split.rest.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    split.rest.train_on_batch(array(split.frozen(images(32), training=False)), np.array([0, 1, 2, 3]))
    changed = {one.path for one in model.weights if (array(one) != before[one.path]).any()}
    assert changed == trained


def test_pooling_without_weights_goes_with_the_frozen_part_and_drop_out_behind_it_does_not(mobile: Any):
    model, base = mobile
    unfreeze(base, 0)
    split = cut(model)
    assert split.shapes == [(1280,)]
    assert [layer.name for layer in split.rest.layers] == ["features", "drop", "classes"]
    assert split.silenced == ()


def test_what_enlarges_the_seam_stays_in_the_rest():
    image = keras.Input((8, 8, 3))
    frozen = layers.Conv2D(4, 3, strides=2, name="frozen", trainable=False)(image)
    x = layers.Activation("relu", name="act")(layers.UpSampling2D(4, name="up")(frozen))
    model = keras.Model(image, layers.Dense(2)(layers.Flatten()(layers.Conv2D(2, 3)(x))))
    assert cut(model).shapes == [(3, 3, 4)]


def test_a_cut_through_a_residual_block_has_two_tensors_at_its_seam():
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 1, trainable=False)(image)
    y = layers.Conv2D(6, 1, trainable=False)(x)
    y = layers.Conv2D(4, 1, name="trains")(y)
    model = keras.Model(image, layers.Dense(2)(layers.GlobalAveragePooling2D()(layers.Add()([x, y]))))
    split = cut(model)
    assert sorted(split.shapes) == [(8, 8, 4), (8, 8, 6)]
    np.testing.assert_allclose(array(split.rest(split.frozen(images()))), array(model(images())), atol=1e-4)


def test_drop_out_between_frozen_weights_is_silent_and_named():
    image = keras.Input((4, 4, 3))
    x = layers.Conv2D(4, 1, trainable=False)(image)
    x = layers.Conv2D(4, 1, trainable=False)(layers.Dropout(0.9, name="inside")(x))
    model = keras.Model(image, layers.Dense(2)(layers.Dropout(0.5, name="behind")(layers.GlobalMaxPooling2D()(x))))
    split = cut(model)
    assert split.silenced == ("inside",)
    assert "behind" in [layer.name for layer in split.rest.layers]


def test_augmentation_inside_the_model_ends_the_frozen_part():
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 1, trainable=False)(layers.RandomFlip()(image))
    assert split_frozen(keras.Model(image, layers.Dense(2)(layers.Flatten()(x)))) is None


def test_statistics_that_training_would_update_are_not_frozen():
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 1, trainable=False, name="conv")(image)
    x = layers.BatchNormalization(scale=False, center=False, name="norm")(x)
    split = cut(keras.Model(image, layers.Dense(2)(layers.GlobalAveragePooling2D()(x))))
    assert "norm" in [layer.name for layer in split.rest.layers]


@pytest.mark.parametrize("frozen", [True, False])
def test_there_is_no_cut_where_nothing_with_weights_is_frozen_or_nothing_trains(frozen: bool):
    image = keras.Input((8, 8, 3))
    x = layers.Dense(2, trainable=not frozen)(layers.Flatten()(layers.Rescaling(1 / 255)(image)))
    assert split_frozen(keras.Model(image, x)) is None


def test_layers_of_two_backbones_may_share_their_names():
    def backbone(name: str) -> keras.Model:
        image = keras.Input((8, 8, 3))
        x = layers.Conv2D(2, 3, name="conv_a", trainable=False)(image)
        return keras.Model(image, layers.Conv2D(2, 3, name="conv_b")(x), name=name)

    image = keras.Input((8, 8, 3))
    both = layers.Concatenate()([layers.Flatten()(backbone(name)(image)) for name in ("one", "two")])
    model = keras.Model(image, layers.Dense(2)(both))
    split = cut(model)
    np.testing.assert_allclose(array(split.rest(split.frozen(images()))), array(model(images())), rtol=1e-4)
    assert {id(one) for one in split.rest.trainable_variables} == {id(one) for one in model.trainable_variables}


def test_the_model_can_still_be_saved_and_read(mobile: Any, tmp_path: Any):
    model, base = mobile
    unfreeze(base, 6)
    cut(model)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(array(again(images(32))), array(model(images(32))), atol=1e-6)


def test_the_digest_changes_with_a_weight_and_with_a_layer_and_not_with_the_head():
    def made(kernel: float, activation: str, units: int) -> str:
        image = keras.Input((8, 8, 3))
        conv = layers.Conv2D(2, 1, trainable=False, activation=activation)
        x = layers.Dense(units)(layers.GlobalAveragePooling2D()(conv(image)))
        conv.set_weights([np.full((1, 1, 3, 2), kernel), np.zeros(2)])
        return cut(keras.Model(image, x)).digest

    same, other_head, other_weight, other_layer = (
        made(1, "relu", 2),
        made(1, "relu", 3),
        made(1.001, "relu", 2),
        made(1, "tanh", 2),
    )
    assert same == made(1, "relu", 2) == other_head
    assert len({same, other_weight, other_layer}) == 3
