"""The Kotlin and the Swift that `snippets.py` fills in."""

from __future__ import annotations

from kerasimg.spec.document import Interpolation, ResizePolicy

KOTLIN = """\
// build.gradle.kts: implementation("com.google.ai.edge.litert:litert:@version@"). assets/: @path@, classes.json
import android.content.res.AssetManager
import android.graphics.Bitmap
import com.google.ai.edge.litert.Accelerator
import com.google.ai.edge.litert.CompiledModel
import kotlin.math.PI
import kotlin.math.abs
import kotlin.math.max
import kotlin.math.min
import kotlin.math.round
import kotlin.math.sin

class Classifier(assets: AssetManager) : AutoCloseable {
  private val model = CompiledModel.create(assets, "@path@", CompiledModel.Options(Accelerator.CPU))
  private val inputs = model.createInputBuffers()
  private val outputs = model.createOutputBuffers()

  /** @outputs@.  image: upright, ARGB_8888 in software memory. */
  fun probabilities(image: Bitmap): FloatArray {
    val argb = IntArray(image.width * image.height)
    image.getPixels(argb, 0, image.width, 0, 0, image.width, image.height)
    inputs[0].@write@(modelInput(argb, image.width, image.height))
    model.run(inputs, outputs)
    return outputs[0].readFloat()
  }

  override fun close() = model.close()
}

private val BACKGROUND = intArrayOf(@background@)

/** (1, @height@, @width@, @channels@). Not by Bitmap.createScaledBitmap: that takes no mean over what it shrinks. */
fun modelInput(argb: IntArray, width: Int, height: Int): @array@ {
@box@
  val across = taps(width, x0, x1, innerWidth)
  val down = taps(height, y0, y1, innerHeight)
  val rows = IntArray(innerWidth * height * 3)
  val sums = DoubleArray(3)
  for (y in 0 until height) for (x in 0 until innerWidth) {
    sums.fill(0.0)
    val (first, weights) = across[x]
    for (k in weights.indices) for (c in 0..2) sums[c] += weights[k] * opaque(argb[y * width + first + k], c)
    for (c in 0..2) rows[(y * innerWidth + x) * 3 + c] = byte(sums[c])
  }
  val values = @array@(@height@ * @width@ * @channels@)
  for (i in 0 until @height@ * @width@) {
    val (x, y) = Pair(i % @width@ - (@width@ - innerWidth) / 2, i / @width@ - (@height@ - innerHeight) / 2)
    val inside = x in 0 until innerWidth && y in 0 until innerHeight
    val (red, green, blue) = IntArray(3) { c ->
      if (!inside) return@IntArray BACKGROUND[c]
      val (first, weights) = down[y]
      byte(weights.indices.sumOf { k -> weights[k] * rows[((first + k) * innerWidth + x) * 3 + c] })
    }
@stores@
  }
  return values
}

/** For each pixel of a direction: the first that it is made of, and the weights. */
private fun taps(size: Int, from: Double, to: Double, out: Int) = List(out) { i ->
  val scale = (to - from) / out
@filter@
}

private fun opaque(argb: Int, channel: Int): Int {
  val (alpha, value) = Pair(argb ushr 24, argb shr (16 - 8 * channel) and 255)
  return (value * alpha + BACKGROUND[channel] * (255 - alpha) + 127) / 255
}

private fun byte(value: Double) = (value + 0.5).toInt().coerceIn(0, 255)"""

_KOTLIN_TAPS = """\
  val wide = max(scale, 1.0)
  val centre = from + (i + 0.5) * scale
  val first = max(0, (centre - @support@ * wide + 0.5).toInt())
  val last = min(size, (centre + @support@ * wide + 0.5).toInt())
  val raw = DoubleArray(last - first) { k -> filter((first + k - centre + 0.5) / wide) }
  val total = raw.sum()
  Pair(first, DoubleArray(raw.size) { k -> raw[k] / total })
}

private fun filter(x: Double): Double {
@weight@"""


def _kotlin_taps(support: str, *weight: str) -> str:
    # The function's closing brace is the pattern's own.
    return _KOTLIN_TAPS.replace("@support@", support).replace("@weight@", "\n".join(f"  {line}" for line in weight))


