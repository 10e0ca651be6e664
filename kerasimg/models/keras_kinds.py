"""The kinds of the arguments of Keras' classes, and the classes that a spec may not name.

Read from Keras' sources and docstrings, since its signatures carry no types. `keras_table.py` makes the
table of it; an argument that is not here, and has no default that tells its type, stops that.
"""

from __future__ import annotations

from typing import Final


def one_of(*texts: str) -> str:
    """Make the kind of a string from a closed list."""
    return "|".join(f"'{text}'" for text in texts)


def _each(names: str, kind: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), kind)


# "@" is the number of spatial dimensions, the digit in "Conv2D".
SPATIAL: Final = "int>0|[@ int>0]"
PADS: Final = "int>=0|[@ int>=0|[2 int>=0]]"
AXES: Final = "int|[int]"
SIGNED: Final = "float[-1,1]|[2 float[-1,1]]"
SHARE: Final = "float[0,1]|[2 float[0,1]]"

LEFT_OUT: Final = {
    "name",  # said elsewhere in a spec
    "losses.dtype",  # follows the policy of the model
    "metrics.dtype",
    "weights",  # arrays and objects
    "renorm_clipping",
    "quantization_config",
    "gptq_unpacked_column_size",
    "exclude_layers",  # regular expressions
}
"""Arguments that a spec cannot give."""

