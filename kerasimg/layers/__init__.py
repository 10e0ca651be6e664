"""Keras layers that Keras lacks, one class a file, written with keras.ops for every backend."""

from kerasimg.keras_internals import spare_tensorflow
from kerasimg.layers.alternating_flip import AlternatingFlip
from kerasimg.layers.attention_pooling import AttentionPooling
from kerasimg.layers.blur_pool import BlurPool2D
from kerasimg.layers.cbam import CBAM
from kerasimg.layers.channel_shuffle import ChannelShuffle
from kerasimg.layers.class_token import ClassToken
from kerasimg.layers.coord_channels import CoordChannels
from kerasimg.layers.cosine_head import CosineHead
from kerasimg.layers.drop_path import DropPath
from kerasimg.layers.efficient_channel_attention import EfficientChannelAttention
from kerasimg.layers.gelu import GELU
from kerasimg.layers.gem_pooling import GeMPooling2D
from kerasimg.layers.global_response_norm import GlobalResponseNorm
from kerasimg.layers.grid_mask import GridMask
from kerasimg.layers.layer_scale import LayerScale
from kerasimg.layers.local_response_norm import LocalResponseNorm
from kerasimg.layers.maxout import Maxout
from kerasimg.layers.patch_embed import PatchEmbed
from kerasimg.layers.patch_merging import PatchMerging
from kerasimg.layers.patch_whitening import PatchWhitening
from kerasimg.layers.position_embedding import PositionEmbedding
from kerasimg.layers.rand_augment_per_image import RandAugmentPerImage
from kerasimg.layers.self_attention import SelfAttention
from kerasimg.layers.sequence_pooling import SequencePooling
from kerasimg.layers.squeeze_excite import SqueezeExcite
from kerasimg.layers.standardized_conv import StandardizedConv2D
from kerasimg.layers.take_channels import TakeChannels
from kerasimg.layers.take_token import TakeToken
from kerasimg.layers.trivial_augment import TrivialAugment
from kerasimg.layers.window_attention import WindowAttention

spare_tensorflow()

__all__ = [
    "CBAM",
    "GELU",
    "AlternatingFlip",
    "AttentionPooling",
    "BlurPool2D",
    "ChannelShuffle",
    "ClassToken",
    "CoordChannels",
    "CosineHead",
    "DropPath",
    "EfficientChannelAttention",
    "GeMPooling2D",
    "GlobalResponseNorm",
    "GridMask",
    "LayerScale",
    "LocalResponseNorm",
    "Maxout",
    "PatchEmbed",
    "PatchMerging",
    "PatchWhitening",
    "PositionEmbedding",
    "RandAugmentPerImage",
    "SelfAttention",
    "SequencePooling",
    "SqueezeExcite",
    "StandardizedConv2D",
    "TakeChannels",
    "TakeToken",
    "TrivialAugment",
    "WindowAttention",
]