KOTLIN_FILTER: dict[Interpolation, str] = {
    "nearest": "  val at = (0 until i).fold(from + scale * 0.5) { sum, _ -> sum + scale }\n"
    "  Pair(min(size - 1, at.toInt()), doubleArrayOf(1.0))",
    "bilinear": _kotlin_taps("1.0", "return max(0.0, 1.0 - abs(x))"),
    "bicubic": _kotlin_taps(
        "2.0",
        "val d = abs(x)",
        "if (d < 1) return (1.5 * d - 2.5) * d * d + 1",
        "return if (d < 2) (((d - 5) * d + 8) * d - 4) * -0.5 else 0.0",
    ),
    "lanczos": _kotlin_taps(
        "3.0",
        "if (x == 0.0) return 1.0",
        "val p = PI * x",
        "return if (x >= -3 && x < 3) 3 * sin(p) * sin(p / 3) / (p * p) else 0.0",
    ),
    "area": _kotlin_taps("0.5", "return if (x > -0.5 && x <= 0.5) 1.0 else 0.0"),
}

KOTLIN_BOX: dict[ResizePolicy, str] = {
    "stretch": """\
  val (innerWidth, innerHeight) = Pair(@width@, @height@)
  val (x0, x1) = Pair(0.0, width.toDouble())
  val (y0, y1) = Pair(0.0, height.toDouble())""",
    "crop": """\
  val (innerWidth, innerHeight) = Pair(@width@, @height@)
  val boxWidth = min(width.toDouble(), height * @width@.0 / @height@)
  val boxHeight = min(height.toDouble(), width * @height@.0 / @width@)
  val (left, top) = Pair((width - boxWidth) / 2, (height - boxHeight) / 2)
  val (x0, x1) = Pair(left.toFloat().toDouble(), (left + boxWidth).toFloat().toDouble())
  val (y0, y1) = Pair(top.toFloat().toDouble(), (top + boxHeight).toFloat().toDouble())""",
    "pad": """\
  val wide = width.toLong() * @height@ > height.toLong() * @width@
  val innerWidth = if (wide) @width@ else max(1, round(width * @height@.0 / height).toInt())
  val innerHeight = if (wide) max(1, round(height * @width@.0 / width).toInt()) else @height@
  val (x0, x1) = Pair(0.0, width.toDouble())
  val (y0, y1) = Pair(0.0, height.toDouble())""",
}

SWIFT = """\
// Swift package: github.com/google-ai-edge/LiteRT, branch release/@version@, product LiteRT.
// In the app's bundle: @path@, classes.json
import CoreGraphics
import Foundation
import LiteRT

final class Classifier {
  private let model: CompiledModel
  private let inputs: [TensorBuffer]
  private let outputs: [TensorBuffer]

  init() throws {
    guard let path = Bundle.main.path(forResource: "@stem@", ofType: "@extension@") else {
      throw CocoaError(.fileNoSuchFile)
    }
    let options = try Options()
    try options.setHardwareAccelerators([.cpu])
    model = try CompiledModel(filePath: path, environment: Environment(), options: options)
    inputs = try model.createInputBuffers()
    outputs = try model.createOutputBuffers()
  }

  /// @outputs@.  image: upright.
  func probabilities(_ image: CGImage) throws -> [Float] {
    try inputs[0].write(modelInput(rgba(image), image.width, image.height))
    try model.run(inputs: inputs, outputs: outputs)
    return try outputs[0].read()
  }
}

/// The pixels as they are stored, over the background where they are transparent; nothing is scaled here.
private func rgba(_ image: CGImage) -> [UInt8] {
  var bytes = [UInt8](repeating: 255, count: image.width * image.height * 4)
  let stored = image.colorSpace.flatMap { $0.model == .rgb ? $0 : nil } ?? CGColorSpaceCreateDeviceRGB()
  let all = CGRect(x: 0, y: 0, width: image.width, height: image.height)
  bytes.withUnsafeMutableBytes { memory in
    let context = CGContext(
      data: memory.baseAddress, width: image.width, height: image.height, bitsPerComponent: 8,
      bytesPerRow: image.width * 4, space: stored, bitmapInfo: CGImageAlphaInfo.noneSkipLast.rawValue)!
    let background = [@red@, @green@, @blue@, 255].map { CGFloat($0) / 255 }
    context.setFillColor(CGColor(colorSpace: stored, components: background)!)
    context.fill(all)
    context.draw(image, in: all)
  }
  return bytes
}

/// (1, @height@, @width@, @channels@). Not by a smaller CGContext: that weighs what it shrinks in a way of its own.
func modelInput(_ rgba: [UInt8], _ width: Int, _ height: Int) -> [@kind@] {
@box@
  let across = taps(width, x0, x1, innerWidth)
  let down = taps(height, y0, y1, innerHeight)
  var rows = [Int](repeating: 0, count: innerWidth * height * 3)
  for y in 0..<height {
    for x in 0..<innerWidth {
      for c in 0..<3 {
        var sum = 0.0
        for (k, weight) in across[x].weights.enumerated() {
          sum += weight * Double(rgba[(y * width + across[x].first + k) * 4 + c])
        }
        rows[(y * innerWidth + x) * 3 + c] = byte(sum)
      }
    }
  }
  var values: [@kind@] = []
  values.reserveCapacity(@height@ * @width@ * @channels@)
  for outY in 0..<@height@ {
    for outX in 0..<@width@ {
      let (x, y) = (outX - (@width@ - innerWidth) / 2, outY - (@height@ - innerHeight) / 2)
      var pixel = [@red@, @green@, @blue@]
      if x >= 0 && x < innerWidth && y >= 0 && y < innerHeight {
        for c in 0..<3 {
          var sum = 0.0
          for (k, weight) in down[y].weights.enumerated() {
            sum += weight * Double(rows[((down[y].first + k) * innerWidth + x) * 3 + c])
          }
          pixel[c] = byte(sum)
        }
      }
@stores@
    }
  }
  return values
}

/// For each pixel of a direction: the first that it is made of, and the weights.
private func taps(_ size: Int, _ from: Double, _ to: Double, _ out: Int) -> [(first: Int, weights: [Double])] {
  let scale = (to - from) / Double(out)
  return (0..<out).map { i in
@filter@
}

private func byte(_ value: Double) -> Int { min(255, max(0, Int((value + 0.5).rounded(.down)))) }"""