KINDS: Final[dict[str, str]] = {
    # every group
    **_each("seed", "int"),
    **_each("axis axes attention_axes", AXES),
    **_each("input_axes output_axes", "[int]"),
    "dtype": "dtype|null",
    "data_format": one_of("channels_first", "channels_last"),
    "trainable": "bool",
    # sizes and counts
    **_each("filters units input_dim output_dim num_heads key_dim value_dim head_dim", "int>0"),
    **_each("num_query_heads num_key_value_heads sliding_window lora_rank groups depth_multiplier", "int>0"),
    **_each("height width n bins num_ops num_chains chain_depth", "int>0"),
    **_each("kernel_size strides dilation_rate pool_size size output_size", SPATIAL),
    "output_padding": "int>=0|[@ int>=0]",
    "padding": one_of("valid", "same"),
    **_each(
        "Conv2D.padding DepthwiseConv2D.padding SeparableConv2D.padding",
        one_of("valid", "same", "symmetric") + "|int>=0|[2 int>=0]",  # see models/padding.py
    ),
    "Conv1D.padding": one_of("valid", "same", "causal"),
    "ZeroPadding1D.padding": "int>=0|[2 int>=0]",
    "Cropping1D.cropping": "int>=0|[2 int>=0]",
    **_each("ZeroPadding2D.padding ZeroPadding3D.padding cropping", PADS),
    "UpSampling1D.size": "int>0",
    "RandomGaussianBlur.kernel_size": "int>0|[2 int>0]",
    # shapes
    "target_shape": "[int>=-1]",
    "dims": "[int>0]",
    "shared_axes": "int>0|[int>0]",
    "noise_shape": "[int>0|null]",
    "MultiHeadAttention.output_shape": "int>0|[int>0]",
    "EinsumDense.output_shape": "int>0|[int>0|null]",
    "tile_grid_size": "[2 int>0]",
    # layers
    **_each("equation bias_axes monitor", "str"),
    **_each("BatchNormalization.axis RMSNormalization.axis Concatenate.axis", "int"),
    "Normalization.axis": "int|[int]|null",
    **_each("mean variance Rescaling.scale Rescaling.offset", "float|[float]"),
    "Dot.axes": "int>0|[2 int>0]",
    # Without its upper bound: where 1 leaves nothing of a map or a label, or an average that never moves.
    **_each("rate dropout dropout_rate label_smoothing rho ema_momentum", "float[0,1)"),
    **_each("momentum renorm_momentum stddev MinMaxNorm.rate", "float[0,1]"),
    "epsilon": "float>=0",
    **_each("ReLU.max_value ReLU.threshold negative_slope lora_alpha logit_soft_cap", "float>=0"),
    **_each("flash_attention", "bool"),
    "score_mode": one_of("dot", "concat"),
    "reverse_dtype": "dtype",
    # image layers
    "value_range": "[2 float]",
    **_each("factor brightness_factor height_factor width_factor", SIGNED),
    **_each("RandomZoom.height_factor RandomZoom.width_factor", "float(-1,1]|[2 float(-1,1]]"),
    **_each("contrast_factor saturation_factor hue_factor x_factor y_factor", SHARE),
    **_each("addition_factor threshold_factor CutMix.factor RandomElasticTransform.factor", SHARE),
    **_each("RandomElasticTransform.scale RandomErasing.factor RandomErasing.scale", SHARE),
    **_each("RandomGaussianBlur.factor sigma RandomInvert.factor RandomPerspective.factor", SHARE),
    **_each("RandomColorDegeneration.factor RandomContrast.factor RandomHue.factor", SHARE),
    **_each("RandomSaturation.factor RandomSharpness.factor", SHARE),
    **_each("AugMix.factor RandAugment.factor RandomGrayscale.factor RandomPerspective.scale", "float[0,1]"),
    "RandomPosterization.factor": "int[1,8]|[2 int[1,8]]",
    **_each("AugMix.alpha MixUp.alpha clip_limit", "float>0"),
    "fill_value": "float",
    "fill_mode": one_of("constant", "nearest", "reflect", "wrap"),
    "Resizing.fill_mode": one_of("constant"),
    "interpolation": one_of("nearest", "bilinear"),
    **_each(
        "Resizing.interpolation UpSampling2D.interpolation",
        one_of("nearest", "bilinear", "bicubic", "lanczos3", "lanczos5"),
    ),
    "RandomFlip.mode": one_of("horizontal", "vertical", "horizontal_and_vertical"),
    # initializers, regularizers, constraints
    **_each("initializers.mean value minval maxval gain", "float"),
    **_each("initializers.stddev initializers.scale", "float>0"),
    "VarianceScaling.mode": one_of("fan_in", "fan_out", "fan_avg"),
    "distribution": one_of("truncated_normal", "untruncated_normal", "uniform"),
    **_each("l1 l2 OrthogonalRegularizer.factor constraints.max_value constraints.min_value", "float>=0"),
    "OrthogonalRegularizer.mode": one_of("rows", "columns"),
    # optimizers and schedules
    "optimizers.learning_rate": "float>0|schedule",
    **_each("beta_1 beta_2 adam_beta_1 adam_beta_2", "float[0,1)"),
    "Lion.beta_1": "float(0,1)",
    **_each("learning_rate_power beta_2_decay", "float[-10,0]"),
    **_each("l1_regularization_strength l2_regularization_strength", "float>=0"),
    **_each("l2_shrinkage_regularization_strength Ftrl.beta", "float>=0"),
    **_each("weight_decay adam_weight_decay initial_accumulator_value epsilon_1 epsilon_2", "float>=0"),
    **_each("clipnorm clipvalue global_clipnorm clip_threshold loss_scale_factor adam_lr_ratio", "float>0"),
    **_each("ema_overwrite_frequency ns_steps decay_steps first_decay_steps", "int>0"),
    "gradient_accumulation_steps": "int>=2",
    "warmup_steps": "int>=0",
    **_each("initial_learning_rate end_learning_rate warmup_target", "float>=0"),
    **_each("decay_rate power m_mul", "float>0"),
    "t_mul": "float>=1",  # with shorter and shorter cycles, their sum is finite, and NaN after it
    "schedules.alpha": "float[0,1]",
    "boundaries": "[int>0]",
    "values": "[float>=0]",
    # losses and metrics
    "reduction": one_of("sum_over_batch_size", "sum", "mean", "mean_with_sample_weight", "none"),
    **_each("losses.axis metrics.axis", "int[1,1]|int[-1,-1]"),  # labels are (N, K); another axis is the batch
    **_each("Dice.axis Tversky.axis", "int[-2,1]|[int[-2,1]]"),
    "CategoricalFocalCrossentropy.alpha": "float>=0|[float>=0]",
    "losses.gamma": "float>=0",
    "delta": "float>0",
    "q": "float(0,1)",
    "ignore_class": "int",
    "BinaryFocalCrossentropy.alpha": "float[0,1]",
    **_each("threshold precision recall sensitivity specificity", "float[0,1]"),
    **_each("F1Score.threshold FBetaScore.threshold", "float(0,1]"),
    "thresholds": "float[0,1]|[float[0,1]]",
    "AUC.thresholds": "[float[0,1]]",
    "label_weights": "[float>=0]",
    **_each("num_thresholds num_labels k top_k", "int>0"),
    "num_classes": "int>=2",
    "AUC.num_thresholds": "int>=2",
    "class_id": "int>=0",
    "FBetaScore.beta": "float>0",
    "average": one_of("micro", "macro", "weighted"),
    "curve": one_of("ROC", "PR", "PRGAIN"),
    "summation_method": one_of("interpolation", "minoring", "majoring"),
    "metrics.name": "str",
    # callbacks
    "callbacks.mode": one_of("auto", "min", "max"),
    **_each("patience cooldown start_from_epoch", "int>=0"),
    **_each("min_delta min_lr", "float>=0"),
    "baseline": "float",
    "ReduceLROnPlateau.factor": "float(0,1)",
    "verbose": "int[0,1]",
    # backbones
    "alpha": "float>0",
    "pooling": one_of("avg", "max"),
}
"""Argument -> kind; "Class.argument" goes before "group.argument", and that before "argument"."""

