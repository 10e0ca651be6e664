import keras

inputs = keras.Input((64, 64, 3))
scaled = keras.layers.Rescaling(1 / 255)(inputs)

# As usually printed, without padding="same", the branches do not concatenate: 31x31 against 30x30.
fine = keras.layers.Conv2D(32, 3, padding="same", activation="relu")(scaled)
fine = keras.layers.MaxPooling2D()(fine)

coarse = keras.layers.Conv2D(64, 5, padding="same", activation="relu")(scaled)
coarse = keras.layers.MaxPooling2D()(coarse)

x = keras.layers.Concatenate()([fine, coarse])
x = keras.layers.Flatten()(x)
x = keras.layers.Dense(128, activation="relu")(x)
outputs = keras.layers.Dense(10, activation="softmax")(x)
model = keras.Model(inputs, outputs)
