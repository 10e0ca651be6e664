"""Code for phones, pages and boards that a bundle's README shows, with this model's names and sizes.

The Kotlin and the Swift do the whole of the preprocessing from decoded pixels on, since what their platforms offer for
resizing takes no mean over what it shrinks. They differ from the reference decoder by 1 of 255 at most: weights are
doubles here, integers there. What decodes the file on a phone, and how it treats colour profiles, is the platform's.
"""

from __future__ import annotations

import re

from kerasimg.deploy.manifest import Manifest, ModelFile
from kerasimg.deploy.snippet_parts import (
    KOTLIN,
    KOTLIN_BOX,
    KOTLIN_FILTER,
    SWIFT,
    SWIFT_BOX,
    SWIFT_FILTER,
)
from kerasimg.spec.document import Image

LITERT = "2.3.0"
"""The version of LiteRT for Android and Apple whose documents the code follows."""


def kotlin(manifest: Manifest, image: Image, model: ModelFile) -> str:
    """Android, by LiteRT's CompiledModel: a bitmap in, probabilities out."""
    floats = model.input_dtype == "float32"
    written = {
        "float32": "{value}.toFloat()",
        "uint8": "{value}.toByte()",
        "int8": "({value} - 128).toByte()",
    }[model.input_dtype]
    height, width = image.size
    grey = "(19595 * red + 38470 * green + 7471 * blue + 32768) shr 16"
    values = [grey] if image.channels == 1 else ["red", "green", "blue"]
    channels = image.channels
    stores = "\n".join(
        f"    values[i * {channels}{f' + {place}' if place else ''}] = "
        + written.format(value=f"({value})" if channels == 1 else value)
        for place, value in enumerate(values)
    )
    text = _filled(
        KOTLIN,
        version=LITERT,
        path=model.path,
        write="writeFloat" if floats else "writeInt8",
        array="FloatArray" if floats else "ByteArray",
        height=height,
        width=width,
        channels=channels,
        outputs=_outputs(manifest),
        background=", ".join(map(str, image.background)),
        box=KOTLIN_BOX[image.resize],
        filter=KOTLIN_FILTER[image.interpolation],
        stores=stores,
    )
    return "\n".join(line for line in text.splitlines() if not _unused(line, text))


def swift(manifest: Manifest, image: Image, model: ModelFile) -> str:
    """Apple's systems, by LiteRT's CompiledModel: a CGImage in, probabilities out."""
    kind = {"float32": "Float", "uint8": "UInt8", "int8": "Int8"}[model.input_dtype]
    less = " - 128" if model.input_dtype == "int8" else ""
    height, width = image.size
    grey = "(19595 * pixel[0] + 38470 * pixel[1] + 7471 * pixel[2] + 32768) >> 16"
    values = [f"({grey})"] if image.channels == 1 else [f"pixel[{channel}]" for channel in range(3)]
    stores = "\n".join(f"      values.append({kind}({value}{less}))" for value in values)
    stem, _, extension = model.path.rpartition(".")
    red, green, blue = image.background
    return _filled(
        SWIFT,
        version=LITERT,
        path=model.path,
        stem=stem,
        extension=extension,
        kind=kind,
        height=height,
        width=width,
        channels=image.channels,
        outputs=_outputs(manifest),
        red=red,
        green=green,
        blue=blue,
        box=SWIFT_BOX[image.resize],
        filter=SWIFT_FILTER[image.interpolation],
        stores=stores,
    )


def javascript(manifest: Manifest, image: Image, model: ModelFile) -> str:
    """A page: of a web bundle its own classifier, of a .tflite file LiteRT.js by itself."""
    if model.runtime == "browser":
        return _JAVASCRIPT_PAGE
    height, width = image.size
    if model.batch != 1:
        return "// LiteRT.js takes one image at a time, and its model must say so: export with --batch 1"
    if model.input_dtype == "int8":
        return "// LiteRT.js takes float32 or uint8 inputs: export with --input-dtype uint8"
    plain = {"float32": "Float32Array.from(pixels)", "uint8": "pixels"}[model.input_dtype]
    return _filled(
        _JAVASCRIPT,
        path=model.path,
        shape=f"[1, {height}, {width}, {image.channels}]",
        input=plain,
        outputs=_outputs(manifest),
    )


def microcontroller(manifest: Manifest, image: Image, model: ModelFile) -> str:
    """TensorFlow Lite Micro: a camera's RGB in, the likeliest class out."""
    answer = "kerasimg_classes[std::max_element(found, found + KERASIMG_OUTPUTS) - found]"
    if manifest.task == "binary":
        answer = "kerasimg_classes[found[0] > kerasimg_thresholds[0]]"
    told = f"  return {answer};" if manifest.task != "multilabel" else "  return found;  // of each label, 0 to 1"
    kind = "const char*" if manifest.task != "multilabel" else "const float*"
    return _filled(_MICROCONTROLLER, kind=kind, told=told)


def _outputs(manifest: Manifest) -> str:
    if manifest.task == "binary":
        return "The probability of the second class of classes.json"
    one = "of each label by itself" if manifest.task == "multilabel" else "whose sum is 1"
    return f"{manifest.classes} probabilities, {one}, in the order of classes.json"


def _unused(line: str, text: str) -> bool:
    """Whether a line of Kotlin imports a function that the rest does not call."""
    imported = re.fullmatch(r"import kotlin\.math\.(\w+)", line)
    return imported is not None and len(re.findall(rf"\b{imported[1]}\b", text)) == 1


def _filled(pattern: str, **known: object) -> str:
    # What is filled in may itself have places for the sizes.
    for _ in range(2):
        pattern = re.sub(r"@(\w+)@", lambda found: str(known[found[1]]), pattern)
    return pattern


_JAVASCRIPT_PAGE = """\
// In a page from the same server as this folder; index.html is one, demo.html needs no server.
import { Classifier } from "./kerasimg/classifier.js";

const ready = Classifier.load("./");
document.querySelector("input[type=file]").addEventListener("change", async ({ target }) => {
  const classifier = await ready;
  const { label, ranked } = await classifier.classify(target.files[0]);
  console.log(label, ranked.slice(0, 5));
});"""

_JAVASCRIPT = """\
import { loadAndCompile, loadLiteRt, Tensor } from "@litertjs/core";

await loadLiteRt("node_modules/@litertjs/core/wasm/");
const model = await loadAndCompile("@path@", { accelerator: "wasm" });

// pixels: a Uint8Array of @shape@, 0-255; `kerasimg export --to web` brings the code that makes it of an image.
// @outputs@.
export async function probabilities(pixels) {
  const input = new Tensor(@input@, @shape@);
  const [output] = await model.run(input);
  const values = Array.from(output.toTypedArray());
  for (const tensor of [input, output]) tensor.delete();
  return values;
}"""

_MICROCONTROLLER = """\
#include <algorithm>

#include "classes.h"
#include "preprocess.h"
#include "tensorflow/lite/micro/micro_interpreter.h"

// rgb: 3 bytes a pixel; interpreter: as in main.cc; scratch: of kerasimg_scratch_bytes(width, height).
@kind@ classify(tflite::MicroInterpreter& interpreter, const uint8_t* rgb, int width, int height, void* scratch,
                     size_t scratch_bytes) {
  int8_t* input = interpreter.input(0)->data.int8;
  if (kerasimg_preprocess(rgb, width, height, width * 3, input, scratch, scratch_bytes) != KERASIMG_OK) return nullptr;
  if (interpreter.Invoke() != kTfLiteOk) return nullptr;
  const float* found = interpreter.output(0)->data.f;
@told@
}"""