_SWIFT_TAPS = """\
    let wide = max(scale, 1)
    let centre = from + (Double(i) + 0.5) * scale
    let first = max(0, Int(centre - @support@ * wide + 0.5))
    let last = min(size, Int(centre + @support@ * wide + 0.5))
    let raw = (first..<last).map { filter((Double($0) - centre + 0.5) / wide) }
    let total = raw.reduce(0, +)
    return (first, raw.map { $0 / total })
  }
}

private func filter(_ x: Double) -> Double {
@weight@"""


def _swift_taps(support: str, *weight: str) -> str:
    return _SWIFT_TAPS.replace("@support@", support).replace("@weight@", "\n".join(f"  {line}" for line in weight))


SWIFT_FILTER: dict[Interpolation, str] = {
    "nearest": "    let at = (0..<i).reduce(from + scale * 0.5) { sum, _ in sum + scale }\n"
    "    return (min(size - 1, Int(at)), [1.0])\n  }",
    "bilinear": _swift_taps("1", "max(0, 1 - abs(x))"),
    "bicubic": _swift_taps(
        "2",
        "let d = abs(x)",
        "if d < 1 { return (1.5 * d - 2.5) * d * d + 1 }",
        "return d < 2 ? (((d - 5) * d + 8) * d - 4) * -0.5 : 0",
    ),
    "lanczos": _swift_taps(
        "3",
        "if x == 0 { return 1 }",
        "let p = Double.pi * x",
        "return x >= -3 && x < 3 ? 3 * sin(p) * sin(p / 3) / (p * p) : 0",
    ),
    "area": _swift_taps("0.5", "x > -0.5 && x <= 0.5 ? 1 : 0"),
}

SWIFT_BOX: dict[ResizePolicy, str] = {
    "stretch": """\
  let (innerWidth, innerHeight) = (@width@, @height@)
  let (x0, x1) = (0.0, Double(width))
  let (y0, y1) = (0.0, Double(height))""",
    "crop": """\
  let (innerWidth, innerHeight) = (@width@, @height@)
  let boxWidth = min(Double(width), Double(height * @width@) / @height@)
  let boxHeight = min(Double(height), Double(width * @height@) / @width@)
  let (left, top) = ((Double(width) - boxWidth) / 2, (Double(height) - boxHeight) / 2)
  let (x0, x1) = (Double(Float(left)), Double(Float(left + boxWidth)))
  let (y0, y1) = (Double(Float(top)), Double(Float(top + boxHeight)))""",
    "pad": """\
  let isWide = width * @height@ > height * @width@
  let fittedWidth = (Double(width * @height@) / Double(height)).rounded(.toNearestOrEven)
  let fittedHeight = (Double(height * @width@) / Double(width)).rounded(.toNearestOrEven)
  let (innerWidth, innerHeight) = isWide ? (@width@, max(1, Int(fittedHeight))) : (max(1, Int(fittedWidth)), @height@)
  let (x0, x1) = (0.0, Double(width))
  let (y0, y1) = (0.0, Double(height))""",
}
