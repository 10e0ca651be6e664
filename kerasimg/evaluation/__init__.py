"""Evaluation of a trained model: predictions, scores, intervals, explanations. Nothing is imported here."""

from typing import Literal

Method = Literal[
    "grad_cam", "grad_cam_pp", "hires_cam", "integrated_gradients", "smooth_grad", "occlusion", "attention_rollout"
]
"""Methods of `kerasimg.explain`; here, so that the command line lists them without Keras."""
