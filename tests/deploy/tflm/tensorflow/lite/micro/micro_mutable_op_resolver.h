#pragma once
typedef enum TfLiteStatus { kTfLiteOk = 0, kTfLiteError = 1 } TfLiteStatus;
#define TF_LITE_ENSURE_STATUS(a)      \
  do {                                \
    const TfLiteStatus s = (a);       \
    if (s != kTfLiteOk) return s;     \
  } while (0)
namespace tflite {
class MicroOpResolver {};
template <unsigned int tOpCount>
class MicroMutableOpResolver : public MicroOpResolver {
 public:
#define ADDS(name) \
  TfLiteStatus name() { return ++count_ <= tOpCount ? kTfLiteOk : kTfLiteError; }
  ADDS(AddConv2D)
  ADDS(AddDepthwiseConv2D)
  ADDS(AddMean)
  ADDS(AddFullyConnected)
  ADDS(AddDequantize)
  ADDS(AddSoftmax)
  ADDS(AddLogistic)
  ADDS(AddMaxPool2D)
  ADDS(AddReshape)

 private:
  unsigned int count_ = 0;
};
}  // namespace tflite