_BASE = "it is a base class"
_CODE = "it runs code that the spec would have to bring"
_FILES = "it reads or writes files"
_WRAPS = "it wraps another layer"
_SEQUENCE = "it is for sequences in time"
_TABLE = "it is for text and tables, and can read files"
_AUDIO = "it is for audio"
_REGRESSION = "it is for regression"
_SEGMENTATION = "it is for segmentation"
_INPUT = "the input follows from the section 'image'"

REFUSED: Final[dict[str, dict[str, str]]] = {
    "layers": {
        **_each("Layer Wrapper", _BASE),
        **_each("Lambda TorchModuleWrapper JaxLayer FlaxLayer", _CODE),
        **_each("TFSMLayer", _FILES),
        **_each("Bidirectional TimeDistributed SpectralNormalization", _WRAPS),
        "Pipeline": "the section 'augment' is a list of layers already",
        **_each("RNN GRU GRUCell LSTM LSTMCell SimpleRNN SimpleRNNCell StackedRNNCells", _SEQUENCE),
        **_each("ConvLSTM1D ConvLSTM2D ConvLSTM3D", _SEQUENCE),
        **_each("CategoryEncoding Discretization HashedCrossing Hashing IntegerLookup", _TABLE),
        **_each("StringLookup TextVectorization", _TABLE),
        **_each("MelSpectrogram STFTSpectrogram", _AUDIO),
        "MaxNumBoundingBoxes": "it is for bounding boxes",
        **_each("Input InputLayer InputSpec", _INPUT),
    },
    "activations": {
        "glu": "it halves the channels, and an activation keeps the shape: write TakeChannels, a sigmoid and Multiply",
        "threshold": "it needs two numbers: write the layer ReLU with its 'threshold'",
    },
    "initializers": {"Initializer": _BASE, "STFT": _AUDIO},
    "regularizers": {"Regularizer": _BASE},
    "constraints": {"Constraint": _BASE},
    "optimizers": {
        "Optimizer": _BASE,
        "LossScaleOptimizer": "'precision' in the section 'fit' scales the loss where it must be",
        **_each("MultiOptimizer OptimizerMap", "it needs a function that sorts the variables"),
    },
    "schedules": {"LearningRateSchedule": _BASE},
    "losses": {"Loss": _BASE, "CTC": _SEQUENCE},
    "metrics": {
        "Metric": _BASE,
        **_each("Mean Sum", "it takes values, not labels and predictions"),
        "MeanMetricWrapper": _CODE,
        "Accuracy": "it compares labels with raw outputs; write 'accuracy'",
        **_each("BinaryIoU IoU MeanIoU OneHotIoU OneHotMeanIoU", _SEGMENTATION),
        **_each("ConcordanceCorrelation CosineSimilarity LogCoshError MeanAbsoluteError", _REGRESSION),
        **_each("MeanAbsolutePercentageError MeanSquaredError MeanSquaredLogarithmicError", _REGRESSION),
        **_each("PearsonCorrelation Poisson R2Score RootMeanSquaredError", _REGRESSION),
    },
    "callbacks": {
        **_each("Callback CallbackList", _BASE),
        **_each("LambdaCallback LearningRateScheduler", _CODE),
        **_each("BackupAndRestore CSVLogger ModelCheckpoint OrbaxCheckpoint TensorBoard", _FILES),
        **_each("History ProgbarLogger", "every run has it"),
        "RemoteMonitor": "it sends data to an address",
    },
}
"""Group -> class that a spec may not name -> why."""
