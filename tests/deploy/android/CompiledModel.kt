// What the README's Kotlin uses of LiteRT, by the names and types of its sources; it computes nothing.
package com.google.ai.edge.litert

import android.content.res.AssetManager

enum class Accelerator { CPU, GPU, NPU }

class TensorBuffer {
  fun writeFloat(data: FloatArray) {}
  fun writeInt8(data: ByteArray) {}
  fun readFloat(): FloatArray = FloatArray(0)
}

class CompiledModel private constructor() : AutoCloseable {
  class Options constructor(vararg val accelerators: Accelerator)
  fun createInputBuffers(signatureIndex: Int = 0): List<TensorBuffer> = listOf()
  fun createOutputBuffers(signatureIndex: Int = 0): List<TensorBuffer> = listOf()
  fun run(inputs: List<TensorBuffer>, outputs: List<TensorBuffer>, signatureIndex: Int = 0) {}
  override fun close() {}
  companion object {
    fun create(assetManager: AssetManager, assetName: String, options: Options) = CompiledModel()
  }
}
