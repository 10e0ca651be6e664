// The model '@name@' on TensorFlow Lite Micro: runs the test vectors and checks the outputs.
//
// Build it with the library, model_data.cc, test_vectors.cc and preprocess.c. An application omits the vectors:
// it fills `input->data.int8` by kerasimg_preprocess(), calls Invoke(), and reads the probabilities.
#include <cmath>
#include <cstdint>
#include <cstdio>

#include "classes.h"
#include "model_data.h"
#include "preprocess.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/schema/schema_generated.h"
#include "test_vectors.h"

namespace {

alignas(16) uint8_t arena[KERASIMG_ARENA_BYTES];

// Optimized kernels may round differently from the reference kernels.
constexpr float kTolerance = 0.02f;

// Only the operations that the model uses.
using Operations = tflite::MicroMutableOpResolver<@operation_count@>;

TfLiteStatus Register(Operations& operations) {
@operations@
  return kTfLiteOk;
}

int MostLikely(const float* probabilities) {
  int best = 0;
  for (int i = 1; i < KERASIMG_OUTPUTS; i++) {
    if (probabilities[i] > probabilities[best]) best = i;
  }
  return best;
}

}  // namespace

int main() {
  const tflite::Model* model = tflite::GetModel(kerasimg_model);
  if (model->version() != TFLITE_SCHEMA_VERSION) {
    std::printf("the model is of schema %d, the library of %d\n", static_cast<int>(model->version()),
                TFLITE_SCHEMA_VERSION);
    return 1;
  }
  static Operations operations;
  if (Register(operations) != kTfLiteOk) return 1;
  static tflite::MicroInterpreter interpreter(model, operations, arena, sizeof(arena));
  if (interpreter.AllocateTensors() != kTfLiteOk) {
    std::printf("the arena of %d bytes is too small\n", KERASIMG_ARENA_BYTES);
    return 1;
  }
  std::printf("arena: %d of %d bytes\n", static_cast<int>(interpreter.arena_used_bytes()), KERASIMG_ARENA_BYTES);
  int failed = 0;
  for (int i = 0; i < KERASIMG_VECTORS; i++) {
    TfLiteTensor* input = interpreter.input(0);
    for (int k = 0; k < KERASIMG_INPUT_BYTES; k++) {
      input->data.int8[k] = static_cast<int8_t>(kerasimg_pixels[i][k] - 128);
    }
    if (interpreter.Invoke() != kTfLiteOk) return 1;
    const float* output = interpreter.output(0)->data.f;
    float difference = 0.0f;
    for (int k = 0; k < KERASIMG_OUTPUTS; k++) {
      difference = std::fmax(difference, std::fabs(output[k] - kerasimg_probabilities[i][k]));
    }
    const bool passed = difference <= kTolerance && MostLikely(output) == MostLikely(kerasimg_probabilities[i]);
    failed += !passed;
    std::printf("vector %d: %s %.3f, differs by %.4f: %s\n", i, kerasimg_classes[MostLikely(output)],
                static_cast<double>(output[MostLikely(output)]), static_cast<double>(difference), passed ? "ok" : "WRONG");
  }
  std::printf("%d of %d passed\n", KERASIMG_VECTORS - failed, KERASIMG_VECTORS);
  return failed ? 1 : 0;
}
