"""Code that a bundle's README shows, with this model's names and sizes: Python and C++; the Python is run by a test."""

from __future__ import annotations

from kerasimg.deploy.manifest import Manifest, ModelFile
from kerasimg.spec.document import Image, Interpolation

FILTERS: dict[Interpolation, str] = {
    "nearest": "NEAREST",
    "bilinear": "BILINEAR",
    "bicubic": "BICUBIC",
    "lanczos": "LANCZOS",
    "area": "BOX",
}
"""`interpolation` -> Pillow's name."""

NUMBERS = {"float32": "float", "uint8": "uint8_t", "int8": "int8_t"}
"""`input_dtype` -> C++."""


def python(manifest: Manifest, image: Image, model: ModelFile) -> str:
    """An image's file in, its likeliest classes out: with Pillow, NumPy and the runtime alone."""
    runtime = {"litert": _litert, "onnx": _onnx, "openvino": _openvino, "tensorflow": _tensorflow, "keras": _keras}
    imports, run = runtime[model.runtime](model)
    lines = [
        "import json",
        "from pathlib import Path",
        "",
        *sorted(["import numpy as np", *imports], key=lambda line: (line.startswith("from"), line)),
        _PILLOW,
    ]
    lines += ["", 'classes = json.loads(Path("classes.json").read_text(encoding="utf-8"))']
    lines += _pixels(image, model)
    return "\n".join([*lines, *run, *_told(manifest, model)])


def cpp(manifest: Manifest, image: Image, model: ModelFile) -> str:
    """Pixels in, probabilities out; reading and resizing images is left to the caller's own library."""
    height, width = image.size
    values = height * width * image.channels
    outputs = 1 if manifest.task == "binary" else manifest.classes
    return _CPP[model.runtime].format(
        path=model.path,
        number=NUMBERS[model.input_dtype],
        height=height,
        width=width,
        channels=image.channels,
        values=values,
        outputs=outputs,
        resize=""
        if model.batch
        else f"  model->ResizeInputTensor(model->inputs()[0], {{1, {height}, {width}, {image.channels}}});\n",
    )


_PILLOW = "from PIL import Image, ImageOps"


def _pixels(image: Image, model: ModelFile) -> list[str]:
    """The contract in Pillow's words, for images that are not transparent and have 8 bits."""
    height, width = image.size
    resampling = f"Image.Resampling.{FILTERS[image.interpolation]}"
    lines = ['image = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")']
    if image.resize == "stretch":
        lines.append(f"image = image.resize(({width}, {height}), {resampling})")
    elif image.resize == "crop":
        lines.append(f"image = ImageOps.fit(image, ({width}, {height}), {resampling})")
    else:
        lines += [
            f"inner = ImageOps.contain(image, ({width}, {height}), {resampling})",
            f'image = Image.new("RGB", ({width}, {height}), {tuple(image.background)})',
            f"image.paste(inner, (({width} - inner.width) // 2, ({height} - inner.height) // 2))",
        ]
    if image.channels == 1:
        lines.append('image = image.convert("L")')
    lines.append(f"pixels = np.asarray(image).reshape(1, {height}, {width}, {image.channels})")
    if model.input_dtype == "int8":
        lines.append("pixels = (pixels.astype(np.int16) - 128).astype(np.int8)")
    elif model.input_dtype == "float32":
        lines.append("pixels = pixels.astype(np.float32)")
    if model.batch and model.batch > 1:
        lines.append(f"pixels = np.repeat(pixels, {model.batch}, axis=0)")
    return lines


def _litert(model: ModelFile) -> tuple[list[str], list[str]]:
    run = [
        f'model = Interpreter("{model.path}")',
        'model.resize_tensor_input(model.get_input_details()[0]["index"], pixels.shape)',
        "model.allocate_tensors()",
        'model.set_tensor(model.get_input_details()[0]["index"], pixels)',
        "model.invoke()",
        'probabilities = model.get_tensor(model.get_output_details()[0]["index"])[0]',
    ]
    return ["from ai_edge_litert.interpreter import Interpreter"], run


def _onnx(model: ModelFile) -> tuple[list[str], list[str]]:
    run = [
        f'model = onnxruntime.InferenceSession("{model.path}")',
        "probabilities = model.run(None, {model.get_inputs()[0].name: pixels})[0][0]",
    ]
    return ["import onnxruntime"], run


