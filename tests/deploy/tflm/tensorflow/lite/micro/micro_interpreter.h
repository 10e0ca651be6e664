#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "classes.h"
#include "model_data.h"
#include "preprocess.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/schema/schema_generated.h"

typedef union TfLitePtrUnion {
  float* f;
  int8_t* int8;
} TfLitePtrUnion;
typedef struct TfLiteTensor {
  TfLitePtrUnion data;
} TfLiteTensor;

namespace tflite {
class MicroInterpreter {
 public:
  MicroInterpreter(const Model* model, const MicroOpResolver& op_resolver, uint8_t* tensor_arena,
                   size_t tensor_arena_size)
      : model_(model), arena_size_(tensor_arena_size) {
    (void)op_resolver;
    (void)tensor_arena;
    input_.data.int8 = values_;
    output_.data.f = found_;
  }
  TfLiteStatus AllocateTensors() {
    std::FILE* file = std::fopen("array.tflite", "wb");
    const bool written = std::fwrite(model_, 1, KERASIMG_MODEL_BYTES, file) == KERASIMG_MODEL_BYTES;
    std::fclose(file);
    return written ? kTfLiteOk : kTfLiteError;
  }
  TfLiteStatus Invoke() {
    std::FILE* file = std::fopen("in", "wb");
    std::fwrite(values_, 1, sizeof values_, file);
    std::fclose(file);
    const std::string command = std::string(std::getenv("PYTHON")) +
                                " -m kerasimg.deploy.embedded.micro_process array.tflite " +
                                std::to_string(arena_size_) + " < in > out 2> said";
    if (std::system(command.c_str()) != 0) return kTfLiteError;
    file = std::fopen("out", "rb");
    for (int c = 0; c != '\n';) c = std::fgetc(file);  // skips the line about the model
    const bool read = std::fread(found_, sizeof(float), KERASIMG_OUTPUTS, file) == KERASIMG_OUTPUTS;
    std::fclose(file);
    return read ? kTfLiteOk : kTfLiteError;
  }
  TfLiteTensor* input(size_t index) { return index == 0 ? &input_ : nullptr; }
  TfLiteTensor* output(size_t index) { return index == 0 ? &output_ : nullptr; }
  size_t arena_used_bytes() const { return arena_size_; }

 private:
  const Model* model_;
  size_t arena_size_;
  int8_t values_[KERASIMG_INPUT_BYTES];
  float found_[KERASIMG_OUTPUTS];
  TfLiteTensor input_, output_;
};
}  // namespace tflite
