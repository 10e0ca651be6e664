"""Transfer learning as in tutorials, the baseline of `transfer.py`; runs as a separate process.

python benchmarks/transfer_tutorial.py FOLDER WEIGHTS SIZE EPOCHS AUGMENT(0|1)
"""

import argparse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("weights")
    for name in ("size", "epochs", "augment"):
        parser.add_argument(name, type=int)
    options = parser.parse_args()

    import tensorflow as tf

    folder, weights, size, epochs = options.folder, options.weights, options.size, options.epochs
    Generator = tf.keras.preprocessing.image.ImageDataGenerator
    scale = tf.keras.applications.mobilenet_v2.preprocess_input
    changes = {"rotation_range": 20, "width_shift_range": 0.2, "height_shift_range": 0.2, "horizontal_flip": True}
    common = {"target_size": (size, size), "batch_size": 32, "class_mode": "categorical"}
    train = Generator(preprocessing_function=scale, **(changes if options.augment else {}))
    train = train.flow_from_directory(f"{folder}/train", **common)
    plain = Generator(preprocessing_function=scale)
    validation = plain.flow_from_directory(f"{folder}/validation", shuffle=False, **common)
    test = plain.flow_from_directory(f"{folder}/test", shuffle=False, **common)

    base = tf.keras.applications.MobileNetV2(weights=weights, include_top=False, input_shape=(size, size, 3))
    base.trainable = False
    model = tf.keras.Sequential(
        [
            base,
            tf.keras.layers.GlobalAveragePooling2D(),
            tf.keras.layers.Dense(1024, activation="relu"),
            tf.keras.layers.Dense(train.num_classes, activation="softmax"),
        ]
    )
    model.compile(optimizer="adam", loss="categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(train, validation_data=validation, epochs=epochs, verbose=0)
    _, accuracy = model.evaluate(test, verbose=0)
    best = max(history.history["val_accuracy"])
    print(f"RESULT {history.history['val_accuracy'][-1]:.4f} {best:.4f} {accuracy:.4f}")


if __name__ == "__main__":
    main()