def _openvino(model: ModelFile) -> tuple[list[str], list[str]]:
    run = [
        f'model = openvino.compile_model("{model.path}", "CPU", {{"INFERENCE_PRECISION_HINT": "f32"}})',
        "probabilities = model(pixels)[0][0]",
    ]
    return ["import openvino"], run


def _tensorflow(model: ModelFile) -> tuple[list[str], list[str]]:
    run = [
        f'model = tf.saved_model.load("{model.path}")',
        "probabilities = model.serve(tf.constant(pixels)).numpy()[0]",
    ]
    return ["import tensorflow as tf"], run


def _keras(model: ModelFile) -> tuple[list[str], list[str]]:
    run = [
        f'model = kerasimg.models.classifier.Classifier.open("{model.path}")',
        "probabilities = model.probabilities(pixels)[0]",
    ]
    return ["import kerasimg.models.classifier"], run


def _told(manifest: Manifest, model: ModelFile) -> list[str]:
    if manifest.task == "binary":
        threshold = (manifest.thresholds or [0.5])[0]
        return [f"print(classes[int(probabilities[0] > {threshold})], probabilities[0])"]
    if manifest.task == "multilabel":
        thresholds = manifest.thresholds or [0.5] * manifest.classes
        return [
            f"thresholds = {thresholds}",
            "print([name for name, p, t in zip(classes, probabilities, thresholds) if p > t])",
        ]
    return [
        'for place in np.argsort(-probabilities, kind="stable")[:5]:',
        '    print(f"{classes[place]} {probabilities[place]:.3f}")',
    ]


_CPP = {
    "litert": """\
#include "tensorflow/lite/interpreter.h"
#include "tensorflow/lite/kernels/register.h"
#include "tensorflow/lite/model.h"

// pixels: {height} x {width} x {channels}, row by row, 0-255; probabilities: {outputs}
void classify(const {number}* pixels, float* probabilities) {{
  static auto file = tflite::FlatBufferModel::BuildFromFile("{path}");
  static tflite::ops::builtin::BuiltinOpResolver operations;
  static std::unique_ptr<tflite::Interpreter> model;
  if (!model) tflite::InterpreterBuilder(*file, operations)(&model);
{resize}  model->AllocateTensors();
  std::copy(pixels, pixels + {values}, model->typed_input_tensor<{number}>(0));
  model->Invoke();
  std::copy_n(model->typed_output_tensor<float>(0), {outputs}, probabilities);
}}""",
    "onnx": """\
#include <onnxruntime_cxx_api.h>

// pixels: {height} x {width} x {channels}, row by row, 0-255; probabilities: {outputs}
void classify({number}* pixels, float* probabilities) {{
  static Ort::Env environment;
  static Ort::Session model(environment, "{path}", Ort::SessionOptions());
  static Ort::AllocatorWithDefaultOptions memory;
  static auto input = model.GetInputNameAllocated(0, memory), output = model.GetOutputNameAllocated(0, memory);
  const int64_t shape[] = {{1, {height}, {width}, {channels}}};
  auto place = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  auto given = Ort::Value::CreateTensor<{number}>(place, pixels, {values}, shape, 4);
  const char *from[] = {{input.get()}}, *to[] = {{output.get()}};
  auto found = model.Run(Ort::RunOptions(), from, &given, 1, to, 1);
  std::copy_n(found[0].GetTensorData<float>(), {outputs}, probabilities);
}}""",
    "openvino": """\
#include <openvino/openvino.hpp>

// pixels: {height} x {width} x {channels}, row by row, 0-255; probabilities: {outputs}
void classify({number}* pixels, float* probabilities) {{
  static ov::Core core;
  static auto model = core.compile_model("{path}", "CPU", ov::hint::inference_precision(ov::element::f32));
  static auto request = model.create_infer_request();
  request.set_input_tensor(ov::Tensor(ov::element::from<{number}>(), {{1, {height}, {width}, {channels}}}, pixels));
  request.infer();
  std::copy_n(request.get_output_tensor().data<float>(), {outputs}, probabilities);
}}""",
}
"""Runtime -> C++ for one image."""
